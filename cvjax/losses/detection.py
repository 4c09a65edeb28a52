"""Losses of the detectors that classify regions and move their boxes: Fast R-CNN's and Faster R-CNN's.

Girshick 2015 (https://arxiv.org/abs/1504.08083, eq. 1 to 3), Ren et al. 2015 (https://arxiv.org/abs/1506.01497, eq. 1).
Each loss is a sum over an image's sampled regions, divided by their number, as in torchvision. This holds for the box
loss too, although only positive regions contribute to it. So the box loss gets smaller with fewer positives, and is 0
for an image without objects. (The paper divides the proposal network's box loss by the number of places and multiplies
it by 10, which gives about the same.) torchvision averages over the batch as a whole. The mean of these losses over a
batch equals that if all images have the same number of samples; if not, each image still counts the same here.
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
    """A region proposal network's losses on S sampled anchors: binary cross-entropy, and smooth L1 of positives' codes.

    Args:
        logits: `(B, S)`, that an anchor holds an object.
        codes, targets: `(B, S, 4)`, see `cvjax.ops.boxes.encode_boxes`.
        valid, positive: bool `(B, S)`; invalid places do not count and may hold any number.
        beta: where smooth L1 becomes linear; the authors' code and torchvision use 1 / 9.

    Returns:
        Both losses, float32 `(B,)`.
    """
    logits = jnp.where(valid, logits.astype(jnp.float32), 0.0)  # before the loss: see `_box_error`
    entropy = -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))
    return _mean(entropy, valid, valid), _mean(_box_error(codes, targets, positive, beta), positive, valid)


def region_losses(logits: jax.Array, codes: jax.Array, labels: jax.Array, targets: jax.Array, valid: jax.Array,
                  positive: jax.Array, *, beta: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """Fast R-CNN's two losses on S sampled regions: cross-entropy, and smooth L1 of positives' codes of their class.

    Args:
        logits: `(B, S, K + 1)`, the background first.
        codes: `(B, S, K + 1, 4)`, of every class.
        labels: int `(B, S)`, from 0 without a background; used where positive.
        targets: `(B, S, 4)`.
        valid, positive: as in `proposal_losses`.
        beta: the paper uses 1, torchvision's Faster R-CNN 1 / 9.
    """
    outputs = jnp.where(positive, labels + 1, 0)[..., None]
    logits = jnp.where(valid[..., None], logits.astype(jnp.float32), 0.0)
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), outputs, axis=-1)[..., 0]
    own = jnp.take_along_axis(codes, outputs[..., None], axis=2)[..., 0, :]
    return _mean(entropy, valid, valid), _mean(_box_error(own, targets, positive, beta), positive, valid)


def _box_error(codes: jax.Array, targets: jax.Array, positive: jax.Array, beta: float) -> jax.Array:
    # Masked before the loss, not after it: a nan in a masked place would give a nan gradient.
    difference = jnp.where(positive[..., None], codes.astype(jnp.float32) - targets, 0.0)
    return smooth_l1(difference, beta).sum(axis=-1)


def _mean(values: jax.Array, chosen: jax.Array, valid: jax.Array) -> jax.Array:
    """Sum of the chosen values divided by the number of valid ones, `(B, S)` -> `(B,)`; 0 if none is valid."""
    return jnp.where(chosen, values, 0.0).sum(axis=-1) / jnp.maximum(valid.sum(axis=-1), 1)
