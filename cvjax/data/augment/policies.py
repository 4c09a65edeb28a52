"""Policies that draw operations and their strength at random: RandAugment and TrivialAugment."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from cvjax.data.augment import colour
from cvjax.data.augment.chance import random_apply
from cvjax.data.augment.erasing import inside_box
from cvjax.data.augment.geometry import affine, check_interpolation, rotation, shear, translation
from cvjax.data.augment.pixels import as_image, blend

# An operation's argument given a magnitude and a sign, by the operation's name: the warps first.
Table = Callable[[jax.Array, jax.Array, int, int], dict[str, float | jax.Array]]

_OPERATIONS = {
    "brightness": colour.brightness,
    "saturation": colour.saturation,
    "contrast": colour.contrast,
    "big_vision_contrast": lambda image, factor: as_image(blend(_level(image), image, factor), image.dtype),
    "sharpness": colour.sharpness,
    "posterize": colour.posterize,
    "solarize": colour.solarize,
    "solarize_add": colour.solarize_add,
    "autocontrast": lambda image, _: colour.autocontrast(image),
    "equalize": lambda image, _: colour.equalize(image),
    "invert": lambda image, _: colour.invert(image),
    "identity": lambda image, _: image,
}


def _level(image: jax.Array) -> int:
    """What TensorFlow's AutoAugment takes for the mean grey level: the mean count of a histogram of 256 bins."""
    return min(image.shape[0] * image.shape[1] // 256, 255)


def random_augment(
    key: jax.Array,
    image: jax.Array,
    num_ops: int = 2,
    magnitude: float = 9.0,
    *,
    table: str = "torchvision",
    magnitude_std: float = 0.0,
    probability: float = 1.0,
    interpolation: str = "nearest",
    fill: float | Sequence[float] = 0.0,
) -> jax.Array:
    """RandAugment: `num_ops` operations drawn with replacement, all of one magnitude (Cubuk 2019, arXiv 1909.13719).

    Three lists of operations are known. All turn the sign of warps with probability 1/2, the first two that of
    enhancements, too.

    - "torchvision" (`torchvision.transforms.RandAugment`, the defaults here): 14 operations, magnitudes of 31 bins.
    - "timm": the 15 of its `inc1`, whose severity always increases, magnitudes up to 10. The recipe
      `rand-m9-mstd0.5-inc1` of DeiT and Swin is `random_augment(key, image, 2, 9, table="timm", magnitude_std=0.5,
      probability=0.5, interpolation="bilinear", fill=[255 * m for m in IMAGENET_MEAN])`, and A1 has magnitude 7.
    - "big_vision": the 16 of its `randaug`, magnitudes up to 10. Enhancements have one direction, from 0.1 to 1.9; one
      operation cuts out a square; contrast is against the level of (number of pixels) / 256, where Pillow has the mean.
      Its `randaug(2,10)` is `random_augment(key, image, 2, 10, table="big_vision", fill=128)`.

    Deviations: fractions between the 31 bins are allowed. timm warps by bicubic, or a random one of two kernels; here
    it is "nearest" or "bilinear". timm's lists without `inc1` are not offered: their severity partly falls.

    In a batch (`vmap`) every image goes through every operation, and one result is kept. The five warps therefore
    share one gather; the most expensive of the rest is `equalize`, a histogram and a table look-up.

    Args:
        image: uint8 or float32 `(H, W, C)` in [0, 255], 1 or 3 channels.
        magnitude: in [0, 30], with the lists of timm and big_vision in [0, 10].
        magnitude_std: deviation of a normal draw around the magnitude for each operation, clipped to its range.
        probability: of applying each of the drawn operations.
        interpolation: "nearest" or "bilinear", for warps.
        fill: value of the pixels that warps bring in from outside and of a square that is cut out, a number or one for
            each channel.
    """
    if table not in _TABLES:
        raise ValueError(f"table must be one of {', '.join(_TABLES)}, got {table!r}")
    greatest, values = _TABLES[table]
    if num_ops < 1:
        raise ValueError(f"num_ops must be at least 1, got {num_ops}")
    if not 0 <= magnitude <= greatest:
        raise ValueError(f"magnitude must be in [0, {greatest}] for table {table!r}, got {magnitude}")
    if magnitude_std < 0:
        raise ValueError(f"magnitude_std must be at least 0, got {magnitude_std}")
    check_interpolation(interpolation)

    def draw(key, image):
        draw_key, key = jax.random.split(key)
        drawn = jnp.clip(magnitude + magnitude_std * jax.random.normal(draw_key), 0, greatest)
        return _one_operation(key, image, values, drawn, interpolation, fill)

    # A scan, so that the operations are compiled once.
    keys = jax.random.split(key, num_ops)
    return jax.lax.scan(lambda image, key: (random_apply(key, image, probability, draw), None), image, keys)[0]


def trivial_augment_wide(
    key: jax.Array, image: jax.Array, *, interpolation: str = "nearest", fill: float | Sequence[float] = 0.0
) -> jax.Array:
    """TrivialAugment: one operation of a magnitude uniform over 31 bins (Müller and Hutter 2021, arXiv 2103.10158).

    The list is that of `torchvision.transforms.TrivialAugmentWide`. Arguments and cost as in `random_augment`.
    """
    check_interpolation(interpolation)
    magnitude_key, key = jax.random.split(key)
    magnitude = jax.random.randint(magnitude_key, (), 0, 31)
    return _one_operation(key, image, _trivial_augment_wide, magnitude, interpolation, fill)


def _one_operation(key, image, table, magnitude, interpolation, fill):
    operation_key, sign_key = jax.random.split(key)
    height, width = image.shape[:2]
    arguments = table(magnitude, jax.random.rademacher(sign_key, (), jnp.float32), height, width)
    index = jax.random.randint(operation_key, (), 0, len(arguments))
    argument = jnp.stack([jnp.asarray(a, jnp.float32) for a in arguments.values()])[index]
    place = jax.random.randint(jax.random.fold_in(key, 2), (2,), 0, jnp.array([height, width]))
    return apply_operation(image, list(arguments), index, argument, interpolation, fill, place)


def apply_operation(
    image: jax.Array,
    names: Sequence[str],
    index: jax.Array,
    argument: jax.Array,
    interpolation: str = "nearest",
    fill: float | Sequence[float] = 0.0,
    place: jax.Array | None = None,
) -> jax.Array:
    """The operation `names[index]` with its argument; `names` must begin with the names of all warps.

    place: the pixel `(2,)` in the middle of a square that `cutout` paints over; its argument is half of its side.
    Positive arguments pull rows to the left further down and columns up further right (shears), move to the right and
    down (translations, in pixels) and turn counter-clockwise (degrees).
    """
    warps = {
        "shear_x": shear(argument, 0.0),
        "shear_y": shear(0.0, argument),
        "translate_x": translation(argument, 0.0),
        "translate_y": translation(0.0, argument),
        "rotate": rotation(argument, *image.shape[:2]),
    }
    assert list(warps) == list(names[: len(warps)])
    matrix = jnp.stack(list(warps.values()))[jnp.minimum(index, len(warps) - 1)]
    branches = [partial(affine, matrix=matrix, interpolation=interpolation, fill=fill)]
    operations = {**_OPERATIONS, "cutout": partial(_cutout, place, fill)}
    branches += [partial(_with_argument, operations[name], argument) for name in names[len(warps) :]]
    return jax.lax.switch(jnp.maximum(index - len(warps) + 1, 0), branches, image)


def _with_argument(operation, argument, image):
    return operation(image, argument)


def _cutout(place, fill, image, half):
    top, left = place - half
    box = inside_box(image.shape[0], image.shape[1], top, left, 2 * half, 2 * half)
    return jnp.where(box, jnp.asarray(fill).astype(image.dtype), image)


# Whole numbers may be off in the last digit, so they are cut and compared with this tolerance.
_SLACK = 1e-3


def _torchvision(magnitude, sign, height, width):
    enhance = 1 + sign * 0.9 * magnitude / 30
    return {
        "shear_x": sign * 0.3 * magnitude / 30,
        "shear_y": sign * 0.3 * magnitude / 30,
        "translate_x": sign * _whole(150 / 331 * width * magnitude / 30),
        "translate_y": sign * _whole(150 / 331 * height * magnitude / 30),
        "rotate": sign * 30 * magnitude / 30,
        "brightness": enhance,
        "saturation": enhance,
        "contrast": enhance,
        "sharpness": enhance,
        "posterize": 8 - jnp.round(4 * magnitude / 30),
        "solarize": 255 - 255 * magnitude / 30 - _SLACK,
        "autocontrast": 0,
        "equalize": 0,
        "identity": 0,
    }


def _trivial_augment_wide(magnitude, sign, height, width):
    enhance = 1 + sign * 0.99 * magnitude / 30
    return {
        "shear_x": sign * 0.99 * magnitude / 30,
        "shear_y": sign * 0.99 * magnitude / 30,
        "translate_x": sign * _whole(32 * magnitude / 30),
        "translate_y": sign * _whole(32 * magnitude / 30),
        "rotate": sign * 135 * magnitude / 30,
        "brightness": enhance,
        "saturation": enhance,
        "contrast": enhance,
        "sharpness": enhance,
        "posterize": 8 - jnp.round(6 * magnitude / 30),
        "solarize": 255 - 255 * magnitude / 30 - _SLACK,
        "autocontrast": 0,
        "equalize": 0,
        "identity": 0,
    }


def _timm(magnitude, sign, height, width):
    enhance = 1 + sign * 0.9 * magnitude / 10
    return {
        "shear_x": sign * 0.3 * magnitude / 10,
        "shear_y": sign * 0.3 * magnitude / 10,
        "translate_x": sign * 0.45 * width * magnitude / 10,
        "translate_y": sign * 0.45 * height * magnitude / 10,
        "rotate": sign * 30 * magnitude / 10,
        "brightness": enhance,
        "saturation": enhance,
        "contrast": enhance,
        "sharpness": enhance,
        "posterize": 4 - _whole(4 * magnitude / 10),
        "solarize": 256 - _whole(256 * magnitude / 10),
        "autocontrast": 0,
        "equalize": 0,
        "invert": 0,
        "solarize_add": _whole(110 * magnitude / 10),
    }


def _big_vision(magnitude, sign, height, width):
    enhance = 0.1 + 1.8 * magnitude / 10
    return {
        "shear_x": sign * 0.3 * magnitude / 10,
        "shear_y": sign * 0.3 * magnitude / 10,
        "translate_x": sign * 100 * magnitude / 10,
        "translate_y": sign * 100 * magnitude / 10,
        "rotate": sign * 30 * magnitude / 10,
        "brightness": enhance,
        "saturation": enhance,
        "big_vision_contrast": enhance,
        "sharpness": enhance,
        "posterize": _whole(4 * magnitude / 10),
        "solarize": _whole(256 * magnitude / 10),
        "autocontrast": 0,
        "equalize": 0,
        "invert": 0,
        "solarize_add": _whole(110 * magnitude / 10),
        "cutout": _whole(40 * magnitude / 10),
    }


def _whole(number):
    return jnp.floor(number + _SLACK)


# Greatest magnitude, and arguments at one.
_TABLES: dict[str, tuple[int, Table]] = {
    "torchvision": (30, _torchvision), "timm": (10, _timm), "big_vision": (10, _big_vision)}
