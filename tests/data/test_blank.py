"""Blank pictures: as many as asked for, read like any others."""

import numpy as np
import pytest

from cvjax.data.crops import ResizeCenterCrop
from cvjax.data.pipeline import eval_batches
from cvjax.data.sources import open_dataset
from cvjax.errors import DataError


def test_blank_pictures_are_as_many_and_as_large_as_asked_for():
    dataset = open_dataset("blank:60,20,3")
    assert (len(dataset.train), len(dataset.test), dataset.num_classes, dataset.channels) == (60, 2, 3, 3)
    batch = next(eval_batches(dataset.train, ResizeCenterCrop(16), batch_size=8))
    assert batch["image"].shape == (8, 16, 16, 3) and abs(batch["image"].astype(int) - 128).max() <= 1
    np.testing.assert_array_equal(batch["label"], np.arange(8) % 3)
    assert len(dataset.train.take(np.array([5, 7]))) == 2


@pytest.mark.parametrize("sizes", ["10", "10,20", "10,20,0", "10,x,3", "a,b,c,d"])
def test_other_sizes_are_refused(sizes):
    with pytest.raises(DataError, match="it must be blank:RECORDS,SIDE,CLASSES"):
        open_dataset(f"blank:{sizes}")
