"""SimSiam's loss, and the measure that shows a collapse (Chen and He 2021, https://arxiv.org/abs/2011.10566)."""

import jax
import jax.numpy as jnp

from cvjax.ops.unit import unit_vectors


def negative_cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Minus the cosine of the angle between vectors `(..., D)`: float32 `(...)`, from -1 to 1 (eq. 1)."""
    return -(unit_vectors(a.astype(jnp.float32)) * unit_vectors(b.astype(jnp.float32))).sum(axis=-1)


def simsiam_loss(predictions: jax.Array, projections: jax.Array, stop_gradient: bool = True) -> jax.Array:
    """The loss of predicting the projection of each of two views from the other view: float32 `(B,)` (eq. 4).

    predictions, projections: `(B, 2, D)`. stop_gradient: projections are constants; otherwise training collapses
    (sec. 4.1).
    """
    targets = jax.lax.stop_gradient(projections) if stop_gradient else projections
    return negative_cosine(predictions, targets[:, ::-1]).mean(axis=1)


def unit_moments(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean, and the mean square, of each channel of vectors `(N, D)` scaled to length 1: float32 `(D,)` each."""
    unit = unit_vectors(vectors.astype(jnp.float32))
    return unit.mean(axis=0), jnp.square(unit).mean(axis=0)


def mean_deviation(mean: jax.Array, mean_square: jax.Array) -> jax.Array:
    """Standard deviation of each channel from its moments `(D,)`, averaged over channels: a float32 number.

    For `unit_moments` it is 0 when all vectors are alike, and at most 1 / sqrt(D), when their directions are spread
    evenly (sec. 4.1, fig. 2).
    """
    return jnp.sqrt(jnp.maximum(mean_square - jnp.square(mean), 0.0)).mean()
