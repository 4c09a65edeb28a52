"""How well label maps fit the truth: mean IoU and accuracies from a confusion matrix, and the boundary measure F.

Long, Shelhamer and Darrell 2015, sec. 5 (https://arxiv.org/abs/1411.4038). Let n_ij be the number of pixels of class i
that are predicted as class j, and t_i that of all pixels of class i. Pixel accuracy is sum n_ii / sum t_i, mean
accuracy the mean of n_ii / t_i, and mean IoU the mean of n_ii / (t_i + sum_j n_ji - n_ii). Pixels that the truth marks
255 do not count. As in VOC, the matrix is that of a whole data set; means over images would differ.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from cvjax.evaluate.confusion import confusion_matrix
from cvjax.evaluate.mask_scores import VOID, boundary_f

# Of the image's diagonal: Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", sec. 2.2.
TOLERANCE = 0.0075


def pixel_confusion(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Number of pixels of each true class (row) and predicted class (column): int64 `(K, K)`.

    truth: int `(...)` in [0, K), or 255 for a pixel that does not count. prediction: the same shape, in [0, K) at
    pixels that count. Raises ValueError for other shapes or labels.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth and prediction must share a shape, received {truth.shape} and {prediction.shape}")
    counted = truth != VOID
    if not counted.any():
        return np.zeros((num_classes, num_classes), np.int64)
    return confusion_matrix(truth[counted], prediction[counted], num_classes)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """IoU of each class, float64 `(K,)`, from a confusion matrix `(K, K)` with true classes as rows.

    A class that occurs neither in the truth nor in the prediction has nan.
    """
    confusion = _check(confusion)
    right = confusion.diagonal()
    union = confusion.sum(axis=1) + confusion.sum(axis=0) - right
    return np.where(union > 0, right / np.maximum(union, 1), np.nan)


def segmentation_scores(confusion: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """`miou`, `pixel_accuracy`, `mean_accuracy` and `iou/NAME`, in [0, 1], from a confusion matrix as for `class_iou`.

    A class that occurs neither in the truth nor in the prediction has no IoU, and the mean IoU leaves it out. The mean
    accuracy leaves out classes that are not in the truth. If no pixel counts, all are nan.
    """
    confusion = _check(confusion)
    if len(names) != len(confusion):
        raise ValueError(f"names must be one for each of {len(confusion)} classes, received {len(names)}")
    right, truth = confusion.diagonal(), confusion.sum(axis=1)
    if not truth.sum():
        return dict.fromkeys(("miou", "pixel_accuracy", "mean_accuracy"), np.nan)
    iou, there = class_iou(confusion), truth > 0
    scores = {"miou": float(np.nanmean(iou)), "pixel_accuracy": float(right.sum() / truth.sum()),
              "mean_accuracy": float((right[there] / truth[there]).mean())}
    return scores | {f"iou/{name}": float(value) for name, value in zip(names, iou) if not np.isnan(value)}


def class_boundary_f(truth: np.ndarray, prediction: np.ndarray, *, tolerance: float = TOLERANCE) -> np.ndarray:
    """Boundary measure F of each class that is in the truth or the prediction of one image, float64 `(C,)`.

    truth, prediction: int `(H, W)`; pixels whose truth is 255 do not count. `cvjax.evaluate.mask_scores.boundary_f`
    defines the measure. A class that is in only one of the maps gets 0.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    void = truth == VOID
    wanted, found = (set(np.unique(labels[~void]).tolist()) for labels in (truth, prediction))
    return np.array([boundary_f(prediction == c, truth == c, void, tolerance=tolerance) if c in wanted & found else 0.0
                     for c in sorted(wanted | found)], np.float64)


def iou_table(confusion: np.ndarray, names: Sequence[str]) -> str:
    """A table as text, in percent: IoU, recall and share of the true pixels of each class, and the means below."""
    scores, confusion = segmentation_scores(confusion, names), np.asarray(confusion)
    truth = confusion.sum(axis=1)
    recall = confusion.diagonal() / np.maximum(truth, 1)
    width = max(5, *map(len, names))
    lines = [f"{'class':<{width}}       IoU    recall    pixels"]
    for name, own, share, there in zip(names, recall, truth / max(truth.sum(), 1), truth > 0):
        iou = scores.get(f"iou/{name}")
        lines.append(f"{name:<{width}}  {_percent(iou)}  {_percent(own if there else None)}  {_percent(share)}")
    lines.append(f"{'mean':<{width}}  {_percent(scores['miou'])}  {_percent(scores['mean_accuracy'])}")
    return "\n".join([*lines, f"pixel accuracy {100 * scores['pixel_accuracy']:.2f} %"])


def _percent(share: float | None) -> str:
    return "       -" if share is None else f"{100 * share:6.2f} %"


def _check(confusion: ArrayLike) -> np.ndarray:
    confusion = np.asarray(confusion)
    square = confusion.ndim == 2 and confusion.shape[0] == confusion.shape[1]
    if not square or not np.issubdtype(confusion.dtype, np.integer):
        raise ValueError(f"a confusion matrix must be integers (K, K), received {confusion.dtype} {confusion.shape}")
    return confusion
