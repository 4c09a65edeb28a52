"""Matches boxes with ground truth: anchors of a region proposal network, and proposals of a detector.

Functions take one image; use `jax.vmap` for more. A mask tells which rows of ground truth are padding; all may be.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cvjax.ops.boxes import pairwise_iou


class Matches(NamedTuple):
    """The targets of N boxes. A box that is neither positive nor negative is left out of the loss."""

    # int32 (N,): the row of the ground truth that the box overlaps most, the first of equals; 0 without any.
    index: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  nobody searches this tuple
    overlap: jax.Array  # float32 (N,): their IoU, in [0, 1]; 0 without any
    positive: jax.Array  # bool (N,): the box learns that row
    negative: jax.Array  # bool (N,): the box learns that it is background


def match_anchors(anchors: jax.Array, boxes: jax.Array, box_mask: jax.Array, *, usable: jax.Array | None = None,
                  high: float = 0.7, low: float = 0.3) -> Matches:
    """Positive if the IoU is at least `high` or the best of a ground truth; else negative if it is below `low`.

    The rules of Faster R-CNN (https://arxiv.org/abs/1506.01497, sec. 3.1.2) as torchvision reads them: all anchors that
    share the best overlap with a ground truth are positive, however small it is, and learn the row that they themselves
    overlap most. Unlike there, a ground truth that no anchor touches makes none positive (all would share the 0).

    Args:
        anchors: `(N, 4)`.
        boxes: ground truth `(M, 4)`, M > 0.
        box_mask: bool `(M,)`, False for padding.
        usable: bool `(N,)`, anchors that take part (the paper leaves out those that cross the border of the image);
            the others are never the best, and neither positive nor negative. None: all.
    """
    _check_thresholds(low, high)
    overlaps = _overlaps(anchors, boxes, box_mask)
    usable = jnp.ones(len(anchors), bool) if usable is None else usable
    overlaps = jnp.where(usable[:, None], overlaps, 0)
    index, overlap = _best(overlaps)
    highest = overlaps.max(axis=0)
    is_best = ((overlaps == highest) & (overlaps > 0)).any(axis=1)
    # Where XLA computes overlaps anew to compare them and rounds them otherwise, none is equal: one is best anyway.
    is_best = is_best.at[overlaps.argmax(axis=0)].max(highest > 0)
    positive = (overlap >= high) | is_best
    # If high is 0, the threshold lets padding through.
    positive &= usable & box_mask.any()
    return Matches(index, overlap, positive, usable & ~positive & (overlap < low))


def match_proposals(proposals: jax.Array, boxes: jax.Array, box_mask: jax.Array, *, usable: jax.Array | None = None,
                    foreground: float = 0.5, background: tuple[float, float] = (0.0, 0.5)) -> Matches:
    """Positive if the IoU is at least `foreground`, else negative if it lies in [low, high) of `background`.

    Fast R-CNN (https://arxiv.org/abs/1504.08083, sec. 2.3) has 0.5 and [0.1, 0.5), torchvision [0, 0.5). In an image
    without ground truth all proposals are negative, for any `background`.

    Args:
        proposals: `(N, 4)`.
        boxes: ground truth `(M, 4)`, M > 0.
        box_mask: bool `(M,)`, False for padding.
        usable: bool `(N,)`, False for padding, which is neither positive nor negative. None: all.
    """
    low, high = background
    _check_thresholds(low, high, foreground)
    index, overlap = _best(_overlaps(proposals, boxes, box_mask))
    usable = jnp.ones(len(proposals), bool) if usable is None else usable
    some = box_mask.any()
    positive = usable & (overlap >= foreground) & some
    return Matches(index, overlap, positive, usable & ~positive & ((overlap >= low) & (overlap < high) | ~some))


def _overlaps(candidates: jax.Array, boxes: jax.Array, box_mask: jax.Array) -> jax.Array:
    """IoU `(N, M)`; padding has less than any box."""
    if candidates.ndim != 2 or boxes.ndim != 2 or not len(boxes) or box_mask.shape != (len(boxes),):
        raise ValueError(f"boxes to match, ground truth and its mask must be (N, 4), (M, 4) and (M,) with M > 0, "
                         f"received {candidates.shape}, {boxes.shape} and {box_mask.shape}")
    return jax.lax.stop_gradient(jnp.where(box_mask, pairwise_iou(candidates, boxes), -1.0))


def _best(overlaps: jax.Array) -> tuple[jax.Array, jax.Array]:
    return overlaps.argmax(axis=1).astype(jnp.int32), jnp.maximum(overlaps.max(axis=1), 0)


def _check_thresholds(*rising: float) -> None:
    if list(rising) != sorted(rising) or rising[0] < 0 or rising[-1] > 1:
        raise ValueError(f"thresholds must rise in [0, 1], received {rising}")
