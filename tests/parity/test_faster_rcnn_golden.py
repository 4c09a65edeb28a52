"""Faster R-CNN against the numbers that torchvision's gave, stored by make_goldens.py; torch is not needed."""

from pathlib import Path

import faster_rcnn_side
import numpy as np
from jax_side import assert_same

GOLDEN = Path(__file__).parents[1] / "goldens" / "faster_rcnn.npz"


def test_a_network_its_proposals_regions_losses_and_detections_are_torchvisions() -> None:
    """Of two images: three objects are in the first one, the second has none."""
    with np.load(GOLDEN) as file:
        stored = dict(file)
    shapes = {name.removeprefix("shape/"): tuple(stored.pop(name).tolist()) for name in list(stored)
              if name.startswith("shape/")}
    assert_same(faster_rcnn_side.numbers(shapes), stored)
    assert stored["valid"].all() and stored["rpn_boxes"][0] > 0 and stored["rpn_boxes"][1] == 0
