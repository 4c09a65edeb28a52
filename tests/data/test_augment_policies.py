"""RandAugment and TrivialAugment: their draws, the effects on a picture, and compilation on every platform."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from cvjax.data import augment
from cvjax.data.augment import policies
from tests.data.augmenting import LIKELY, photo, quick

KEYS = jax.random.split(jax.random.key(0), 3000)
PHOTO = jnp.asarray(photo())
WARPS = ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"]
ENHANCEMENTS = ["brightness", "saturation", "contrast", "sharpness"]
TORCHVISION = [*WARPS, *ENHANCEMENTS, "posterize", "solarize", "autocontrast", "equalize", "identity"]
TIMM = [*TORCHVISION[:-1], "invert", "solarize_add"]
BIG_VISION = [*(name.replace("contrast", "big_vision_contrast") if name == "contrast" else name for name in TIMM),
              "cutout"]
HEIGHT, WIDTH = 100, 331
BLANK = jnp.zeros((HEIGHT, WIDTH, 1), jnp.float32)


def draws(monkeypatch, function):
    """`{operation: arguments}` over all keys; a picture's first two values tell what would have been done to it."""
    names = []

    def record(image, operations, index, argument, interpolation, fill, place):
        names[:] = operations
        return image.at[0, 0, 0].set(index).at[0, 1, 0].set(argument)

    monkeypatch.setattr(policies, "apply_operation", record)
    index, argument = np.asarray(quick(jax.vmap(lambda key: function(key, BLANK)[0, :2, 0]))(KEYS)).T
    return {name: argument[index == i] for i, name in enumerate(names)}


def assert_magnitudes(drawn, expected):
    """All operations equally often; of those with a sign, given as +-x around a middle, both equally often."""
    assert list(drawn) == list(expected)
    assert stats.chisquare([len(arguments) for arguments in drawn.values()]).pvalue > LIKELY
    for name, values in expected.items():
        np.testing.assert_allclose(np.unique(drawn[name]), sorted(values), atol=2e-3, err_msg=name)
        if len(values) == 2:
            lower = int((drawn[name] < np.mean(values)).sum())
            assert stats.binomtest(lower, len(drawn[name]), 0.5).pvalue > LIKELY, name


def test_random_augment_draws_torchvisions_operations(monkeypatch):
    """The numbers of bin 9 of 31, by hand; 150 / 331 of the sides at most."""
    drawn = draws(monkeypatch, lambda key, image: augment.random_augment(key, image, 1, 9))
    expected = dict.fromkeys(ENHANCEMENTS, (0.73, 1.27)) | {
        "shear_x": (-0.09, 0.09), "shear_y": (-0.09, 0.09), "translate_x": (-45, 45), "translate_y": (-13, 13),
        "rotate": (-9, 9), "posterize": (7,), "solarize": (178.5,), "autocontrast": (0,), "equalize": (0,),
        "identity": (0,)}
    assert_magnitudes(drawn, {name: expected[name] for name in TORCHVISION})


def test_random_augment_draws_timms_operations(monkeypatch):
    drawn = draws(monkeypatch, lambda key, image: augment.random_augment(key, image, 1, 9, table="timm"))
    expected = dict.fromkeys(ENHANCEMENTS, (0.19, 1.81)) | {
        "shear_x": (-0.27, 0.27), "shear_y": (-0.27, 0.27), "translate_x": (-134.055, 134.055),
        "translate_y": (-40.5, 40.5), "rotate": (-27, 27), "posterize": (1,), "solarize": (26,), "autocontrast": (0,),
        "equalize": (0,), "invert": (0,), "solarize_add": (99,)}
    assert_magnitudes(drawn, {name: expected[name] for name in TIMM})


def test_the_strongest_operations_of_timm_are_those_of_its_formulas(monkeypatch):
    drawn = draws(monkeypatch, lambda key, image: augment.random_augment(key, image, 1, 10, table="timm"))
    np.testing.assert_allclose(np.unique(drawn["contrast"]), (0.1, 1.9), atol=1e-6)
    assert set(drawn["posterize"]) == {0} and set(drawn["solarize"]) == {0} and set(drawn["solarize_add"]) == {110}


