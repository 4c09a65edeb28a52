"""Boxes `(..., 4)` as x1, y1, x2, y2 in continuous pixels: areas, overlaps, clipping, and their coding as offsets.

A box covers [x1, x2) x [y1, y2), so its width is x2 - x1: no "+ 1" of inclusive pixels anywhere. If x2 < x1, the
width counts as 0, and so does the height if y2 < y1. A mask beside the boxes tells which rows are padding.
"""

import math

import jax
import jax.numpy as jnp

LARGEST_LOG_SCALE = math.log(1000 / 16)  # R-CNN's decoded boxes grow at most this much, so that exp does not overflow


def area(boxes: jax.Array) -> jax.Array:
    """`(..., 4)` -> `(...)`: width times height, 0 where a side is 0 or less."""
    return _length(boxes[..., 0], boxes[..., 2]) * _length(boxes[..., 1], boxes[..., 3])


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of boxes that broadcast, `(..., 4)` and `(..., 4)` -> `(...)` in [0, 1].

    Two boxes without any area have 0 and gradients of 0, not 0 / 0. nan coordinates give 0 as well.
    """
    intersection, union = _overlap(a, b)
    return _ratio(intersection, union)


def pairwise_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """`iou` of every a with every b: `(..., N, 4)` and `(..., M, 4)` -> `(..., N, M)`."""
    return iou(a[..., :, None, :], b[..., None, :, :])


def generalized_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """GIoU of boxes that broadcast, `(..., 4)` and `(..., 4)` -> `(...)` in [-1, 1].

    IoU less the share of the smallest enclosing box that neither covers, so that boxes far apart still have a gradient
    (Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630). Every pair: `generalized_iou(a[:, None], b)`.

        >>> a, b = jnp.array([0.0, 0.0, 2.0, 2.0]), jnp.array([[0.0, 0.0, 2.0, 1.0], [6.0, 0.0, 8.0, 2.0]])
        >>> generalized_iou(a, b)  # with its own upper half, and with a box far away
        Array([ 0.5, -0.5], dtype=float32)
    """
    intersection, union = _overlap(a, b)
    corners = [choose(a[..., i], b[..., i]) for i, choose in enumerate([jnp.minimum] * 2 + [jnp.maximum] * 2)]
    hull = area(jnp.stack(corners, axis=-1))
    return _ratio(intersection, union) - _ratio(hull - union, hull)


def clip_boxes(boxes: jax.Array, height: jax.Array | float, width: jax.Array | float) -> jax.Array:
    """The part of each box inside a picture: x in [0, width], y in [0, height], which broadcast against `(...)`."""
    x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
    return jnp.stack([jnp.clip(x1, 0, width), jnp.clip(y1, 0, height), jnp.clip(x2, 0, width),
                      jnp.clip(y2, 0, height)], axis=-1)


def is_large(boxes: jax.Array, smallest_side: jax.Array | float) -> jax.Array:
    """bool `(...)`: whether both sides are at least `smallest_side`, as torchvision keeps boxes; nan is not large."""
    x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
    return (x2 - x1 >= smallest_side) & (y2 - y1 >= smallest_side)


def to_centres(boxes: jax.Array) -> jax.Array:
    """x1, y1, x2, y2 -> centre x, centre y, width, height, `(..., 4)` both."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def from_centres(centres: jax.Array) -> jax.Array:
    """The inverse of `to_centres`."""
    centre, half = centres[..., :2], centres[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def encode_boxes(boxes: jax.Array, anchors: jax.Array, weights: tuple[float, float, float, float] = (1, 1, 1, 1)
                 ) -> jax.Array:
    """R-CNN's regression targets of `boxes` seen from `anchors`, `(..., 4)` that broadcast -> `(..., 4)`.

    Shifts of the centre in the anchor's widths and heights, and logarithms of the ratios of the sides (Girshick et al.
    2014, appendix C), times `weights` for x, y, w, h: 1 / standard deviation of each where targets are normalised, as
    Fast R-CNN's (10, 10, 5, 5). A box or anchor with a side of 0 or less has no code. Its row is all 0, with
    gradients of 0, and a mask must leave it out of the loss.
    """
    boxes, anchors = jnp.broadcast_arrays(to_centres(boxes), to_centres(anchors))
    sound = jnp.all((boxes[..., 2:] > 0) & (anchors[..., 2:] > 0), axis=-1, keepdims=True)
    boxes, anchors = (jnp.where(sound, x, 1.0) for x in (boxes, anchors))
    shifts = (boxes[..., :2] - anchors[..., :2]) / anchors[..., 2:]
    # A difference of logarithms: the ratio itself may leave float32's range.
    scales = jnp.log(boxes[..., 2:]) - jnp.log(anchors[..., 2:])
    return jnp.where(sound, jnp.concatenate([shifts, scales], axis=-1) * jnp.asarray(weights, boxes.dtype), 0.0)


def decode_boxes(codes: jax.Array, anchors: jax.Array, weights: tuple[float, float, float, float] = (1, 1, 1, 1)
                 ) -> jax.Array:
    """The inverse of `encode_boxes`; a side grows at most 62.5-fold (`LARGEST_LOG_SCALE`), as torchvision decodes.

    codes, anchors: `(..., 4)` that broadcast: one box for each class is `decode_boxes(codes, anchors[:, None])`.
    """
    codes = codes / jnp.asarray(weights, codes.dtype)
    anchors = to_centres(anchors)
    centre = codes[..., :2] * anchors[..., 2:] + anchors[..., :2]
    sides = jnp.exp(jnp.minimum(codes[..., 2:], LARGEST_LOG_SCALE)) * anchors[..., 2:]
    return from_centres(jnp.concatenate([centre, sides], axis=-1))


def _length(low: jax.Array, high: jax.Array) -> jax.Array:
    return jnp.maximum(high - low, 0)


def _overlap(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Areas of intersection and union. Four planes, not one `(..., 4)`: compilers fuse planes into one pass."""
    shared = [_length(jnp.maximum(a[..., i], b[..., i]), jnp.minimum(a[..., i + 2], b[..., i + 2])) for i in (0, 1)]
    intersection = shared[0] * shared[1]
    return intersection, area(a) + area(b) - intersection


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """part / whole, 0 where whole is 0; chosen before the division, or its gradient would be nan there."""
    sound = whole > 0
    return jnp.where(sound, part / jnp.where(sound, whole, 1.0), 0.0)
