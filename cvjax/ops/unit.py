"""Vectors of length 1."""

import jax
import jax.numpy as jnp

EPSILON = 1e-12  # lower bound of the norms that vectors are divided by


def unit_vectors(x: jax.Array, axis: int = -1) -> jax.Array:
    """Vectors along an axis over their L2 norms; a zero vector stays zero.

    The root is taken last, after the maximum, because it has no gradient at zero.
    """
    return x / jnp.sqrt(jnp.maximum(jnp.square(x).sum(axis, keepdims=True), EPSILON**2))
