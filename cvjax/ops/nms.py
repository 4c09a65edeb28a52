"""Greedy non-maximum suppression with static shapes: of boxes that overlap, the one with the highest score stays.

The boxes are sorted once and taken in tiles. A tile is compared with the boxes kept so far, a block of them at a time,
and then with itself; the loop ends when enough boxes are kept. So the work is boxes times kept boxes, as in the greedy
loop, and no matrix of all pairs is ever there.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cvjax.ops.boxes import pairwise_iou

_TILE = 128  # boxes that are decided together, and, on a CPU, kept boxes that they are compared with at a time

# Where the next tile starts, how many boxes are kept, these boxes, their labels, and their places in the input.
State = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array]


def nms(boxes: jax.Array, scores: jax.Array, valid: jax.Array, iou_threshold: float, max_outputs: int
        ) -> tuple[jax.Array, jax.Array]:
    """The best `max_outputs` of the boxes that overlap no better kept one by more than `iou_threshold`.

    Exactly the greedy loop: boxes by falling score, equal scores by rising index; each is kept unless its IoU with one
    that is kept already is greater than the threshold, compared in float32 (torchvision widens the IoU to float64
    first, so that an IoU of exactly 0.3 there exceeds a threshold of 0.3). +inf is the highest score and -inf the
    lowest; a box whose score is nan is left out as if it were not valid. Boxes without area, and with nan coordinates,
    have IoU 0 with all: they suppress nothing and nothing suppresses them. The results are integers and booleans,
    without a gradient. One image; `jax.vmap` for more.

    Args:
        boxes: `(N, 4)` as x1, y1, x2, y2.
        scores: `(N,)`.
        valid: bool `(N,)`, False for padding, which is never kept and suppresses nothing.
        iou_threshold: in [0, 1], static.
        max_outputs: static size of the result, may exceed N.

    Returns:
        Indices int32 `(max_outputs,)` by falling score, and bool `(max_outputs,)`: False where there was no further
        box, where the index is 0.

    Raises:
        ValueError: for other shapes, a threshold outside [0, 1] or `max_outputs` below 1.
    """
    return _greedy(boxes, scores, None, valid, iou_threshold, max_outputs)


def class_wise_nms(boxes: jax.Array, scores: jax.Array, labels: jax.Array, valid: jax.Array, iou_threshold: float,
                   max_outputs: int) -> tuple[jax.Array, jax.Array]:
    """`nms` in which only boxes of one label, int `(N,)`, suppress each other; the best of all labels come out.

    The labels themselves are compared. A well-known trick instead moves the boxes of each class apart, by the label
    times the largest coordinate. It rounds the coordinates: at label 80 and 1,000 pixels float32 has steps of 1/128
    pixel.
    """
    if labels.shape != scores.shape:
        raise ValueError(f"labels must have the scores' shape {scores.shape}, received {labels.shape}")
    return _greedy(boxes, scores, labels, valid, iou_threshold, max_outputs)


def _greedy(boxes: jax.Array, scores: jax.Array, labels: jax.Array | None, valid: jax.Array, iou_threshold: float,
            max_outputs: int) -> tuple[jax.Array, jax.Array]:
    count = len(scores) if scores.ndim == 1 else 0
    if not count or boxes.shape != (count, 4) or valid.shape != (count,):
        raise ValueError(f"boxes, scores and valid must be (N, 4), (N,) and (N,) with N > 0, received {boxes.shape}, "
                         f"{scores.shape} and {valid.shape}")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must lie in [0, 1], received {iou_threshold}")
    if max_outputs < 1:
        raise ValueError(f"max_outputs must be at least 1, received {max_outputs}")

    valid = valid & ~jnp.isnan(scores)
    tile = min(_TILE, count)
    padding = -count % tile
    # nan comes last, behind the +inf of a score of -inf.
    _, order = lax.sort((jnp.where(valid, -scores, jnp.nan), jnp.arange(count, dtype=jnp.int32)), num_keys=1)
    order = jnp.pad(order, (0, padding))
    total = valid.sum(dtype=jnp.int32)
    boxes = lax.stop_gradient(boxes)[order]
    labels = None if labels is None else jnp.asarray(labels)[order]

    def suppresses(a: jax.Array, a_labels: jax.Array | None, b: jax.Array, b_labels: jax.Array | None) -> jax.Array:
        """bool `(A, B)`"""
        over = pairwise_iou(a, b) > iou_threshold
        return over if a_labels is None else over & (a_labels[:, None] == b_labels)

    def part(rows: jax.Array, start: jax.Array, size: int) -> jax.Array:
        return lax.dynamic_slice_in_dim(rows, start, size)

    def part_of_labels(rows: jax.Array | None, start: jax.Array, size: int) -> jax.Array | None:
        return None if rows is None else part(rows, start, size)

    def among_themselves(here: jax.Array, here_labels: jax.Array | None, candidates: jax.Array
                         ) -> tuple[jax.Array, jax.Array]:
        """Which candidates of a tile stay, bool `(tile,)`, and an order in which they come first."""
        better = jnp.tri(tile, k=-1, dtype=bool).T  # the row's box is better than the column's
        within = suppresses(here, here_labels, here, here_labels) & better

        # Whether a box stays depends on the better boxes that stay. So after i rounds the first i are right, and the
        # loop ends with a round that changes nothing. Only long chains of boxes need many rounds.
        def resolve(rounds: tuple[Any, jax.Array]) -> tuple[jax.Array, jax.Array]:
            _, keep = rounds
            return keep, candidates & ~(within & keep[:, None]).any(axis=0)

        _, keep = lax.while_loop(lambda rounds: (rounds[0] != rounds[1]).any(), resolve, resolve((None, candidates)))
        return keep, jnp.argsort(~keep, stable=True)

    def decide(state: State) -> State:
        start, kept, kept_boxes, kept_labels, kept_order = state
        here, here_labels = part(boxes, start, tile), part_of_labels(labels, start, tile)

        def by_block(i: jax.Array, suppressed: jax.Array) -> jax.Array:
            block, block_labels = part(kept_boxes, i * _TILE, _TILE), part_of_labels(kept_labels, i * _TILE, _TILE)
            return suppressed | suppresses(block, block_labels, here, here_labels).any(axis=0)

        # An accelerator compares with all places, the empty ones too, faster than it runs a loop.
        suppressed = lax.platform_dependent(
            cpu=lambda: lax.fori_loop(0, (kept + _TILE - 1) // _TILE, by_block, jnp.zeros(tile, bool)),
            default=lambda: suppresses(kept_boxes, kept_labels, here, here_labels).any(axis=0))
        candidates = (start + jnp.arange(tile) < total) & ~suppressed
        keep, front = lax.cond(candidates.any(), among_themselves, lambda *_: (candidates, jnp.arange(tile)),
                               here, here_labels, candidates)

        # Kept rows move to the front, the others become boxes without area, which suppress nothing.
        def append(rows: jax.Array, new: jax.Array) -> jax.Array:
            return lax.dynamic_update_slice_in_dim(rows, new[front], kept, 0)

        kept_boxes = append(kept_boxes, jnp.where(keep[:, None], here, 0))
        kept_order = append(kept_order, part(order, start, tile))
        if kept_labels is not None and here_labels is not None:
            kept_labels = append(kept_labels, here_labels)
        return start + tile, kept + keep.sum(dtype=jnp.int32), kept_boxes, kept_labels, kept_order

    def unfinished(state: State) -> jax.Array:
        start, kept, *_ = state
        return (start < total) & (kept < max_outputs)

    room = (-(-max_outputs // _TILE) + 1) * _TILE  # the last tile may keep more than max_outputs
    state = (jnp.int32(0), jnp.int32(0), jnp.zeros((room, 4), boxes.dtype),
             None if labels is None else jnp.zeros(room, labels.dtype), jnp.zeros(room, jnp.int32))
    _, kept, _, _, kept_order = lax.while_loop(unfinished, decide, state)
    found = jnp.arange(max_outputs) < kept
    return jnp.where(found, kept_order[:max_outputs], 0), found
