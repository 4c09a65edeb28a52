"""The blood cells of BCCD, a data set of 364 photos in VOC's layout, if it is at hand."""

import os
from pathlib import Path

import numpy as np
import pytest

from cvjax.data.boxes import open_detection
from cvjax.data.boxes.annotations import EMPTY
from cvjax.data.boxes.canvas import to_original
from cvjax.data.boxes.crops import Letterbox
from cvjax.data.pipeline import eval_batches

PLACE = Path(os.environ.get("CVJAX_DATA", "data")) / "bccd"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PLACE.is_dir(), reason=f"there is no {PLACE}")]


def test_parts_and_what_is_odd():
    data = open_detection(f"voc:{PLACE}")
    assert data.class_names == ("Platelets", "RBC", "WBC") and (len(data.train), len(data.test)) == (292, 72)
    # In each of the two pictures one box is a single point.
    assert data.ignored == f"2 {EMPTY} (BloodImage_00338, BloodImage_00343)"
    parts = open_detection(f"voc:{PLACE}", validation=True)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (205, 87, 72)


def test_every_box_comes_back_from_the_canvas():
    data = open_detection(f"voc:{PLACE}")
    truth = data.test.ground_truth()
    for batch in eval_batches(data.test, Letterbox(240, 320, 40), batch_size=24):
        back = to_original(batch["boxes"], batch["scale"])
        for row in np.flatnonzero(batch["mask"]):
            known = truth[batch["index"][row]]
            # Numbers up to 640 in single precision, multiplied and divided once.
            np.testing.assert_allclose(back[row][batch["box_mask"][row]], known["boxes"], atol=1e-3)
            np.testing.assert_array_equal(batch["box_label"][row][batch["box_mask"][row]], known["box_label"])
