"""Average precision of detections, as the PASCAL VOC devkit computes it and as COCO does.

Both take arrays for each image, in pixels of the original image: boxes `(N, 4)` as x1, y1, x2, y2 in continuous
coordinates, and int labels `(N,)` from 0 to K - 1. The devkit's IoU counts whole pixels: a box is x2 - x1 + 1 wide.
Here a box with VOC's 1-based inclusive corners is x1 - 1, y1 - 1, x2, y2. That has the same area, so annotations
overlap as in the devkit, while detections may lie between pixels.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

RECALLS = np.linspace(0, 1, 11)  # of VOC 2007


class Truth(NamedTuple):
    """The objects of one image."""

    boxes: np.ndarray  # float (N, 4)
    labels: np.ndarray  # int (N,)
    difficult: np.ndarray  # bool (N,): not required, and not wrong to find (VOC)
    areas: np.ndarray | None = None  # float (N,): as annotated, for `coco_ap`; nan, or None for all: the box's


class Detections(NamedTuple):
    """The detections of one image, in any order."""

    boxes: np.ndarray  # float (D, 4)
    scores: np.ndarray  # float (D,), finite
    labels: np.ndarray  # int (D,)


class AveragePrecision(NamedTuple):
    """Average precision of each class and its mean; a class without objects to find (not difficult) has nan."""

    mean: float  # in [0, 1], over the other classes; nan if there are none
    per_class: np.ndarray  # float64 (K,)
    without_truth: tuple[str, ...]  # names of the classes with nan


class CocoPrecision(NamedTuple):
    """COCO's six numbers in [0, 1], nan if there is no ground truth of that size, and the AP of each class."""

    ap: float  # mean over IoU thresholds 0.50, 0.55, ..., 0.95
    ap50: float
    ap75: float
    ap_small: float  # of ground truth of up to 32 x 32 pixels, by the annotated area
    ap_medium: float
    ap_large: float  # from 96 x 96 pixels on
    per_class: np.ndarray  # float64 (K,), AP, nan for a class without ground truth
    without_truth: tuple[str, ...]


def voc_ap(truths: Sequence[Truth], detections: Sequence[Detections], class_names: Sequence[str], *,
           iou_threshold: float = 0.5, eleven_points: bool = False) -> AveragePrecision:
    """The devkit's average precision at one IoU threshold.

    Detections of a class from all images are sorted by score, highest first; ties keep their order. Each is compared
    with the object of its class that it overlaps most, whether that is already found or not. The detection is right if
    the IoU is at least the threshold and the object is new. It does not count if the object is difficult, and else it
    is wrong. The result is the area under the curve of precision (made non-increasing) over recall (since VOC 2010), or
    with `eleven_points` the mean of the best precision at recalls of at least 0, 0.1, ..., 1 (VOC 2007).

    Raises:
        ValueError: images, shapes, labels or scores do not fit each other.
    """
    truths, detections = _checked(truths, detections, len(class_names))
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must lie in (0, 1], received {iou_threshold}")
    per_class = np.array([_class_ap(truths, detections, label, iou_threshold, eleven_points)
                          for label in range(len(class_names))])
    return AveragePrecision(_mean(per_class), per_class, _absent(per_class, class_names))


class Curve(NamedTuple):
    """Recall and precision after each detection of a class, highest score first, without those of difficult objects."""

    recall: np.ndarray  # float64 (D,)
    precision: np.ndarray  # float64 (D,)
    scores: np.ndarray  # float64 (D,)


def precision_recall(truths: Sequence[Truth], detections: Sequence[Detections], label: int,
                     iou_threshold: float = 0.5) -> Curve | None:
    """The curve of one class that `voc_ap` integrates; None if the class has no objects to find."""
    objects, total, candidates = [], 0, []
    for image, (truth, found) in enumerate(zip(truths, detections)):
        of_class = truth.labels == label
        difficult = truth.difficult[of_class]
        objects.append((truth.boxes[of_class], difficult))
        total += int((~difficult).sum())
        candidates += [(image, i) for i in np.flatnonzero(found.labels == label)]
    if not total:
        return None
    scores = np.array([detections[image].scores[i] for image, i in candidates])
    taken = [np.zeros(len(difficult), bool) for _, difficult in objects]
    right, counted = [], []
    for place in np.argsort(-scores, kind="stable"):
        image, i = candidates[place]
        boxes, difficult = objects[image]
        overlaps = _overlaps(detections[image].boxes[i], boxes)
        best = int(overlaps.argmax()) if len(overlaps) else -1
        hit = best >= 0 and overlaps[best] >= iou_threshold
        if hit and difficult[best]:
            continue
        right.append(hit and not taken[image][best])
        counted.append(scores[place])
        if hit:
            taken[image][best] = True
    right = np.cumsum(np.array(right, bool))
    return Curve(right / total, right / np.arange(1, len(right) + 1), np.array(counted, np.float64))


