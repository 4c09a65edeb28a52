import pickle

import numpy as np
import pytest
from PIL import Image

from cvjax.data.crops import RandomResizedCrop, RandomSquareCrop, ResizeCenterCrop, random_box
from tests.data.pictures import encode, gradient


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (50, 50), (300, 20)])
@pytest.mark.parametrize("size, resize", [(16, None), (16, 20), (64, 72)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_centre_crop_equals_resize_then_crop(shape, size, resize, interpolation):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    short = resize or size
    height, width = (short if side == min(shape) else int(short * side / min(shape)) for side in shape)
    whole = Image.fromarray(picture).resize((width, height), Image.Resampling[interpolation.upper()])
    top, left = round((height - size) / 2), round((width - size) / 2)
    expected = np.asarray(whole)[top : top + size, left : left + size]
    out = ResizeCenterCrop(size, resize, interpolation)(encode(picture))
    # Pillow holds the box in float32, which on noise moves the edge of some pixels' filters.
    off = np.abs(out.astype(int) - expected)
    assert (off > 1).mean() < 0.04 and off.max() < 32 and off.mean() < 0.5


def test_centre_crop_of_its_own_size_changes_nothing():
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(ResizeCenterCrop(32)(encode(picture)), picture)


def test_random_boxes_have_the_stated_areas_and_ratios():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(rng, 500, 400, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)])
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= 500).all() and (left + w <= 400).all()
    area, ratio = h * w / 200_000, w / h
    assert area.min() > 0.075 and area.max() <= 1 and ratio.min() > 0.74 and ratio.max() < 1.35
    small = area < 0.4  # boxes that always fit: areas are uniform there, log-ratios symmetric
    assert abs(area[small].mean() - 0.24) < 0.01 and abs(np.log(ratio[small]).mean()) < 0.02


def test_fallback_is_the_largest_central_box():
    rng = np.random.default_rng(0)
    assert random_box(rng, 10, 1000, (0.9, 1.0), (3 / 4, 4 / 3)) == (0, 493, 10, 13)
    assert random_box(rng, 1000, 9, (0.9, 1.0), (3 / 4, 4 / 3)) == (494, 0, 12, 9)


def test_random_crop_shows_the_drawn_box_drafted_or_not():
    picture = gradient(800, 1200)
    crop = RandomResizedCrop(16)
    for seed in range(5):
        top, left, h, w = random_box(np.random.default_rng(seed), 800, 1200, crop.scale, crop.ratio)
        expected = (
            Image.fromarray(picture)
            .crop((left, top, left + w, top + h))
            .resize((16, 16), Image.Resampling.BOX)
        )
        for data in (encode(picture), encode(picture, "JPEG", quality=95)):
            out = crop(data, np.random.default_rng(seed))
            assert np.abs(out.astype(int) - np.asarray(expected)).max() <= 6


def test_square_crops_have_the_scale_of_the_short_side():
    """A ramp of one level a pixel: in the crop, neighbours differ by the scale."""
    ramp = np.broadcast_to(np.arange(250, dtype=np.uint8)[None, :, None], (200, 250, 3))
    slopes, lefts = [], []
    for seed in range(300):
        out = RandomSquareCrop(64, (100, 400))(ramp, np.random.default_rng(seed))[32, :, 0].astype(float)
        slopes.append((out[-2] - out[1]) / 61)
        lefts.append(out[0])
    shorts = 200 / np.array(slopes)  # a level is a pixel of the original
    assert 97 < shorts.min() < 110 and 380 < shorts.max() < 413  # the box has 32 to 128 whole pixels: up to 1.6 % off
    assert abs(shorts.mean() - 250) < 4 * 87 / 300**0.5  # uniform: deviation 300 / sqrt(12)
    assert min(lefts) < 10 and max(lefts) > 180
    fixed = {RandomSquareCrop(64, (128, 128))(ramp, np.random.default_rng(seed)).shape for seed in range(5)}
    assert fixed == {(64, 64, 3)}


def test_crops_pickle_and_depend_on_the_generator_alone():
    data = encode(gradient(40, 60))
    crops = RandomResizedCrop(8, channels=1), RandomSquareCrop(8, (9, 12), channels=1), ResizeCenterCrop(8, channels=1)
    for crop in crops:
        again = pickle.loads(pickle.dumps(crop))
        first, second = (c(data, np.random.default_rng(3)) for c in (crop, again))
        np.testing.assert_array_equal(first, second)
        assert first.shape == (8, 8, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomResizedCrop(0),
        lambda: RandomResizedCrop(8, scale=(0.5, 1.5)),
        lambda: RandomResizedCrop(8, ratio=(2, 1)),
        lambda: RandomSquareCrop(8, (7, 9)),
        lambda: RandomSquareCrop(8, (9, 8)),
        lambda: ResizeCenterCrop(8, 7),
        lambda: ResizeCenterCrop(8, interpolation="cubical"),
    ],
)
def test_impossible_settings_are_errors(make):
    with pytest.raises(ValueError, match="got|allowed"):
        make()
