"""MAE's reconstruction loss (He et al. 2022, sec. 3, https://arxiv.org/abs/2111.06377)."""

import jax
import jax.numpy as jnp

from cvjax.ops.patches import patchify

EPSILON = 1e-6  # added to the variance of a patch, so that a flat patch has target 0


def patch_statistics(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation (unbiased variance plus 1e-6) of each patch: `(B, L, P) -> 2 x (B, L, 1)`."""
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True, ddof=1)
    return mean, jnp.sqrt(variance + EPSILON)


def pixel_target(images: jax.Array, patch_size: int, *, normalize: bool) -> jax.Array:
    """The target of the decoder: the pixels of each patch, float32 `(B, L, p*p*C)`.

    images: `(B, H, W, C)` as the encoder sees them. normalize: each patch by its own mean and standard deviation,
    the paper's better target (Table 1d).
    """
    patches = patchify(images, patch_size).astype(jnp.float32)
    if not normalize:
        return patches
    mean, std = patch_statistics(patches)
    return (patches - mean) / std


def masked_reconstruction_loss(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared error on the masked patches of each example.

    prediction, target: `(B, L, P)`; mask: `(B, L)`, 1 = masked; result float32 `(B,)`. Its mean over a batch is the
    paper's loss, because every example has the same number of masked patches.
    """
    error = jnp.square(prediction.astype(jnp.float32) - target).mean(axis=-1)  # (B, L)
    return (error * mask).sum(axis=-1) / mask.sum(axis=-1)