def test_magnitudes_of_timm_are_normal_up_to_their_bound(monkeypatch):
    drawn = draws(monkeypatch, lambda key, image: augment.random_augment(key, image, 1, 9, table="timm",
                                                                         magnitude_std=0.5))
    magnitudes = np.concatenate([np.abs(drawn["rotate"]) / 3, np.abs(drawn["shear_x"]) / 0.03,
                                 np.abs(drawn["shear_y"]) / 0.03])
    assert magnitudes.max() == pytest.approx(10)
    below = magnitudes[magnitudes < 9.99]
    assert stats.binomtest(len(below), len(magnitudes), stats.norm(9, 0.5).cdf(9.99)).pvalue > LIKELY
    assert stats.kstest(below, stats.truncnorm(-18, 1.98, 9, 0.5).cdf).pvalue > LIKELY


def test_trivial_augment_draws_each_of_its_bins(monkeypatch):
    drawn = draws(monkeypatch, augment.trivial_augment_wide)
    assert list(drawn) == TORCHVISION
    assert stats.chisquare([len(arguments) for arguments in drawn.values()]).pvalue > LIKELY
    for name, greatest in [("shear_x", 0.99), ("shear_y", 0.99), ("rotate", 135.0), ("brightness", 0.99),
                           ("saturation", 0.99), ("contrast", 0.99), ("sharpness", 0.99)]:
        bins = (drawn[name] - (1 if name in ENHANCEMENTS else 0)) / greatest * 30
        whole = np.round(bins).astype(int)
        np.testing.assert_allclose(bins, whole, atol=1e-3)
        assert stats.chisquare(np.bincount(np.abs(whole), minlength=31)).pvalue > LIKELY, name
        assert stats.binomtest(int((whole > 0).sum()), int((whole != 0).sum())).pvalue > LIKELY, name
    for name in ("translate_x", "translate_y"):
        assert set(np.abs(drawn[name])) == {32 * k // 30 for k in range(31)}
    assert set(drawn["posterize"]) == set(range(2, 9))
    # Levels are whole: what counts is the first that is inverted.
    assert set(np.ceil(drawn["solarize"])) == {math.ceil(255 - 8.5 * k) for k in range(31)}


def test_posterize_loses_bits_at_the_middles_of_its_steps():
    bits = lambda table: np.asarray(table(np.arange(31.0), 1.0, 1, 1)["posterize"]).astype(int).tolist()  # noqa: E731
    assert bits(policies._torchvision) == [8] * 4 + [7] * 8 + [6] * 7 + [5] * 8 + [4] * 4
    assert bits(policies._trivial_augment_wide) == [8] * 3 + [7] * 5 + [6] * 5 + [5] * 5 + [4] * 5 + [3] * 5 + [2] * 3


def test_random_augment_draws_big_visions_operations(monkeypatch):
    """Magnitude 10 is its greatest: 30 degrees, a factor of 1.9, 100 pixels, 4 bits, a square of 80 pixels."""
    expected = dict.fromkeys(["brightness", "saturation", "big_vision_contrast", "sharpness"], (1.9,)) | {
        "shear_x": (-0.3, 0.3), "shear_y": (-0.3, 0.3), "translate_x": (-100, 100), "translate_y": (-100, 100),
        "rotate": (-30, 30), "posterize": (4,), "solarize": (256,), "solarize_add": (110,), "cutout": (40,),
        "autocontrast": (0,), "equalize": (0,), "invert": (0,)}
    drawn = draws(monkeypatch, lambda key, image: augment.random_augment(key, image, 1, 10, table="big_vision"))
    assert_magnitudes(drawn, {name: expected[name] for name in BIG_VISION})
    drawn = draws(monkeypatch, lambda key, image: augment.random_augment(key, image, 1, 0, table="big_vision"))
    assert_magnitudes(drawn, {name: {"posterize": (0,), "solarize": (0,)}.get(
        name, (0.1,) if expected[name] == (1.9,) else (0,)) for name in BIG_VISION})


def test_big_visions_own_operations():
    """A square around a pixel, cut off at the border; contrast against the level of pixels / 256."""
    image = jnp.zeros((40, 60, 3), jnp.uint8)
    apply = lambda name, argument, image=image: np.asarray(policies.apply_operation(  # noqa: E731
        image, BIG_VISION, jnp.asarray(BIG_VISION.index(name)), argument, fill=FILL, place=jnp.array([3, 30])))
    out = apply("cutout", 10.0)
    assert (out[:13, 20:40] == FILL).all() and (out != 0).any(-1).sum() == 13 * 20
    assert (apply("big_vision_contrast", 0.0) == 40 * 60 // 256).all()
    assert (apply("big_vision_contrast", 1.9, image + 100) == int(9 + 1.9 * 91)).all()


@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_the_number_of_operations_is_that_asked_for(probability, monkeypatch):
    monkeypatch.setattr(policies, "apply_operation", lambda image, *_: image + 1)
    one = lambda key: augment.random_augment(key, jnp.zeros((1, 1, 1)), 3, 9, probability=probability)[0, 0, 0]  # noqa: E731
    counts = np.bincount(np.asarray(quick(jax.vmap(one))(KEYS)).astype(int), minlength=4)
    if probability == 1:
        assert counts.tolist() == [0, 0, 0, len(KEYS)]
    else:
        assert stats.chisquare(counts, len(KEYS) * stats.binom(3, probability).pmf(range(4))).pvalue > LIKELY


FILL = (10, 20, 30)


def by_pillow(name, argument, image):
    picture = Image.fromarray(image)
    height, width = image.shape[:2]
    matrices = {"shear_x": (1, argument, 0, 0, 1, 0), "shear_y": (1, 0, 0, argument, 1, 0),
                "translate_x": (1, 0, -argument, 0, 1, 0), "translate_y": (1, 0, 0, 0, 1, -argument)}
    enhancers = dict(brightness=ImageEnhance.Brightness, saturation=ImageEnhance.Color,
                     contrast=ImageEnhance.Contrast, sharpness=ImageEnhance.Sharpness)
    if name in matrices:
        return picture.transform((width, height), Image.Transform.AFFINE, matrices[name], fillcolor=FILL)
    if name == "rotate":
        return picture.rotate(argument, fillcolor=FILL)
    if name in enhancers:
        return enhancers[name](picture).enhance(argument)
    if name == "solarize_add":
        return picture.point([min(255, level + int(argument)) if level < 128 else level for level in range(256)] * 3)
    return {"posterize": lambda: ImageOps.posterize(picture, int(argument)),
            "solarize": lambda: ImageOps.solarize(picture, argument),
            "autocontrast": lambda: ImageOps.autocontrast(picture), "equalize": lambda: ImageOps.equalize(picture),
            "invert": lambda: ImageOps.invert(picture), "identity": lambda: picture}[name]()


@pytest.mark.parametrize("names", [TORCHVISION, TIMM], ids=["torchvision", "timm"])
def test_every_operation_is_that_of_pillow(names):
    argument = dict(shear_x=-0.13, shear_y=0.21, translate_x=11.0, translate_y=-7.0, rotate=24.0, brightness=0.5,
                    saturation=1.6, contrast=1.4, sharpness=1.9, posterize=3, solarize=120.5, solarize_add=90)
    apply = quick(lambda index, argument: policies.apply_operation(PHOTO, names, index, argument, fill=FILL))
    changed = []
    for index, name in enumerate(names):
        ours = np.asarray(apply(index, float(argument.get(name, 0))), int)
        apart = np.abs(ours - np.asarray(by_pillow(name, argument.get(name, 0), photo()))).max(-1)
        # Up to Pillow's own rounding; warps besides choose a neighbour where two are equally near.
        assert (apart > 1).mean() < (0.01 if name in WARPS else 1e-9), name
        assert (apart > 0).mean() < 0.03, name
        changed.append((ours != photo()).mean())
    assert all(share > 0.1 or name == "identity" for name, share in zip(names, changed))


POLICIES = {
    "torchvision": lambda key, image: augment.random_augment(key, image, 2, 15, fill=FILL[: image.shape[-1]]),
    "timm": lambda key, image: augment.random_augment(
        key, image, 2, 9, table="timm", magnitude_std=0.5, probability=0.5, interpolation="bilinear", fill=128),
    "big_vision": lambda key, image: augment.random_augment(
        key, image, 2, 2.5, table="big_vision", magnitude_std=0.5, fill=128),
    "trivial": augment.trivial_augment_wide,
}


@pytest.mark.parametrize("name", POLICIES)
def test_pictures_of_a_batch_change_each_in_its_own_way(name):
    batch = jnp.stack([PHOTO[::3, ::3]] * 32)
    policy = quick(jax.vmap(POLICIES[name]))
    out = np.asarray(policy(KEYS[:32], batch))
    assert out.dtype == np.uint8 and out.shape == batch.shape
    changed = (out != np.asarray(batch)).any((1, 2, 3))
    assert 0.4 < changed.mean()
    assert len(np.unique(out.reshape(32, -1), axis=0)) > 0.8 * changed.sum()
    assert (policy(KEYS[:32][::-1], batch)[::-1] == out).all(), "a picture does not depend on its batch"
    for shape, dtype in [((9, 7, 1), jnp.uint8), ((9, 7, 3), jnp.float32)]:
        like = jax.eval_shape(POLICIES[name], KEYS[0], jax.ShapeDtypeStruct(shape, dtype))
        assert (like.shape, like.dtype) == (shape, dtype)


@pytest.mark.parametrize("options, message", [
    (dict(num_ops=0), "num_ops must be at least 1, got 0"),
    (dict(magnitude=31), r"magnitude must be in \[0, 30\] for table 'torchvision', got 31"),
    (dict(magnitude=11, table="timm"), r"magnitude must be in \[0, 10\] for table 'timm', got 11"),
    (dict(magnitude=-1), "magnitude must be in .* got -1"),
    (dict(magnitude_std=-0.5), "magnitude_std must be at least 0, got -0.5"),
    (dict(table="tensorflow"), "table must be one of torchvision, timm, big_vision, got 'tensorflow'"),
    (dict(interpolation="bicubic"), "interpolation must be 'nearest' or 'bilinear', got 'bicubic'"),
    (dict(probability=2), r"a probability must be in \[0, 1\], got 2"),
])
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda key: augment.random_augment(key, PHOTO, **options), KEYS[0])


def test_everything_lowers_for_tpu_and_cuda_without_callbacks():
    def one(key, image):
        keys = jax.random.split(key, 9)
        for key, policy in zip(keys, POLICIES.values()):
            image = policy(key, image)
        image = augment.color_jitter(keys[3], image, 0.4, 0.4, 0.2, 0.1)
        image = augment.random_grayscale(keys[4], image, 0.2)
        image = augment.gaussian_noise(keys[5], augment.gaussian_blur(keys[6], image), 5.0)
        image = augment.random_flip(keys[7], augment.random_shift(keys[7], image, 2))
        image = augment.normalize(augment.random_resized_crop(keys[7], image, 24))
        return augment.random_erasing(keys[8], augment.cutout(keys[8], image, 8), mode="pixel")

    # The keys travel as their words: exported programs take arrays.
    def step(words, images, targets):
        keys = jax.random.wrap_key_data(words)
        return augment.mixup_or_cutmix(keys[0], jax.vmap(one)(keys, images), targets, 0.8, 1.0)

    arguments = [((4, 2), jnp.uint32), ((4, 32, 32, 3), jnp.uint8), ((4, 10), jnp.float32)]
    exported = jax.export.export(jax.jit(step), platforms=["tpu", "cuda"])(
        *[jax.ShapeDtypeStruct(*argument) for argument in arguments])
    assert exported.platforms == ("tpu", "cuda") and exported.out_avals[0].shape == (4, 24, 24, 3)
    called = set(re.findall(r"custom_call @(\w+)", exported.mlir_module()))
    assert not [name for name in called if "callback" in name]
