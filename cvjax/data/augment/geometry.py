"""Changes of geometry: mirror images, shifts, crops and affine warps."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cvjax.data.augment.pixels import as_image, blend

_TRIES = 10


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """The image, or with probability 1/2 its mirror image, left to right."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def alternating_flip(key: jax.Array, image: jax.Array, epoch: jax.Array) -> jax.Array:
    """The image in every other epoch (counted from 0, int), else its mirror image; `key` decides which comes first.

    With one key for all epochs of an image, each of its two sides is seen once in two epochs. With independent draws,
    half of the images would show one side twice: Jordan 2024 (https://arxiv.org/abs/2404.00498).
    """
    return jnp.where(jax.random.bernoulli(key) ^ (epoch % 2 == 1), image[:, ::-1], image)


def random_shift(key: jax.Array, image: jax.Array, pixels: int, mode: str = "constant") -> jax.Array:
    """Moves the image by up to `pixels` each way: pads it (zeros, or `jnp.pad`'s `mode`) and crops."""
    padded = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode)
    top, left = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def random_resized_crop(
    key: jax.Array,
    image: jax.Array,
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    method: str = "cubic",
    extent: jax.Array | None = None,
) -> jax.Array:
    """A random box of the image (see `random_box`), resized to `(size, size, C)` with antialiasing.

    extent: height and width `(2,)` of the picture before it was squeezed into `image` (`cvjax.data.crops.Squeeze`): the
    box is drawn in the picture's pixels, so the crop has the picture's proportions. None if nothing was squeezed.
    Returns float32; for a uint8 image it is clipped to [0, 255], because cubic weights overshoot.
    """
    sides = jnp.asarray(image.shape[:2] if extent is None else extent, jnp.float32)
    top, left, height, width = random_box(key, sides[0], sides[1], scale, ratio)
    zoom = size / jnp.stack([height, width])
    shape = (size, size, image.shape[-1])
    offset = -jnp.stack([top, left]) * zoom
    zoom = zoom * sides / jnp.asarray(image.shape[:2])
    crop = jax.image.scale_and_translate(image.astype(jnp.float32), shape, (0, 1), zoom, offset, method)
    return jnp.clip(crop, 0, 255) if image.dtype == jnp.uint8 else crop


def random_box(
    key: jax.Array, height: float | jax.Array, width: float | jax.Array, scale: tuple[float, float],
    ratio: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """A box `(top, left, height, width)`, float32 scalars of whole pixels, by the law of `crops.random_box`."""
    area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
    h, w, found = fitting_sides(area_key, ratio_key, height, width, scale, ratio, (height, width))
    h = jnp.where(found, h, jnp.clip(jnp.round(width / ratio[0]), 1, height))
    w = jnp.where(found, w, jnp.clip(jnp.round(height * ratio[1]), 1, width))
    top = jnp.where(found, random_offset(top_key, height - h), (height - h) // 2)
    left = jnp.where(found, random_offset(left_key, width - w), (width - w) // 2)
    return top, left, h, w


def fitting_sides(
    area_key: jax.Array,
    ratio_key: jax.Array,
    height: float | jax.Array,
    width: float | jax.Array,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    largest: tuple[float | jax.Array, float | jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Height and width of a random box, whole float32, at most `largest`; and whether one of ten tries fitted.

    Its area is a uniform share in `scale`, its width / height log-uniform in `ratio`. The ten tries are drawn at once
    and the first that fits is taken: a loop would not be cheaper in jit.
    """
    area = height * width * jax.random.uniform(area_key, (_TRIES,), minval=scale[0], maxval=scale[1])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = jnp.exp(jax.random.uniform(ratio_key, (_TRIES,), minval=low, maxval=high))
    w, h = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (w >= 1) & (w <= largest[1]) & (h >= 1) & (h <= largest[0])
    first = jnp.argmax(fits)
    return h[first], w[first], fits.any()


def random_offset(key: jax.Array, room: jax.Array) -> jax.Array:
    """A whole float32 number, uniform over 0 to `room` inclusive."""
    # A uniform number in [0, 1) times the count of whole offsets, floored, is uniform over them.
    return jnp.floor(jax.random.uniform(key) * (room + 1))


def affine(
    image: jax.Array,
    matrix: jax.Array | Sequence[float],
    interpolation: str = "nearest",
    fill: float | Sequence[float] = 0.0,
) -> jax.Array:
    """Warps an image by the inverse map that Pillow's `transform(AFFINE)` takes; shape and type stay.

    The middles of pixels lie at halves. A pixel whose source lies outside the image is `fill`; a bilinear source near
    the border takes the border's pixels. On uint8 fractions are cut off, as in Pillow. For "nearest", Pillow computes
    sources in 16-bit fixed point: if a source falls between two pixels, the other one may be chosen here.

    Args:
        image: `(H, W, C)`.
        matrix: `(a, b, c, d, e, f)`: the pixel at (x, y) shows what is at `(a x + b y + c, d x + e y + f)`; see
            `shear`, `translation` and `rotation`.
        interpolation: "nearest" or "bilinear".
        fill: a number, or one for each channel.
    """
    check_interpolation(interpolation)
    height, width = image.shape[:2]
    a, b, c, d, e, f = matrix
    x, y = jnp.arange(width) + 0.5, jnp.arange(height)[:, None] + 0.5
    x, y = a * x + b * y + c, d * x + e * y + f

    def pixels(column, row):
        row = jnp.clip(row.astype(jnp.int32), 0, height - 1)
        return image[row, jnp.clip(column.astype(jnp.int32), 0, width - 1)]

    if interpolation == "nearest":
        warped = pixels(jnp.floor(x), jnp.floor(y))
    else:
        left, above = jnp.floor(x - 0.5), jnp.floor(y - 0.5)
        right_share, below_share = (x - 0.5 - left)[..., None], (y - 0.5 - above)[..., None]
        upper, lower = (
            blend(pixels(left, row), pixels(left + 1, row), right_share) for row in (above, above + 1)
        )
        warped = as_image(blend(upper, lower, below_share), image.dtype)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return jnp.where(inside[..., None], warped, jnp.asarray(fill).astype(image.dtype))


def check_interpolation(interpolation: str) -> None:
    """ValueError unless `affine` knows this interpolation."""
    if interpolation not in ("nearest", "bilinear"):
        raise ValueError(f"interpolation must be 'nearest' or 'bilinear', got {interpolation!r}")


def shear(x: float | jax.Array, y: float | jax.Array) -> jax.Array:
    """For `affine`: a row y moves to the left by `x * y`, a column x up by `y * x`; the upper left corner stays."""
    return _matrix(1, x, 0, y, 1, 0)


def translation(x: float | jax.Array, y: float | jax.Array) -> jax.Array:
    """For `affine`: moves by x pixels to the right and y down."""
    return _matrix(1, 0, -jnp.asarray(x), 0, 1, -jnp.asarray(y))


def rotation(degrees: float | jax.Array, height: int, width: int) -> jax.Array:
    """For `affine`: turns counter-clockwise around the middle of the image."""
    angle = jnp.deg2rad(degrees)
    cos, sin, x, y = jnp.cos(angle), jnp.sin(angle), width / 2, height / 2
    return _matrix(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def _matrix(*numbers):
    return jnp.stack([jnp.asarray(number, jnp.float32) for number in numbers])
