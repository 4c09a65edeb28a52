"""From pixels to a model's input, and back: the same for training, evaluation and pictures."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cvjax.data.augment import denormalize, normalize
from cvjax.data.preprocessing import Preprocessing


def normalized(images: ArrayLike, how: Preprocessing) -> jax.Array:
    """Images in [0, 255] `(..., C)` to what a model sees, float32; ValueError for statistics of other channels."""
    images = jnp.asarray(images)
    how.check_channels(images.shape[-1])
    return normalize(images, how.mean, how.std)


def preprocess(images: ArrayLike, image_size: int, how: Preprocessing) -> jax.Array:
    """Images uint8 `(B, H, W, C)` to float32 `(B, image_size, image_size, C)`, normalised, without randomness.

    Images of another size are squeezed. They come from an evaluation's crop at the size of another model.
    """
    images = jnp.asarray(images)
    shape = (images.shape[0], image_size, image_size, images.shape[3])
    if images.shape != shape:
        images = images.astype(jnp.float32)
        images = jnp.clip(jax.image.resize(images, shape, "bicubic", antialias=True), 0, 255)
    return normalized(images, how)


def displayable(images: jax.Array, how: Preprocessing) -> jax.Array:
    """The inverse of `normalized` for `(..., C)`, for pictures: float in [0, 1]."""
    return jnp.clip(denormalize(images, how.mean, how.std) / 255, 0, 1)
