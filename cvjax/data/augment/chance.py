"""Operations that are applied to an image with some probability."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def happens(key: jax.Array, probability: float) -> jax.Array:
    """A bool scalar, True with this probability."""
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability must be in [0, 1], got {probability}")
    return jax.random.bernoulli(key, float(probability))


def random_apply(
    key: jax.Array, image: jax.Array, probability: float, function: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """`function(key, image)` with this probability, else the image; the function keeps shape and type.

    Both are computed for every image, because a batch has images of both kinds.
    """
    choice_key, key = jax.random.split(key)
    return jnp.where(happens(choice_key, probability), function(key, image), image)
