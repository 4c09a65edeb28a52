"""YOLO as a detector: which cell has to find which object, the loss, and boxes from a network's output.

Redmon et al. 2016, https://arxiv.org/abs/1506.02640.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cvjax.losses.yolo import Cells, decoded_boxes, split_predictions, yolo_loss
from cvjax.models.yolo import YOLO, YOLOv1
from cvjax.ops.boxes import area, clip_boxes
from cvjax.ops.nms import class_wise_nms
from cvjax.tasks.detection import Detector, Found, Losses, detector_of
from cvjax.tasks.task import Batch, outputs_of


def assign_cells(boxes: jax.Array, labels: jax.Array, counts: jax.Array, canvas: tuple[int, int],
                 grid: tuple[int, int]) -> Cells:
    """The object that each cell has to find: the one whose centre lies in the cell.

    A cell finds one object. If several centres lie in it, it takes the smallest object, and among equal ones the first;
    training ignores the others. (Darknet takes the first one in random order.) A centre on the right or lower border
    belongs to the last cell.

    Args:
        boxes: float `(M, 4)`, corners in pixels of the canvas.
        labels: int `(M,)`.
        counts: bool `(M,)`, False on rows that are not objects to find.
        canvas: height and width.
        grid: rows and columns, R and C.
    """
    shares = boxes / jnp.tile(jnp.array(canvas[::-1], jnp.float32), 2)
    last = jnp.array(grid[::-1])
    cell = jnp.floor((shares[:, :2] + shares[:, 2:]) / 2 * last).astype(jnp.int32)
    column, row = jnp.moveaxis(jnp.clip(cell, 0, last - 1), -1, 0)
    rows, columns = jnp.arange(grid[0])[:, None, None], jnp.arange(grid[1])[:, None]
    inside = (row == rows) & (column == columns) & counts  # (R, C, M)
    chosen = jnp.where(inside, area(shares), jnp.inf).argmin(axis=-1)
    return Cells(inside.any(axis=-1), shares[chosen], labels[chosen])


def decode_predictions(predictions: jax.Array, num_boxes: int, extent: jax.Array, canvas: tuple[int, int], *,
                       score_threshold: float, nms_threshold: float, max_detections: int) -> Found:
    """Detections from the output `(R, C, 5 N + K)` for one picture, as `Detector.detect` with D = `max_detections`.

    The score of a box for a class is the class probability times the confidence (the paper's eq. 1), both clipped to
    [0, 1]. It counts if it is above `score_threshold` and the box, cut to the picture, has an area. extent: `(2,)`,
    height and width of the picture within the canvas.
    """
    boxes, confidence, classes = split_predictions(predictions, num_boxes)
    height, width = canvas
    boxes = decoded_boxes(boxes) * jnp.array([width, height, width, height], jnp.float32)
    boxes = clip_boxes(boxes, extent[0], extent[1])
    scores = jnp.clip(confidence, 0, 1)[..., None] * jnp.clip(classes, 0, 1)[..., None, :]  # (R, C, N, K)
    labels = jnp.broadcast_to(jnp.arange(classes.shape[-1], dtype=jnp.int32), scores.shape)
    boxes = jnp.broadcast_to(boxes[..., None, :], (*scores.shape, 4)).reshape(-1, 4)
    scores, labels = scores.ravel(), labels.ravel()
    counts = (scores > score_threshold) & (area(boxes) > 0)
    kept, valid = class_wise_nms(boxes, scores, labels, counts, nms_threshold, max_detections)
    return {"boxes": boxes[kept], "score": scores[kept], "box_label": labels[kept], "valid": valid}


@detector_of(YOLO, YOLOv1)
def yolo_detector(model: YOLO | YOLOv1, *, score_threshold: float = 0.001, nms_threshold: float = 0.5,
                  max_detections: int = 100) -> Detector:
    """A model of `cvjax.models.yolo` as a detector. Training ignores difficult objects.

    score_threshold: detections have a score above it. nms_threshold: largest IoU of two detections of one class.
    max_detections: most detections per image.
    """

    def cells(images: jax.Array, batch: Batch, grid: tuple[int, int]) -> Cells:
        def of_one(boxes: jax.Array, labels: jax.Array, counts: jax.Array) -> Cells:
            return assign_cells(boxes, labels, counts, (images.shape[1], images.shape[2]), grid)

        return jax.vmap(of_one)(batch["boxes"], batch["box_label"], batch["box_mask"] & ~batch["box_difficult"])

    def losses(params: Any, model_state: Any, images: jax.Array, batch: Batch, key: jax.Array) -> tuple[Losses, Any]:
        predictions, state = model.apply({"params": params, **model_state}, images, train=True, mutable=[*model_state],
                                         rngs={"dropout": key})
        return yolo_loss(predictions, cells(images, batch, predictions.shape[1:3]), model.num_boxes), dict(state)

    def detect(variables: Any, images: jax.Array, extent: jax.Array) -> Found:
        predictions = outputs_of(model, variables, images, train=False)
        canvas = images.shape[1], images.shape[2]

        def of_one(predictions: jax.Array, extent: jax.Array) -> Found:
            return decode_predictions(predictions, model.num_boxes, extent, canvas,
                                      score_threshold=score_threshold, nms_threshold=nms_threshold,
                                      max_detections=max_detections)

        return jax.vmap(of_one)(predictions, extent)

    return Detector(lambda rng, images: model.init(rng, images), losses, detect)
