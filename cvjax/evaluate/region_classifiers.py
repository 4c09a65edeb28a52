"""What tells regions apart by their features, and moves them: R-CNN's linear SVMs and ridge regressions.

Girshick et al. 2014, sec. 2.3 and appendices B and C (https://arxiv.org/abs/1311.2524); SPP-net trains the same (He et
al. 2014, sec. 4.1, https://arxiv.org/abs/1406.4729). For each class a support vector machine: positives are the objects
themselves, negatives regions that overlap none of the class by 0.3 or more, the hard ones among them found in one pass
over all images. And for each class a ridge regression from a region to the object that it overlaps by more than 0.6.
As in the authors' code features are scaled to a mean norm of 20, so that one C and one lambda do for all networks.

Deviation: both see the same features; the authors regress from pool5, where the SVMs see fc7.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.evaluate.mean_ap import Detections, Truth
from cvjax.ops.boxes import clip_boxes, decode_boxes, encode_boxes, pairwise_iou
from cvjax.ops.nms import class_wise_nms

NORM = 20.0  # mean norm of features
_START = 2000  # negatives of a class that its first machine sees


class Regions(NamedTuple):
    """The regions of one image, those to learn from or those to judge."""

    boxes: np.ndarray  # float (R, 4)
    features: np.ndarray  # float32 (R, D)
    extent: tuple[float, float]  # height and width of the image


@dataclasses.dataclass(frozen=True)
class RegionClassifiers:
    """Linear functions of features, for K classes; a class without an object to learn from finds nothing.

    Attributes:
        scale: what features are multiplied by.
        weights, bias: float32 `(D, K)` and `(K,)`, of the SVMs; -inf is the bias of a class that finds nothing.
        box_weights, box_bias: float32 `(D, K, 4)` and `(K, 4)`, of the codes that move a region (`encode_boxes`); zeros
            where there was nothing to learn from.
    """

    scale: float
    weights: np.ndarray
    bias: np.ndarray
    box_weights: np.ndarray
    box_bias: np.ndarray

    def detect(self, regions: Regions, *, nms_threshold: float = 0.3, least_score: float = -1.0, limit: int = 100
               ) -> Detections:
        """What is in one image, by falling score; scores are the SVMs', which are no probabilities.

        Each class scores and moves all regions, and then suppresses within itself.
        """
        if not len(regions.boxes):
            return Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
        boxes, features = _filled(regions.boxes), _filled(regions.features)
        there = np.arange(len(boxes)) < len(regions.boxes)
        boxes, scores, labels, found = jax.device_get(_detect(
            np.float32(boxes), np.float32(features) * np.float32(self.scale), there, np.float32(regions.extent),
            (self.weights, self.bias, self.box_weights, self.box_bias), np.float32(least_score),
            nms_threshold=nms_threshold, limit=limit))
        return Detections(boxes[found], scores[found], labels[found])


_iou, _encode = jax.jit(pairwise_iou), jax.jit(encode_boxes)


def _filled(rows: np.ndarray, multiple: int = 64) -> np.ndarray:
    """`(N, ...)` with zeros up to a multiple of rows: few shapes are compiled."""
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

    Objects that are difficult are not learnt from, and neither are regions that cover them as negatives.

    Args:
        images: regions; they must have those of the objects themselves among them, with the same boxes, for it is their
            features that are positives.
        c: of the SVMs, whose positives count twice (the authors' 0.001 and -w1 2).
        ridge: lambda of the regressions.
        negative_below, regress_above: IoU with objects of the class.
        seed: of the negatives to start with, and of the solver.

    Raises:
        ValueError: for images and truths that do not fit, or an object whose box is not among the regions.
    """
    if len(images) != len(truths) or not len(images) or num_classes < 1:
        raise ValueError(f"images and truths must be one for each of at least one image and num_classes at least 1, "
                         f"received {len(images)}, {len(truths)} and {num_classes}")
    boxes = np.concatenate([image.boxes for image in images]).astype(np.float32)
    features = np.concatenate([image.features for image in images]).astype(np.float32)
    scale = NORM / max(np.linalg.norm(features, axis=1).mean(), np.finfo(np.float32).tiny)
    features *= np.float32(scale)
    width = features.shape[1]
    weights, bias = np.zeros((width, num_classes), np.float32), np.full(num_classes, -np.inf, np.float32)
    box_weights, box_bias = np.zeros((width, num_classes, 4), np.float32), np.zeros((num_classes, 4), np.float32)
    overlaps = [np.asarray(_iou(_filled(np.float32(image.boxes)), _filled(np.float32(truth.boxes).reshape(-1, 4), 8)))
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


def _of_class(boxes, truth, overlaps, label):
    """Of each region: greatest IoU with the objects of a class, and with its difficult ones, the box `(4,)` of the
    first, and whether it is one of them."""
    of_class = truth.labels == label
    wanted, hard = of_class & ~truth.difficult, of_class & truth.difficult
    nothing = np.zeros(len(boxes), np.float32)
    difficult = overlaps[:, hard].max(1) if hard.any() else nothing
    if not wanted.any():
        return nothing, difficult, np.zeros((len(boxes), 4), np.float32), nothing > 0
    objects = np.float32(truth.boxes[wanted])
    equal = (np.float32(boxes)[:, None] == objects).all(-1)
    if not equal.any(0).all():
        raise ValueError(f"an object at {objects[~equal.any(0)][0].tolist()} is not among the regions of its image")
    of_wanted = overlaps[:, wanted]
    return of_wanted.max(1), difficult, objects[of_wanted.argmax(1)], equal.any(1)


def _machine(features, positive, negative, c, rng):
    """Weights `(D,)` and bias of a class: trained, shown all negatives once, and trained again with the hard ones."""
    if not len(negative):
        return np.zeros(features.shape[1], np.float32), np.float32(0)
    held = np.sort(rng.permutation(negative)[:_START])
    weights, bias = _train_machine(features, positive, held, c, rng)
    hard = negative[features[negative] @ weights + bias > -1]  # inside of the margin or beyond it
    if len(np.setdiff1d(hard, held)):
        weights, bias = _train_machine(features, positive, np.union1d(held, hard), c, rng)
    return weights, bias


def _train_machine(features, positive, negative, c, rng):
    from sklearn.svm import LinearSVC

    rows = np.concatenate([positive, negative])
    # Hinge loss and a bias that is hardly regularised, as the authors call liblinear.
    machine = LinearSVC(C=c, loss="hinge", class_weight={1: 2.0}, intercept_scaling=10.0, max_iter=20000,
                        random_state=int(rng.integers(2**31)))
    machine.fit(features[rows], np.arange(len(rows)) < len(positive))
    return machine.coef_[0].astype(np.float32), np.float32(machine.intercept_[0])


def _ridge(features, codes, ridge):
    """Weights `(D, 4)` and bias `(4,)` of least squares with |weights|**2 times `ridge`; the bias is free."""
    x, y = features.astype(np.float64), codes.astype(np.float64)
    middle, mean = x.mean(0), y.mean(0)
    x, y = x - middle, y - mean
    if len(x) < x.shape[1]:  # the smaller of the two systems
        weights = x.T @ np.linalg.solve(x @ x.T + ridge * np.eye(len(x)), y)
    else:
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
    return weights, mean - middle @ weights
