"""YOLO's loss: You Only Look Once (Redmon et al. 2016, https://arxiv.org/abs/1506.02640), sec. 2.2, eq. 3.

A picture is a grid of cells. For each cell the network predicts N boxes and the class of its object. A box is x, y, w,
h and a confidence: x and y are its centre in cells from the cell's corner, w and h the square roots of its width and
height in those of the picture (the paper's "we predict the square root of the bounding box width and height"; Darknet,
the authors' code, does the same). So equation 3 takes square roots only of targets, and every prediction, including
zero and negative ones, has a finite loss and gradient. A box's width is the square of what was predicted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cvjax.ops.boxes import from_centres, iou, to_centres


class Cells(NamedTuple):
    """The object that each cell of a grid of R x C has to find.

    present: bool `(..., R, C)`, whether there is one; the other fields mean nothing where there is none.
    boxes: float `(..., R, C, 4)`, corners x1, y1, x2, y2 as shares of the picture's width and height.
    labels: int32 `(..., R, C)`, classes from 0.
    """

    present: jax.Array
    boxes: jax.Array
    labels: jax.Array


def split_predictions(predictions: jax.Array, num_boxes: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A network's output `(..., 5 N + K)` to boxes `(..., N, 4)`, confidences `(..., N)` and classes `(..., K)`.

    A cell's numbers are x, y, w, h, confidence of its first box, then of the next one, and last the K classes.
    """
    boxes = predictions[..., :5 * num_boxes].reshape(*predictions.shape[:-1], num_boxes, 5)
    return boxes[..., :4], boxes[..., 4], predictions[..., 5 * num_boxes:]


def cell_corners(rows: int, columns: int) -> jax.Array:
    """`(R, C, 1, 2)`: column and row of each cell, as float32."""
    return jnp.stack(jnp.meshgrid(jnp.arange(columns), jnp.arange(rows)), axis=-1).astype(jnp.float32)[:, :, None]


def decoded_boxes(boxes: jax.Array) -> jax.Array:
    """Predicted x, y, w, h `(..., R, C, N, 4)` to corners x1, y1, x2, y2 as shares of the picture."""
    rows, columns = boxes.shape[-4:-2]
    centres = (boxes[..., :2] + cell_corners(rows, columns)) / jnp.array([columns, rows], jnp.float32)
    return from_centres(jnp.concatenate([centres, boxes[..., 2:] ** 2], axis=-1))


def encoded_boxes(boxes: jax.Array) -> jax.Array:
    """The inverse of `decoded_boxes`; sides of 0 or less have a square root of 0."""
    rows, columns = boxes.shape[-4:-2]
    low, high = boxes[..., :2], boxes[..., 2:]
    offsets = (low + high) / 2 * jnp.array([columns, rows], jnp.float32) - cell_corners(rows, columns)
    return jnp.concatenate([offsets, jnp.sqrt(jnp.maximum(high - low, 0))], axis=-1)


def yolo_loss(predictions: jax.Array, cells: Cells, num_boxes: int, *, coordinate_weight: float = 5.0,
              no_object_weight: float = 0.5) -> dict[str, jax.Array]:
    """The terms of equation 3 for each example, sums over cells, weighted: to be added up.

    Of a cell's boxes the one with the highest IoU with its object is responsible for it (the first of equal ones);
    where none overlaps it, the nearest one in the squared distance of x, y, w, h in shares of the picture, as in
    Darknet. The target of its confidence is that IoU. No gradient flows through the IoU or the choice. The
    target of all other confidences is 0. Only cells with an object learn classes.

    Args:
        predictions: float32 `(B, R, C, 5 N + K)`, see `split_predictions`.
        cells: `(B, R, C)`. num_boxes: N.
        coordinate_weight, no_object_weight: the paper's lambdas.

    Returns:
        `centre`, `size`, `confidence`, `no_object` and `classes`, float32 `(B,)` each.
    """
    boxes, confidence, classes = split_predictions(predictions, num_boxes)
    # Padding may be nan, whose gradient would be nan though it is not chosen.
    truth = jnp.where(cells.present[..., None], cells.boxes, 0.0)[..., None, :]
    wanted = encoded_boxes(truth)
    found = jax.lax.stop_gradient(decoded_boxes(boxes))
    overlap = iou(found, truth)
    distance = _squares(to_centres(found) - to_centres(truth))
    best = jnp.where((overlap > 0).any(axis=-1, keepdims=True), overlap, -distance).argmax(axis=-1)
    responsible = cells.present[..., None] & (jnp.arange(num_boxes) == best[..., None])
    one_hot = jax.nn.one_hot(cells.labels, classes.shape[-1], dtype=classes.dtype)

    def summed(values: jax.Array, where: jax.Array) -> jax.Array:
        return jnp.where(where, values, 0.0).sum(axis=tuple(range(1, values.ndim)))

    return {"centre": coordinate_weight * summed(_squares((boxes - wanted)[..., :2]), responsible),
            "size": coordinate_weight * summed(_squares((boxes - wanted)[..., 2:]), responsible),
            "confidence": summed((confidence - overlap) ** 2, responsible),
            "no_object": no_object_weight * summed(confidence ** 2, ~responsible),
            "classes": summed(_squares(classes - one_hot), cells.present)}


def _squares(differences: jax.Array) -> jax.Array:
    return (differences ** 2).sum(axis=-1)
