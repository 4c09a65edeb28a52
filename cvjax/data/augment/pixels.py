"""Values of pixels: normalisation and its inverse, and the way back to an image's own type."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cvjax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD


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


def as_image(
    values: jax.Array, dtype: jnp.dtype, rounding: Callable[[jax.Array], jax.Array] = jnp.floor
) -> jax.Array:
    """Float values clipped to [0, 255], in an image's type; for integers rounded, down as Pillow and torchvision do."""
    values = jnp.clip(values, 0, 255)
    return (rounding(values) if jnp.issubdtype(dtype, jnp.integer) else values).astype(dtype)


def blend(start: jax.Array | float, end: jax.Array, share: float | jax.Array) -> jax.Array:
    """`start` at share 0, `end` at 1, and extrapolated outside, float32; exact where both are equal."""
    start = jnp.asarray(start, jnp.float32)
    return start + share * (jnp.asarray(end, jnp.float32) - start)


def is_grey(image: jax.Array) -> bool:
    """Whether `(H, W, C)` has one channel, and not three: colours have no meaning for any other number."""
    if image.shape[-1] not in (1, 3):
        raise ValueError(f"an image must have 1 or 3 channels, got shape {image.shape}")
    return image.shape[-1] == 1
