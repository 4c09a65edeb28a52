"""Random masking of a token sequence by sorting noise (He et al. 2022, sec. 3, https://arxiv.org/abs/2111.06377)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Masking(NamedTuple):
    """Which tokens stay visible, and how to put the sequence back in order."""

    keep: jax.Array  # int32 (B, K): positions of the visible tokens, in shuffled order
    restore: jax.Array  # int32 (B, L): for each position, its place in [visible..., masked...]
    mask: jax.Array  # float32 (B, L): 1 where a token is removed, 0 where it is visible


def num_visible(length: int, mask_ratio: float) -> int:
    """How many of `length` tokens stay visible; ValueError unless 0 <= mask_ratio < 1 and one remains."""
    keep = int(length * (1 - mask_ratio))
    if not 0 <= mask_ratio < 1 or keep < 1:
        raise ValueError(f"mask_ratio {mask_ratio} leaves {keep} of {length} tokens visible: "
                         f"it must be in [0, 1) and leave at least one")
    return keep


def random_masking(noise: jax.Array, mask_ratio: float) -> Masking:
    """Keep the tokens with the smallest noise.

    noise: float `(B, L)`, one independent uniform draw per token, so each example keeps its own random subset of
    exactly `int(L * (1 - mask_ratio))` tokens.
    """
    keep = num_visible(noise.shape[1], mask_ratio)
    shuffle = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(shuffle, axis=1)
    mask = (restore >= keep).astype(jnp.float32)
    return Masking(shuffle[:, :keep], restore, mask)


def gather_tokens(tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """Pick `tokens[b, positions[b, k]]`: tokens `(B, L, D)`, positions `(B, K)` -> `(B, K, D)`."""
    return jnp.take_along_axis(tokens, positions[:, :, None], axis=1)
