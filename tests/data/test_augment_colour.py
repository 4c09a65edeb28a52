"""Colour operations against Pillow's, which computes them by other means (tables of 256 levels, C loops)."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cvjax.data import augment
from tests.data.augmenting import photo, quick

RNG = np.random.default_rng(0)
PICTURES = {
    "photo": photo(),
    "pale": photo() // 3 + 100,
    "noise": RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8),
    "flat": np.full((60, 80, 3), (7, 100, 255), np.uint8),
    # Every channel has one level but for a few pixels: the tables of `equalize` are then nearly empty.
    "spots": np.where(RNG.random((60, 80, 1)) < 0.01, RNG.integers(0, 256, (60, 80, 3)), 90).astype(np.uint8),
}
ENHANCERS = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color", "sharpness": "Sharpness"}
FACTORS = [0.0, 0.1, 0.37, 0.73, 1.0, 1.27, 1.9, 3.0]
PLAIN = {"invert": (), "autocontrast": (), "equalize": (), "posterize": (3,), "solarize": (100,)}


def batch(channels=3):
    return jnp.asarray(np.stack(list(PICTURES.values()))[..., :channels])


def by_pillow(operation, channels=3):
    pictures = [Image.fromarray(picture if channels == 3 else picture[..., 0]) for picture in PICTURES.values()]
    return np.stack([np.asarray(operation(picture)).reshape(60, 80, channels) for picture in pictures])


def levels_apart(ours, theirs):
    assert ours.dtype == jnp.uint8 and ours.shape == theirs.shape
    return np.abs(np.asarray(ours, int) - theirs)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", ENHANCERS)
def test_enhancements_are_those_of_pillow(name, channels):
    operation = quick(jax.vmap(getattr(augment, name), (0, None)))
    for factor in FACTORS:
        theirs = by_pillow(lambda picture: getattr(ImageEnhance, ENHANCERS[name])(picture).enhance(factor), channels)  # noqa: B023
        apart = levels_apart(operation(batch(channels), factor), theirs)
        # A product and a sum may be fused, and are then rounded once where Pillow rounds twice. Next to a whole
        # number this can change the level.
        assert apart.max() <= 1 and (apart > 0).mean() < 1e-3, f"factor {factor}"


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", PLAIN)
def test_point_operations_are_those_of_pillow(name, channels):
    ours = quick(jax.vmap(lambda image: getattr(augment, name)(image, *PLAIN[name])))(batch(channels))
    apart = levels_apart(ours, by_pillow(lambda picture: getattr(ImageOps, name)(picture, *PLAIN[name]), channels))
    # Pillow computes the stretched levels in floating point, and cuts some that should be whole to the one below.
    assert apart.max() <= (1 if name == "autocontrast" else 0)
    assert (apart > 0).mean() < 0.02


def test_autocontrast_rounds_down_exactly():
    ramp = jnp.arange(10, 61, dtype=jnp.uint8)[:, None, None]
    expected = [255 * (level - 10) // 50 for level in range(10, 61)]
    assert quick(augment.autocontrast)(ramp).ravel().tolist() == expected


@pytest.mark.parametrize("bits", range(9))
def test_posterize_keeps_the_highest_bits(bits):
    ramp = jnp.arange(256, dtype=jnp.uint8)[:, None, None]
    expected = [level // 2 ** (8 - bits) * 2 ** (8 - bits) for level in range(256)]
    assert quick(augment.posterize)(ramp, bits).ravel().tolist() == expected


@pytest.mark.parametrize("threshold", [0, 0.5, 26, 178.5, 255, 256])
def test_solarize_and_its_sum_decide_at_the_threshold(threshold):
    ramp = jnp.arange(256, dtype=jnp.uint8)[:, None, None]
    expected = [255 - level if level >= threshold else level for level in range(256)]
    assert quick(augment.solarize)(ramp, threshold).ravel().tolist() == expected
    expected = [min(level + 110, 255) if level < threshold else level for level in range(256)]
    assert quick(augment.solarize_add)(ramp, 110.0, threshold).ravel().tolist() == expected


def test_grayscale_is_the_luma_of_pillow():
    ours = quick(jax.vmap(augment.grayscale))(batch())
    theirs = by_pillow(lambda picture: picture.convert("L").convert("RGB"))
    assert levels_apart(ours, theirs).max() == 0


@pytest.mark.parametrize("shift", [-0.5, -0.13, 0.0, 0.1, 0.4])
def test_hue_turns_the_circle_of_hsv(shift):
    colours = np.concatenate([PICTURES["noise"].reshape(-1, 3)[:300], PICTURES["photo"].reshape(-1, 3)[:300],
                              [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 8]]])
    ours = quick(augment.hue)(jnp.asarray(colours, jnp.float32)[None], shift)[0]
    theirs = []
    for colour in colours / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        theirs.append(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value))
    np.testing.assert_allclose(ours, 255 * np.array(theirs), atol=2e-3)
    rounded = quick(augment.hue)(jnp.asarray(colours, jnp.uint8)[None], shift)[0]
    # Half-way cases fall to either side by the last digit.
    assert np.abs(np.asarray(rounded) - 255 * np.array(theirs)).max() < 0.5 + 2e-3


def test_hue_of_uint8_comes_back_after_a_whole_circle():
    picture = jnp.asarray(PICTURES["photo"])
    turn = quick(augment.hue)
    assert (np.asarray(turn(picture, 0.0)) == PICTURES["photo"]).all()
    assert levels_apart(turn(turn(picture, 0.5), -0.5), PICTURES["photo"]).max() <= 2


def with_arguments(name, *arguments):
    return name, quick(lambda image: getattr(augment, name)(image, *arguments))


OPERATIONS = dict([
    with_arguments("brightness", 1.3), with_arguments("contrast", 0.6), with_arguments("saturation", 1.7),
    with_arguments("sharpness", 1.8), with_arguments("hue", 0.2), with_arguments("grayscale"),
    with_arguments("invert"), with_arguments("posterize", 3), with_arguments("solarize", 100),
    with_arguments("solarize_add", 40.0), with_arguments("autocontrast"), with_arguments("equalize")])


@pytest.mark.parametrize("name", OPERATIONS)
def test_floats_are_treated_alike_without_rounding(name):
    operation, picture = OPERATIONS[name], jnp.asarray(PICTURES["photo"])
    for shape in ((9, 7, 3), (9, 7, 1), (2, 2, 3), (1, 1, 1)):
        for dtype in (jnp.uint8, jnp.float32):
            out = jax.eval_shape(operation, jax.ShapeDtypeStruct(shape, dtype))
            assert out.shape == shape and out.dtype == dtype
    whole, precise = np.asarray(operation(picture)), np.asarray(operation(picture.astype(jnp.float32)))
    assert precise.min() >= 0 and precise.max() <= 255
    # Besides the last rounding, the grey values within saturation, and the smoothed ones within sharpness, are whole.
    assert np.abs(whole - precise).max() <= 2
    if name in ("brightness", "contrast", "saturation", "sharpness", "hue", "autocontrast"):
        assert (precise != np.floor(precise)).any()


@pytest.mark.parametrize("name", ["saturation", "hue", "grayscale"])
def test_colour_of_one_channel_is_left_alone(name):
    grey = batch(1)[0]
    assert (OPERATIONS[name](grey) == grey).all()
    with pytest.raises(ValueError, match=r"an image must have 1 or 3 channels, got shape \(4, 4, 2\)"):
        OPERATIONS[name](jnp.zeros((4, 4, 2)))


def test_small_images_have_no_middle_to_sharpen():
    image = jnp.asarray(PICTURES["noise"][:2, :9])
    assert (quick(augment.sharpness)(image, 0.0) == image).all()


def detail(image):
    """Mean difference of neighbours."""
    return np.abs(np.diff(np.asarray(image, float), axis=1)).mean()


def test_a_photograph_changes_as_the_names_say():
    picture = jnp.asarray(PICTURES["photo"])
    before = np.asarray(picture, float)
    after = {name: np.asarray(operation(picture), float) for name, operation in OPERATIONS.items()}
    assert after["brightness"].mean() > before.mean() + 15
    assert after["contrast"].std() < 0.7 * before.std() and abs(after["contrast"].mean() - before.mean()) < 3
    spread = lambda image: (image.max(-1) - image.min(-1)).mean()  # noqa: E731
    assert spread(after["saturation"]) > 1.3 * spread(before) and spread(after["grayscale"]) == 0
    smooth = quick(augment.sharpness)(picture, 0.0)
    assert detail(after["sharpness"]) > 1.2 * detail(before) > 1.2 * 1.2 * detail(smooth)
    assert np.abs(after["hue"].max(-1) - before.max(-1)).max() == 0 and np.abs(after["hue"] - before).mean() > 5
    assert (after["invert"] + before == 255).all()
    assert len(np.unique(after["posterize"])) <= 8
    touched = before >= 100
    assert (after["solarize"][~touched] == before[~touched]).all() and 0.2 < touched.mean() < 0.9
    pale = jnp.asarray(PICTURES["pale"])
    stretched = np.asarray(OPERATIONS["autocontrast"](pale))
    assert (stretched.min((0, 1)) == 0).all() and (stretched.max((0, 1)) == 255).all()
    # A quarter of the pixels in each quarter of the levels, but for those of one level that cannot be parted.
    shares = np.histogram(np.asarray(OPERATIONS["equalize"](pale)), 4, (0, 256))[0] / before.size
    np.testing.assert_allclose(shares, 0.25, atol=0.06)
    assert np.histogram(np.asarray(pale), 4, (0, 256))[0].max() / before.size > 0.5
