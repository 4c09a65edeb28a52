"""Augmentation on device, inside jit: pure functions of one image, the key first; `jax.vmap` for a batch.

Images are `(H, W, C)`, uint8 or float, in [0, 255] until `normalize`.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# For data whose statistics nobody stated: puts [0, 255] on [-1, 1], whatever the number of channels.
HALF = (0.5,)

_TRIES = 10


def normalize(
    image: jax.Array, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> jax.Array:
    """`(image / 255 - mean) / std`, float32, of any `(..., C)` in [0, 255]; C or 1 means and deviations."""
    return (jnp.asarray(image, jnp.float32) / 255 - jnp.asarray(mean)) / jnp.asarray(std)


def denormalize(
    image: jax.Array, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> jax.Array:
    """The inverse of `normalize`: float32, [0, 255] for what came from there, not clipped."""
    return (image * jnp.asarray(std) + jnp.asarray(mean)) * 255


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """The image, or with probability 1/2 its mirror image, left to right."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


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
) -> jax.Array:
    """A random box of the image (see `random_box`), resized to `(size, size, C)` with antialiasing.

    Returns float32; from a uint8 image in [0, 255], for cubic weights would overshoot.
    """
    top, left, height, width = random_box(key, image.shape[0], image.shape[1], scale, ratio)
    zoom = size / jnp.stack([height, width])
    shape = (size, size, image.shape[-1])
    offset = -jnp.stack([top, left]) * zoom
    crop = jax.image.scale_and_translate(image.astype(jnp.float32), shape, (0, 1), zoom, offset, method)
    return jnp.clip(crop, 0, 255) if image.dtype == jnp.uint8 else crop


def random_box(
    key: jax.Array, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """A box `(top, left, height, width)`, float32 scalars of whole pixels, by the law of `crops.random_box`.

    The ten tries are drawn at once and the first that fits is taken, for a loop would not be cheaper in jit.
    """
    area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
    area = height * width * jax.random.uniform(area_key, (_TRIES,), minval=scale[0], maxval=scale[1])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = jnp.exp(jax.random.uniform(ratio_key, (_TRIES,), minval=low, maxval=high))
    w, h = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first, found = jnp.argmax(fits), fits.any()
    h = jnp.where(found, h[first], max(1, min(height, round(width / ratio[0]))))
    w = jnp.where(found, w[first], max(1, min(width, round(height * ratio[1]))))
    # A uniform number in [0, 1) times the count of whole offsets, floored, is uniform over them.
    top = jnp.floor(jax.random.uniform(top_key) * (height - h + 1))
    left = jnp.floor(jax.random.uniform(left_key) * (width - w + 1))
    top = jnp.where(found, top, (height - h) // 2)
    left = jnp.where(found, left, (width - w) // 2)
    return top, left, h, w


def mixup(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Mixes each example with its partner in the reversed batch, by one lambda ~ Beta(alpha, alpha) for all.

    Args:
        images: `(B, H, W, C)`, float for the mixture not to be rounded.
        targets: `(B, K)` class probabilities.
        alpha: above 0.

    Returns:
        Images and targets of the same shapes, float32.
    """
    share = jax.random.beta(key, alpha, alpha)
    return tuple(share * values + (1 - share) * values[::-1] for values in (images, targets))
