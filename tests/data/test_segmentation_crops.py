"""An image and its label map stay one on top of the other; whole images of many sizes share a few padded ones."""

import pickle

import numpy as np
import pytest

from cvjax.data.bad_files import BadFiles
from cvjax.data.dataset import ArraySource
from cvjax.data.decode import DecodeError
from cvjax.data.label_maps.crops import PadLabelled, RandomLabelledCrop, bucket_sizes
from cvjax.data.pipeline import Stream, TrainBatches, eval_batches
from tests.data.pictures import encode


def discs(height=90, width=120):
    """A picture that is its own label map: white discs of label 1 on black 0."""
    rng, rows, columns = np.random.default_rng(0), np.arange(height)[:, None], np.arange(width)
    labels = np.zeros((height, width), np.uint8)
    for _ in range(8):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(5, 16)
        labels |= (rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 < radius**2
    return np.repeat(255 * labels[..., None], 3, axis=2), labels


@pytest.mark.parametrize("size", [(45, 60), (64, 64), (131, 200)])
@pytest.mark.parametrize("scale", [(0.2, 0.5), (0.5, 1.0), (1.5, 4.0)])
@pytest.mark.parametrize("upright", [True, False])
def test_labels_lie_on_their_pixels(size, scale, upright):
    """A picture of one edge, white on one side, is its own label map: how bright a line of pixels is says where the
    edge is, to a fraction of a pixel.

    A label's edge is that place rounded, to a pixel of what comes out or, where the picture is enlarged, of the source.
    Rounding is uniform, 0.29 of that pixel, 0.05 in the mean of 30 crops; labels that take the corner of a pixel in the
    place of its middle would be half of one off.
    """
    labels = np.zeros((80, 110), np.uint8)
    if upright:
        labels[:, :51] = 1
    else:
        labels[:37] = 1
    image = np.repeat(255 * labels[..., None], 3, axis=2)
    crop, off = RandomLabelledCrop(size, scale, 1.3), []
    for seed in range(120):
        window = crop._window(np.random.default_rng(seed), 80, 110)
        start, length, edge = (window[1], window[3], 51) if upright else (window[0], window[2], 37)
        if not 5 < edge - start < length - 5:
            continue
        example = crop(image, np.random.default_rng(seed), label_map=labels)
        assert example["image"].dtype == np.uint8 and example["label_map"].dtype == np.int32
        assert example["image"].shape == (*size, 3) and example["label_map"].shape == size
        pixels, found = example["image"][..., 0] / 255, example["label_map"]
        if not upright:
            pixels, found = pixels.T, found.T
        line = (found != 255).sum(axis=1).argmax()
        # Only up to the edge's other side, which is far from any padding.
        near = np.abs((np.arange(found.shape[1]) + 0.5) * length / found.shape[1] + start - edge) < 5
        shift = pixels[line, near].sum() - (found[line, near] == 1).sum()
        off.append(shift * min(1, length / found.shape[1]))
    assert len(off) > 30 and abs(np.mean(off)) < 0.2 and np.abs(off).max() < 0.7


def test_a_crop_of_the_whole_changes_nothing():
    image, labels = discs()
    example = RandomLabelledCrop((90, 120))(image, np.random.default_rng(0), label_map=labels)
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["label_map"], labels)


def test_half_of_the_images_are_mirrored_with_their_labels():
    image, labels = discs()
    mirrored = 0
    for seed in range(100):
        example = RandomLabelledCrop((90, 120), flip=True)(image, np.random.default_rng(seed), label_map=labels)
        np.testing.assert_array_equal(example["image"][..., 0] > 127, example["label_map"] == 1)
        mirrored += np.array_equal(example["label_map"], labels[:, ::-1])
    assert 35 <= mirrored <= 65  # 50 with a deviation of 5


def test_windows_have_the_stated_areas_proportions_and_places():
    crop, rng = RandomLabelledCrop((30, 60), (0.25, 4.0), 1.5), np.random.default_rng(0)
    top, left, h, w = np.array([crop._window(rng, 300, 400) for _ in range(2000)]).T
    area, aspect = np.log(h * w / 120_000), np.log(w / h / 2)
    assert area.min() > np.log(0.245) and area.max() < np.log(4.1) and abs(area.mean()) < 0.1  # uniform: 0.018
    assert abs(aspect).max() < np.log(1.52) and abs(aspect.mean()) < 0.03
    small, large = h <= 300, h >= 300
    assert (top[small] >= 0).all() and (top + h <= 300)[small].all()
    assert (top[large] <= 0).all() and (top + h >= 300)[large].all()
    assert len(set(top[h < 200].tolist())) > 50 and (left[w > 500] < 0).any()


def test_what_lies_beside_the_picture_does_not_count():
    image, labels = np.full((20, 20, 3), 255, np.uint8), np.zeros((20, 20), np.uint8)
    example = RandomLabelledCrop((40, 40), (4.0, 4.0))(image, np.random.default_rng(1), label_map=labels)
    assert (example["label_map"] == 0).sum() == 400 and (example["label_map"] == 255).sum() == 1200
    beside = example["label_map"] == 255
    assert (example["image"][beside] == (124, 116, 104)).all() and (example["image"][~beside] == 255).all()


