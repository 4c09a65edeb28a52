"""The confusion matrix of a classifier, and the precision, recall and F1 of each class.

In NumPy: scikit-learn computes the same numbers five times slower on label maps, and takes 2 s to import.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cvjax.evaluate._check import check_labels
from cvjax.evaluate.table import aligned


class ClassScores(NamedTuple):
    """Per class, `(K,)` each. A class that is never predicted has precision 0; one without examples has recall 0."""

    precision: np.ndarray  # share of the predictions of this class that are right, in [0, 1]
    recall: np.ndarray  # share of the examples of this class that are predicted rightly, in [0, 1]
    f1: np.ndarray  # harmonic mean of the two, in [0, 1]
    support: np.ndarray  # int64, examples of this class


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> np.ndarray:
    """int64 `(K, K)`: entry [i, j] counts the examples of class i that were predicted as class j.

    labels, predictions: int `(N,)` in [0, num_classes), N > 0. Anything else raises ValueError.
    """
    count = np.size(labels)
    if num_classes < 1 or not count:
        raise ValueError(f"num_classes and N must be at least 1, received {num_classes=} and N={count}")
    check_labels("labels", labels, count, num_classes)
    check_labels("predictions", predictions, count, num_classes)
    pairs = np.asarray(labels, np.int64) * num_classes + np.asarray(predictions, np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(matrix: ArrayLike) -> ClassScores:
    """Precision, recall, F1 and support of each class from a confusion matrix, int `(K, K)`, 0 or more."""
    matrix = _check_matrix(matrix)
    return scores_of_counts(np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1))


def scores_of_counts(right: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> ClassScores:
    """The scores of classes from how often each was predicted rightly, was predicted, and is true: int `(K,)` each."""
    f1 = _share(2 * right, predicted + support)
    return ClassScores(_share(right, predicted), _share(right, support), f1, support)


def class_table(matrix: ArrayLike, names: Sequence[str] | None = None) -> str:
    """The scores as text, in percent: one row per class, their unweighted mean, and the accuracy.

    names: one per class; None: the numbers of the classes.
    """
    matrix = _check_matrix(matrix)
    names = [str(i) for i in range(len(matrix))] if names is None else list(names)
    if len(names) != len(matrix):
        raise ValueError(f"names must be one for each of {len(matrix)} classes, received {len(names)}")
    precision, recall, f1, support = class_scores(matrix)
    shares = np.stack([precision, recall, f1], axis=1)
    total = support.sum()
    accuracy = _share(np.trace(matrix), total)
    rows: list[tuple[str, ...]] = [("class", "precision", "recall", "F1", "support")]
    for name, values, count in [*zip(names, shares, support), ("mean", shares.mean(axis=0), total)]:
        rows.append((name, *(f"{100 * value:.2f} %" for value in values), str(count)))
    rows.append(("accuracy", "", "", f"{100 * accuracy:.2f} %", str(total)))
    return aligned(rows)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)


def _check_matrix(matrix: ArrayLike) -> np.ndarray:
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or len(matrix) != matrix.shape[1] or not matrix.size:
        raise ValueError(f"a confusion matrix must be (K, K) with K > 0, received shape {matrix.shape}")
    if not np.issubdtype(matrix.dtype, np.integer) or matrix.min() < 0:
        raise ValueError(f"a confusion matrix must be counts of 0 or more, received {matrix.dtype} from {matrix.min()}")
    return matrix
