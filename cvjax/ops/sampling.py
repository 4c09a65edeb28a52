"""Draws a fixed number of boxes for the loss, with a share of positives, so that the background does not dominate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Sample(NamedTuple):
    """`size` places, the positives first; a place without a box has index 0 and is neither valid nor positive."""

    # int32 (size,), each box at most once.
    index: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  nobody searches this tuple
    valid: jax.Array  # bool (size,)
    positive: jax.Array  # bool (size,)


def balanced_sample(key: jax.Array, positive: jax.Array, negative: jax.Array, size: int, positive_fraction: float
                    ) -> Sample:
    """Up to `int(size * positive_fraction)` positives; negatives fill the other places as far as there are any.

    Each kind is drawn uniformly and without replacement, by random priorities of 31 bits. Positives never fill the
    places of absent negatives, as in Fast R-CNN's and torchvision's samplers. One image.

    Args:
        key: of this image.
        positive, negative: bool `(N,)`, never both (as `Matches`).
        size: places, static.
        positive_fraction: in [0, 1], static.
    """
    if positive.shape != negative.shape or positive.ndim != 1:
        raise ValueError(f"positive and negative must be (N,), received {positive.shape} and {negative.shape}")
    if size < 1 or not 0 <= positive_fraction <= 1:
        raise ValueError(f"size must be at least 1 and positive_fraction in [0, 1], received {size} and "
                         f"{positive_fraction}")
    priority = (jax.random.bits(key, positive.shape, jnp.uint32) >> 1).astype(jnp.int32)
    chosen, positives = _draw(priority, positive, int(size * positive_fraction), size)
    others, negatives = _draw(priority, negative, size, size)
    place = jnp.arange(size)
    is_positive = place < positives
    valid = place < positives + negatives
    index = jnp.where(is_positive, chosen, others[jnp.maximum(place - positives, 0)])
    return Sample(jnp.where(valid, index, 0), valid, is_positive)


def _draw(priority: jax.Array, candidates: jax.Array, limit: int, size: int) -> tuple[jax.Array, jax.Array]:
    """Indices int32 `(size,)` with the candidates of highest priority in front, and their number, at most `limit`."""
    _, index = lax.top_k(jnp.where(candidates, priority, -1), min(size, len(priority)))
    return jnp.pad(index, (0, size - len(index))), jnp.minimum(candidates.sum(), limit)