def test_padding_keeps_every_pixel_and_grey_images_stay_grey():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for channels, beside in ((3, (124, 116, 104)), (1, (128,))):
        pixels = np.full((3, 4, channels), 7, np.uint8)
        example = PadLabelled((5, 8), channels)(encode(pixels.squeeze()), label_map=labels)
        assert example["image"].shape == (5, 8, channels) and example["label_map"].dtype == np.int32
        np.testing.assert_array_equal(example["label_map"][:3, :4], labels)
        assert (example["image"][:3, :4] == 7).all() and (example["image"][3:] == beside).all()
        assert (example["label_map"][3:] == 255).all() and (example["label_map"][:, 4:] == 255).all()


@pytest.mark.parametrize("crop", [RandomLabelledCrop((4, 6), flip=True), PadLabelled((4, 6))])
def test_crops_pickle_and_blank_rows_count_for_nothing(crop):
    example = pickle.loads(pickle.dumps(crop))(np.zeros((1, 1, 1), np.uint8), np.random.default_rng(0))
    assert example["image"].shape == (4, 6, 3) and (example["label_map"] == 255).all()


@pytest.mark.parametrize("make, message", [
    (lambda: RandomLabelledCrop((0, 3)), r"size must be height and width of at least 1, got \(0, 3\)"),
    (lambda: RandomLabelledCrop((3, 3), (0.5, 0.2)), "least <= greatest"),
    (lambda: RandomLabelledCrop((3, 3), ratio=0.5), "ratio must be at least 1, got 0.5"),
    (lambda: RandomLabelledCrop((3, 3), interpolation="nearest"), "allowed: bicubic, bilinear"),
    (lambda: PadLabelled((3,)), "height and width"), (lambda: bucket_sizes([[3, 4]], 0), "at least 1, got 0")])
def test_mistakes_say_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_label_map_of_another_size_and_a_large_image_are_records_that_cannot_be_read():
    image, labels = discs()
    for crop in (RandomLabelledCrop((8, 8)), PadLabelled((100, 120))):
        with pytest.raises(DecodeError, match="the label map is 90 x 119, its image 90 x 120"):
            crop(image, np.random.default_rng(0), label_map=labels[:, 1:])
    with pytest.raises(DecodeError, match="an image of 90 x 120 pixels does not fit into 100 x 100"):
        PadLabelled((100, 100))(image, label_map=labels)


class Labelled(ArraySource):
    """Pictures in memory with label maps; the map of the third one has another size."""

    def __getitem__(self, index):
        side = 9 if index == 2 else 8
        return super().__getitem__(index) | {"label_map": np.full((side, side), index, np.uint8)}


def test_batches_carry_label_maps_and_bad_ones_are_named_with_their_reason():
    source = Labelled(np.zeros((6, 8, 8, 3), np.uint8), np.full(6, -1, np.int32))
    bad = BadFiles(6, 0.5)
    first, second = eval_batches(source, PadLabelled((10, 12)), batch_size=4, bad=bad)
    assert first["label_map"].shape == (4, 10, 12) and first["label_map"].dtype == np.int32
    assert first["mask"].tolist() == [True, True, False, True] and (first["label_map"][2] == 255).all()
    assert second["mask"].tolist() == [True, True, False, False] and second["index"].tolist() == [4, 5, -1, -1]
    assert bad.reasons == {"index 2": "the label map is 9 x 9, its image 8 x 8"}
    bad = BadFiles(6, 0.5)
    with train_batches_of(source, bad) as batches:
        for _ in range(4):
            batch = next(batches)
            np.testing.assert_array_equal(batch["label_map"][:, 0, 0], batch["index"])
            assert 2 not in batch["index"] and (batch["label"] == -1).all()
    assert list(bad.reasons.values()) == ["the label map is 9 x 9, its image 8 x 8"]


class train_batches_of:
    """A stream that is closed at the end."""

    def __init__(self, source, bad):
        self.batches = TrainBatches(source, RandomLabelledCrop((4, 4), (0.5, 1)), Stream(3, seed=0), bad)

    def __enter__(self):
        return self.batches

    def __exit__(self, *_):
        self.batches.close()


def test_few_sizes_are_padded_to_themselves():
    sizes = np.array([[360, 480], [480, 360], [360, 480]])
    np.testing.assert_array_equal(bucket_sizes(sizes), sizes)


@pytest.mark.parametrize("count", [1, 7, 400, 3000])
def test_many_sizes_share_a_few(count):
    sizes = np.random.default_rng(count).integers(100, 500, (count, 2))
    buckets = bucket_sizes(sizes, 5)
    assert (buckets >= sizes).all() and len(np.unique(buckets, axis=0)) <= 5
    assert buckets.shape == sizes.shape
    if count > 100:  # one size for all costs 2.8 times the pixels
        assert buckets.prod(axis=1).sum() < 1.9 * sizes.prod(axis=1).sum()


def test_sizes_that_cost_least_are_joined():
    sizes = np.array([[100, 100]] * 50 + [[101, 100], [100, 300], [100, 310]])
    assert {tuple(b) for b in bucket_sizes(sizes, 2)} == {(101, 100), (100, 310)}
