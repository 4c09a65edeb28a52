"""One rule of cropping, wherever images are stored: in files, packed, cached, or in arrays."""

import jax
import numpy as np
import pytest

from cvjax.data.bad_files import BadFiles
from cvjax.data.crops import EvaluationCrop, RandomResizedCrop, ResizeCenterCrop
from cvjax.data.preprocessing import Preprocessing
from cvjax.data.sources import open_dataset
from cvjax.data.sources.packing import write_pack
from cvjax.workflow.image_inputs import ImageInputs
from tests.data.pictures import encode

SIDE = 8


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The same digits in colour as PNG files, a pack of these, and arrays: the `--data` of each."""
    root, digits = tmp_path_factory.mktemp("digits"), open_dataset("digits")
    arrays = {}
    for part, source in (("train", digits.train), ("test", digits.test)):
        images, labels = np.repeat(source.images[:40], 3, axis=3), source.labels[:40]
        order = np.argsort(labels, kind="stable")  # as a folder is read, class by class
        images, labels = images[order], labels[order]
        arrays |= {f"{part}_images": images, f"{part}_labels": labels}
        for i, (image, label) in enumerate(zip(images, labels)):
            folder = root / "folder" / part / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:03}.png").write_bytes(encode(image))
    np.savez(root / "digits.npz", **arrays)
    write_pack(str(root / "folder"), root / "pack")
    return {"folder": f"folder:{root / 'folder'}", "packed": f"packed:{root / 'pack'}",
            "npz": f"npz:{root / 'digits.npz'}"}


def seen(spec, cache, size):
    """The test part's images and labels, as an evaluation gets them."""
    dataset = open_dataset(spec, cache=cache)
    inputs = ImageInputs(dataset, size, 16, BadFiles(80), Preprocessing())
    batches = list(inputs.eval_batches("test"))
    mask = np.concatenate([batch["mask"] for batch in batches])
    images, labels = (np.concatenate([batch[name] for batch in batches])[mask] for name in ("image", "label"))
    np.testing.assert_array_equal(images[:2], inputs.records("test", [0, 1])[0])
    return images, labels


@pytest.mark.parametrize("size", [SIDE, 6, 12, 28])
def test_an_evaluation_sees_the_same_pictures_however_they_are_stored(stored, size):
    images, labels = seen(stored["npz"], False, size)
    assert images.shape == (40, size, size, 3) and images.dtype == np.uint8
    for kind, cache in (("folder", False), ("folder", True), ("packed", False), ("packed", True)):
        others, their_labels = seen(stored[kind], cache, size)
        np.testing.assert_array_equal(others, images, err_msg=f"{kind}, cached: {cache}")
        np.testing.assert_array_equal(their_labels, labels)
    original = open_dataset(stored["npz"]).test.images
    if size == SIDE:
        np.testing.assert_array_equal(images, original)
    else:
        crop = ResizeCenterCrop(size, int(size * 256 / 224))
        np.testing.assert_array_equal(images, np.stack([crop(image) for image in original]))


def test_photos_of_one_size_are_the_same_cached_and_not(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            (tmp_path / name / f"{i}.jpg").write_bytes(encode(rng.integers(0, 256, (48, 64, 3), np.uint8), "JPEG"))
    for size in (48, 32, 64):
        files, arrays = (seen(f"folder:{tmp_path}", cache, size)[0] for cache in (False, True))
        np.testing.assert_array_equal(files, arrays)


def test_arrays_of_any_number_of_channels_are_cropped_by_the_same_rule():
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 5), np.uint8)
    crop = EvaluationCrop(8, channels=5)(image)
    assert crop.shape == (8, 8, 5)
    for i in range(5):
        np.testing.assert_array_equal(crop[..., i:i + 1], ResizeCenterCrop(8, 9, channels=1)(image[..., i]))
    np.testing.assert_array_equal(EvaluationCrop(9, channels=5)(image[:, :9]), image[:, :9])


def test_training_without_cropping_takes_pictures_of_the_models_size_as_they_are(stored):
    """By the host for files and by the device for arrays: what is left is the normalisation, the same for both."""
    image = open_dataset(stored["npz"]).train.images[7]
    whole = RandomResizedCrop(SIDE, (1.0, 1.0))
    for seed in range(20):
        np.testing.assert_array_equal(whole(encode(image), np.random.default_rng(seed)), image)
    for kind in ("folder", "npz"):
        inputs = ImageInputs(open_dataset(stored[kind]), SIDE, 16, BadFiles(80), Preprocessing())
        np.testing.assert_array_equal(inputs.augment(jax.random.key(0), image), inputs.preprocess(image[None])[0])