def coco_ap(truths: Sequence[Truth], detections: Sequence[Detections], class_names: Sequence[str]) -> CocoPrecision:
    """COCO's average precision by pycocotools: means of precision at 101 recalls, at most 100 detections per image.

    At one IoU threshold it differs from `voc_ap` in two ways. The curve is summed at 101 points: with n objects, recall
    has steps of 1 / n, and the points weigh each step to within 1 / 101, so the AP of a class differs by at most
    1 / 101 times the highest precision. And if a detection overlaps a found object more than a new one, COCO assigns it
    the new one, while the devkit calls it wrong. Difficult objects are passed as crowds: any number of detections may
    lie on one, and the IoU with it is the share of the detection that it covers, which is COCO's rule. How large an
    object is, its annotation says (in COCO's files by the area of its outline, less than its box's), or else its box.

    Raises:
        ValueError: images, shapes, labels or scores do not fit each other.
    """
    truths, detections = _checked(truths, detections, len(class_names))
    nothing = np.full(len(class_names), np.nan)
    if not any((~truth.difficult).any() for truth in truths):
        nan = float("nan")
        return CocoPrecision(nan, nan, nan, nan, nan, nan, nothing, tuple(class_names))

    annotations, results = [], []
    for image, (truth, found) in enumerate(zip(truths, detections)):
        assert truth.areas is not None  # `_checked` has filled them in
        for box, label, difficult, area in zip(_xywh(truth.boxes), truth.labels, truth.difficult, truth.areas):
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": int(label), "bbox": box,
                                "area": float(area), "iscrowd": int(difficult)})
        for box, score, label in zip(_xywh(found.boxes), found.scores, found.labels):
            results.append({"id": len(results) + 1, "image_id": image, "category_id": int(label), "bbox": box,
                            "area": box[2] * box[3], "score": float(score)})
    shared = {"images": [{"id": image} for image in range(len(truths))],
              "categories": [{"id": label, "name": name} for label, name in enumerate(class_names)]}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress and a table
        # Not loadRes, which takes no empty list and adds masks that boxes do not need.
        real, given = COCO(), COCO()
        for side, rows in ((real, annotations), (given, results)):
            side.dataset = {**shared, "annotations": rows}  # type: ignore[assignment]  # its stub has an empty dict
            side.createIndex()
        evaluation = COCOeval(real, given, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]  # (thresholds, recalls, K, areas), -1 without ground truth
    precision = np.where(precision < 0, np.nan, precision)
    by_class = precision.mean(axis=1)  # (thresholds, K, areas): a class has all recalls or none
    thresholds = evaluation.params.iouThrs
    ap50, ap75 = (_mean(by_class[np.isclose(thresholds, t), :, 0]) for t in (0.5, 0.75))
    ap, small, medium, large = (_mean(by_class[..., area]) for area in range(4))
    per_class = by_class[..., 0].mean(axis=0)
    return CocoPrecision(ap, ap50, ap75, small, medium, large, per_class, _absent(per_class, class_names))


def _class_ap(truths, detections, label: int, iou_threshold: float, eleven_points: bool) -> float:
    curve = precision_recall(truths, detections, label, iou_threshold)
    return float("nan") if curve is None else _under_curve(curve.recall, curve.precision, eleven_points)


def _under_curve(recall: np.ndarray, precision: np.ndarray, eleven_points: bool) -> float:
    """The area under a curve whose recall rises. Precision first becomes the best one from each recall on."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if eleven_points:
        # The margin lets a recall of 3 / 10 count as 0.3, though the two differ in float64.
        first = np.searchsorted(recall, RECALLS - 1e-12)
        return float(np.append(best, 0)[first].mean())
    return float((np.diff(recall, prepend=0) * best).sum())


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of one box with boxes `(N, 4)`, as by cvjax.ops.boxes.iou, but on the host in float64."""
    shared = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(axis=1)
    areas = [np.clip(x[..., 2:] - x[..., :2], 0, None).prod(axis=-1) for x in (box, boxes)]
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros(len(boxes)), where=union > 0)


def _xywh(boxes: np.ndarray) -> list[list[float]]:
    return np.concatenate([boxes[:, :2], np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)], axis=1).tolist()


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def _absent(per_class: np.ndarray, class_names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name, value in zip(class_names, per_class) if np.isnan(value))


def _checked(truths, detections, num_classes: int) -> tuple[list[Truth], list[Detections]]:
    """Both as arrays on the host, with boxes, areas and scores in float64; each object has an area."""
    if len(truths) != len(detections) or not num_classes:
        raise ValueError(f"truths and detections must be one for each image and classes at least one, received "
                         f"{len(truths)}, {len(detections)} and {num_classes}")
    truths = [_with_areas(Truth(np.asarray(t.boxes, np.float64), np.asarray(t.labels), np.asarray(t.difficult, bool),
                                t.areas)) for t in truths]
    detections = [Detections(np.asarray(d.boxes, np.float64), np.asarray(d.scores, np.float64), np.asarray(d.labels))
                  for d in detections]
    for name, images in (("truths", truths), ("detections", detections)):
        for place, image in enumerate(images):
            count, labels = len(image.boxes), image.labels
            columns = [column for column in image if column is not None]
            if image.boxes.shape != (count, 4) or any(column.shape != (count,) for column in columns[1:]):
                raise ValueError(f"{name} of image {place} must be boxes (N, 4) and columns (N,), received "
                                 f"{[column.shape for column in columns]}")
            if not all(np.isfinite(column).all() for column in columns):
                raise ValueError(f"{name} of image {place} must be finite")
            if count and not (labels.dtype.kind in "iu" and 0 <= labels.min() and labels.max() < num_classes):
                raise ValueError(f"labels in {name} of image {place} must be integers in [0, {num_classes}), received "
                                 f"{labels.dtype} from {labels.min()} to {labels.max()}")
    return truths, detections


def _with_areas(truth: Truth) -> Truth:
    """The truth with an area for each object: the annotated one, or else its box's."""
    if truth.boxes.ndim != 2 or truth.boxes.shape[1] != 4:
        return truth  # which is refused
    of_boxes = np.array([width * height for *_, width, height in _xywh(truth.boxes)])
    if truth.areas is None:
        return truth._replace(areas=of_boxes)
    given = np.asarray(truth.areas, np.float64)
    return truth._replace(areas=np.where(np.isnan(given), of_boxes, given) if given.shape == of_boxes.shape else given)
