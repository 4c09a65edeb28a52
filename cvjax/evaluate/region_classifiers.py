"""R-CNN's classifiers of regions: linear SVMs that recognise them, and ridge regressions that move them.

Girshick et al. 2014, sec. 2.3 and appendices B and C (https://arxiv.org/abs/1311.2524); SPP-net trains the same (He et
al. 2014, sec. 4.1, https://arxiv.org/abs/1406.4729). Each class has a support vector machine. Its positives are the
objects themselves. Its negatives are regions whose IoU with every object of the class is below 0.3; one pass over all
images finds the hard ones among them. Each class also has a ridge regression from a region to the object with which its
IoU is above 0.6. As in the authors' code, features are scaled to a mean norm of 20, so that one C and one lambda suit
all networks.

Deviation: both use the same features. The authors regress from pool5, and their SVMs use fc7.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.svm import LinearSVC

from cvjax.evaluate.mean_ap import Detections, Truth
from cvjax.ops.boxes import clip_boxes, decode_boxes, encode_boxes, pairwise_iou
from cvjax.ops.nms import class_wise_nms

NORM = 20.0  # mean norm of features
_START = 2000  # negatives of a class that its first SVM is trained on


class Regions(NamedTuple):
    """The regions of one image, for training or for detection."""

    boxes: np.ndarray  # float (R, 4)
    features: np.ndarray  # float32 (R, D)
    extent: tuple[float, float]  # height and width of the image


@dataclasses.dataclass(frozen=True)
class RegionClassifiers:
    """Linear functions of features, for K classes. A class without training objects detects nothing.

    Attributes:
        scale: factor of the features.
        weights, bias: of the SVMs, float32 `(D, K)` and `(K,)`; a class that detects nothing has bias -inf.
        box_weights, box_bias: of the codes that move a region (`encode_boxes`), float32 `(D, K, 4)` and `(K, 4)`; zeros
            for a class without training regions.
    """

    scale: float
    weights: np.ndarray
    bias: np.ndarray
    box_weights: np.ndarray
    box_bias: np.ndarray

    def detect(self, regions: Regions, *, nms_threshold: float = 0.3, least_score: float = -1.0, limit: int = 100
               ) -> Detections:
        """Detections in one image, highest score first. Scores are those of the SVMs; they are not probabilities.

        Each class scores and moves all regions; then non-maximum suppression works within the class.

        Args:
            regions: those of the image.
            nms_threshold: largest IoU of two detections of one class.
            least_score: detections have a score above it.
            limit: most detections.
        """
        if not len(regions.boxes):
            return Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
        boxes = _filled(np.asarray(regions.boxes, np.float32))
        features = _filled(np.asarray(regions.features, np.float32)) * np.float32(self.scale)
        there = np.arange(len(boxes)) < len(regions.boxes)
        boxes, scores, labels, found = jax.device_get(_detect(
            boxes, features, there, np.asarray(regions.extent, np.float32),
            (self.weights, self.bias, self.box_weights, self.box_bias), np.float32(least_score),
            nms_threshold=nms_threshold, limit=limit))
        return Detections(boxes[found], scores[found], labels[found])


_iou, _encode = jax.jit(pairwise_iou), jax.jit(encode_boxes)


def _filled(rows: np.ndarray, multiple: int = 64) -> np.ndarray:
    """Rows `(N, ...)` padded with zeros up to a multiple, so that few shapes are compiled."""
    return np.pad(rows, ((0, -len(rows) % multiple), *[(0, 0)] * (rows.ndim - 1)))


@partial(jax.jit, static_argnames=("nms_threshold", "limit"))
def _detect(boxes, features, there, extent, linear, least_score, *, nms_threshold, limit):
    weights, bias, box_weights, box_bias = linear
    classes = len(bias)
    scores = (jnp.matmul(features, weights, precision="highest") + bias).reshape(-1)
    labels = jnp.tile(jnp.arange(classes), len(boxes))
    usable = jnp.repeat(there, classes) & (scores > least_score)
    codes = jnp.einsum("rd,dkc->rkc", features, box_weights, precision="highest") + box_bias
    moved = clip_boxes(decode_boxes(codes, boxes[:, None]), extent[0], extent[1]).reshape(-1, 4)
    kept, found = class_wise_nms(moved, scores, labels, usable, nms_threshold, limit)
    return moved[kept], scores[kept], labels[kept], found


def fit_region_classifiers(images: Sequence[Regions], truths: Sequence[Truth], num_classes: int, *, c: float = 1e-3,
                           ridge: float = 1000.0, negative_below: float = 0.3, regress_above: float = 0.6, seed: int = 0
                           ) -> RegionClassifiers:
    """Fit all classes on the regions of some images.

    Difficult objects are not used, and regions that cover one are not negatives.

    Args:
        images: regions. They must include the boxes of the objects, whose features are the positives.
        truths: objects of the images.
        num_classes: K, at least 1.
        c: C of the SVMs, in which positives count twice (the authors' 0.001 and -w1 2).
        ridge: lambda of the regressions.
        negative_below: a region with a lower IoU with all objects of the class is a negative.
        regress_above: a region with a higher IoU with an object of the class trains the regression.
        seed: draws the first negatives, and seeds the solver.

    Raises:
        ValueError: images and truths do not fit each other, or an object's box is not among the regions.
    """
    if len(images) != len(truths) or not len(images) or num_classes < 1:
        raise ValueError(f"images and truths must have one entry for each of 1 or more images, and num_classes must be "
                         f"at least 1, received {len(images)}, {len(truths)} and {num_classes}")
    boxes = np.concatenate([image.boxes for image in images]).astype(np.float32)
    features = np.concatenate([image.features for image in images]).astype(np.float32)
    scale = NORM / max(np.linalg.norm(features, axis=1).mean(), np.finfo(np.float32).tiny)
    features *= np.float32(scale)
    width = features.shape[1]
    weights, bias = np.zeros((width, num_classes), np.float32), np.full(num_classes, -np.inf, np.float32)
    box_weights, box_bias = np.zeros((width, num_classes, 4), np.float32), np.zeros((num_classes, 4), np.float32)
    overlaps = [np.asarray(_iou(_filled(_boxes(image.boxes)), _filled(_boxes(truth.boxes), 8)))
                [:len(image.boxes), :len(truth.boxes)] for image, truth in zip(images, truths)]
    for label in range(num_classes):
        best, difficult, targets, own = (np.concatenate(x) for x in zip(*(
            _of_class(image.boxes, truth, overlap, label) for image, truth, overlap in zip(images, truths, overlaps))))
        if not own.any():
            continue
        negative = np.flatnonzero(np.maximum(best, difficult) < negative_below)
        rng = np.random.default_rng((seed, label))
        weights[:, label], bias[label] = _machine(features, np.flatnonzero(own), negative, c, rng)
        near = best > regress_above
        if near.any():
            codes = np.asarray(_encode(_filled(targets[near]), _filled(boxes[near])))[:near.sum()]
            box_weights[:, label], box_bias[label] = _ridge(features[near], codes, ridge)
    return RegionClassifiers(float(scale), weights, bias, box_weights, box_bias)


def _boxes(boxes: np.ndarray) -> np.ndarray:
    """float32 `(N, 4)`."""
    return np.asarray(boxes, np.float32).reshape(-1, 4)


def _of_class(boxes: np.ndarray, truth: Truth, overlaps: np.ndarray, label: int
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Four columns with a row per region, for one class.

    They are the largest IoU with objects of the class, the largest IoU with its difficult ones, the box `(4,)` of the
    object that the first belongs to, and whether the region is an object of the class.
    """
    of_class = truth.labels == label
    wanted, hard = of_class & ~truth.difficult, of_class & truth.difficult
    nothing = np.zeros(len(boxes), np.float32)
    difficult = overlaps[:, hard].max(1) if hard.any() else nothing
    if not wanted.any():
        return nothing, difficult, np.zeros((len(boxes), 4), np.float32), nothing > 0
    objects = _boxes(truth.boxes[wanted])
    equal = (_boxes(boxes)[:, None] == objects).all(-1)
    if not equal.any(0).all():
        raise ValueError(f"the object at {objects[~equal.any(0)][0].tolist()} is not among the regions of its image")
    of_wanted = overlaps[:, wanted]
    return of_wanted.max(1), difficult, objects[of_wanted.argmax(1)], equal.any(1)


def _machine(features, positive, negative, c, rng):
    """Weights `(D,)` and bias of a class's SVM: trained on some negatives, and again with the hard ones of all."""
    if not len(negative):
        return np.zeros(features.shape[1], np.float32), np.float32(0)
    held = np.sort(rng.permutation(negative)[:_START])
    weights, bias = _train_machine(features, positive, held, c, rng)
    hard = negative[features[negative] @ weights + bias > -1]  # inside the margin, or on the wrong side
    if len(np.setdiff1d(hard, held)):
        weights, bias = _train_machine(features, positive, np.union1d(held, hard), c, rng)
    return weights, bias


def _train_machine(features, positive, negative, c, rng):
    rows = np.concatenate([positive, negative])
    # As the authors call liblinear: hinge loss, and a bias that is hardly regularised.
    machine = LinearSVC(C=c, loss="hinge", class_weight={1: 2.0}, intercept_scaling=10, max_iter=20000,
                        random_state=int(rng.integers(2**31)))
    machine.fit(features[rows], np.arange(len(rows)) < len(positive))
    return machine.coef_[0].astype(np.float32), np.ravel(machine.intercept_)[0].astype(np.float32)


def _ridge(features, codes, ridge):
    """Weights `(D, 4)` and bias `(4,)` of least squares with a penalty of `ridge * |weights|**2`, none on the bias."""
    x, y = features.astype(np.float64), codes.astype(np.float64)
    middle, mean = x.mean(0), y.mean(0)
    x, y = x - middle, y - mean
    if len(x) < x.shape[1]:  # the smaller of the two systems
        weights = x.T @ np.linalg.solve(x @ x.T + ridge * np.eye(len(x)), y)
    else:
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
    return weights, mean - middle @ weights
