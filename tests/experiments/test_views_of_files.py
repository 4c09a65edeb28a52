"""Views of pictures in files: their crops are made where the picture is read, the same whenever they are read."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cvjax.data.augment import View
from cvjax.data.bad_files import BadFiles
from cvjax.data.preprocessing import Preprocessing
from cvjax.data.sources import open_dataset
from cvjax.workflow.image_inputs import ImageInputs
from cvjax.workflow.views import views_of, with_views
from tests.data.pictures import encode, photo

STILL = dict(flip=False, jitter=(0, 0, 0, 0), grayscale=0.0, blur=0.0)
MADE = ((View(size=16, scale=(0.4, 1.0), **STILL),) * 2, View(size=8, scale=(0.1, 0.4), **STILL), 3)


@pytest.fixture
def inputs(tmp_path: Path) -> ImageInputs:
    """Ten pictures of 30 x 40 pixels in files, one of which is damaged."""
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(encode(photo(30, 40, seed=i)))
    dataset = open_dataset(f"folder:{tmp_path}", seed=0)
    damaged = tmp_path / dataset.train.name(2)
    damaged.write_bytes(damaged.read_bytes()[:60])
    return ImageInputs(dataset, 16, 4, BadFiles(100, 0.5), Preprocessing())


def test_batches_have_the_shapes_that_are_said_and_go_on_where_they_stopped(inputs: ImageInputs) -> None:
    read = with_views(SimpleNamespace(squeeze=False), inputs, *MADE)
    stream = read.train_batches(seed=1, workers=0)
    batches = [next(stream) for _ in range(6)]
    said = {name: shape.shape for name, shape in read.batch_shapes().items()}
    assert {name: x.shape for name, x in batches[0].items()} == said
    assert said["global"] == (4, 2, 16, 16, 3) and said["local"] == (4, 3, 8, 8, 3) and "image" not in said
    again = read.train_batches(seed=1, workers=0)
    again.restore(stream.state() | {"next_batch": 3})
    for before, after in zip(batches[3:], again):
        assert all(np.array_equal(before[name], after[name]) for name in before)
    assert read.bad.count == 1
    stream.close()
    again.close()


def test_the_views_are_the_crops_that_were_read(inputs: ImageInputs) -> None:
    """With nothing left to chance but the boxes, the device changes no pixel; each view has its own box."""
    read = with_views(SimpleNamespace(squeeze=False), inputs, *MADE)
    batch = next(read.train_batches(seed=1, workers=0))
    example = {name: x[0] for name, x in batch.items()}
    for found, crops in zip(views_of(jax.random.key(0), example, *MADE), (example["global"], example["local"])):
        np.testing.assert_array_equal(found, crops)
        assert not np.array_equal(crops[0], crops[1])


def test_squeezed_pictures_are_one_square_and_their_sides(inputs: ImageInputs) -> None:
    read = with_views(SimpleNamespace(squeeze=True), inputs, *MADE)
    batch = next(read.train_batches(seed=1, workers=0))
    assert {name: x.shape for name, x in batch.items()} == {
        name: shape.shape for name, shape in read.batch_shapes().items()}
    assert batch["image"].shape == (4, 24, 24, 3) and batch["extent"][0].tolist() == [30, 40]
