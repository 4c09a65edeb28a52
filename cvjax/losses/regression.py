"""Regression losses: the mean over the predicted numbers of one example."""

import jax
import jax.numpy as jnp


def absolute_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """L1: outputs and targets float `(B, K)` -> float32 `(B,)`. The mean over K, as that over a batch is torch's."""
    return jnp.abs(outputs.astype(jnp.float32) - targets).mean(axis=-1)


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """L2: outputs and targets float `(B, K)` -> float32 `(B,)`; the mean over K, as for `absolute_error`."""
    return jnp.square(outputs.astype(jnp.float32) - targets).mean(axis=-1)
