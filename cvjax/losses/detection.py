"""Losses of the detectors that classify regions and move their boxes: Fast R-CNN's and Faster R-CNN's.

Girshick 2015 (https://arxiv.org/abs/1504.08083, eq. 1 to 3), Ren et al. 2015 (https://arxiv.org/abs/1506.01497, eq. 1).
Sums over an image's sampled regions are divided by their number, as torchvision does: also the boxes', to which the
positive ones alone contribute. So a box counts the less the fewer positives there are, and an image without objects has
a box loss of 0. (The paper divides the proposal network's boxes by the number of places, and weighs them by 10, which
comes to about the same.) torchvision's numbers are of the batch as a whole; the mean of these over a batch equals them
where all images have as many samples, and each image counts the same where they do not.
"""

import jax
import jax.numpy as jnp


def smooth_l1(difference: jax.Array, beta: float = 1.0) -> jax.Array:
    """Element by element: d**2 / (2 beta) where |d| < beta, else |d| - beta / 2. beta: above 0; R-CNN's sigma**-2."""
    if beta <= 0:
        raise ValueError(f"beta must be above 0, received {beta}")
    size = jnp.abs(difference)
    return jnp.where(size < beta, 0.5 / beta * jnp.square(difference), size - 0.5 * beta)


def proposal_losses(logits: jax.Array, codes: jax.Array, targets: jax.Array, valid: jax.Array, positive: jax.Array, *,
                    beta: float = 1 / 9) -> tuple[jax.Array, jax.Array]:
    """Of a region proposal network on S sampled anchors: binary cross-entropy, and smooth L1 of the positives' codes.

    Args:
        logits: `(B, S)`, of holding an object.
        codes, targets: `(B, S, 4)`, see `cvjax.ops.boxes.encode_boxes`.
        valid, positive: bool `(B, S)`; what is not valid counts for nothing and may hold any number.
        beta: where smooth L1 becomes linear; 1 / 9 is the authors' code's, and torchvision's.

    Returns:
        Both losses, float32 `(B,)`.
    """
    logits = jnp.where(valid, logits.astype(jnp.float32), 0.0)  # before the loss: see `_box_error`
    entropy = -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))
    return _mean(entropy, valid, valid), _mean(_box_error(codes, targets, positive, beta), positive, valid)


def region_losses(logits: jax.Array, codes: jax.Array, labels: jax.Array, targets: jax.Array, valid: jax.Array,
                  positive: jax.Array, *, beta: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """Fast R-CNN's two on S sampled regions: cross-entropy, and smooth L1 of the positives' codes of their own class.

    Args:
        logits: `(B, S, K + 1)`, the background first.
        codes: `(B, S, K + 1, 4)`, of every class.
        labels: int `(B, S)`, from 0 without a background; used where positive.
        targets: `(B, S, 4)`.
        valid, positive: as in `proposal_losses`.
        beta: 1 is the paper's; torchvision's Faster R-CNN has 1 / 9.
    """
    outputs = jnp.where(positive, labels + 1, 0)[..., None]
    logits = jnp.where(valid[..., None], logits.astype(jnp.float32), 0.0)
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), outputs, axis=-1)[..., 0]
    own = jnp.take_along_axis(codes, outputs[..., None], axis=2)[..., 0, :]
    return _mean(entropy, valid, valid), _mean(_box_error(own, targets, positive, beta), positive, valid)


def _box_error(codes: jax.Array, targets: jax.Array, positive: jax.Array, beta: float) -> jax.Array:
    # Chosen before the loss, not after it: what does not count would give its gradient a nan.
    difference = jnp.where(positive[..., None], codes.astype(jnp.float32) - targets, 0.0)
    return smooth_l1(difference, beta).sum(axis=-1)


def _mean(values: jax.Array, chosen: jax.Array, valid: jax.Array) -> jax.Array:
    """Sum over the chosen by the number of the valid, `(B, S)` -> `(B,)`; 0 without any."""
    return jnp.where(chosen, values, 0.0).sum(axis=-1) / jnp.maximum(valid.sum(axis=-1), 1)
