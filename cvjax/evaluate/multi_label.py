"""Scores of images that have any number of labels: average precision, precision, recall and F1 of each label."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from cvjax.evaluate.confusion import ClassScores, scores_of_counts
from cvjax.evaluate.table import aligned

THRESHOLD = 0.5  # of the probability from which on a label counts as predicted


def average_precision(probabilities: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Average precision of each label: float64 `(K,)` in [0, 1], nan for a label that no image has.

    The sum over distinct probabilities, from high to low, of the precision times the growth of the recall; nothing is
    interpolated, and equal probabilities count at once, as in scikit-learn's `average_precision_score`.

    probabilities: finite `(N, K)`, in any monotonic form. truth: `(N, K)` of 0 and 1. Anything else raises ValueError.
    """
    probabilities, truth = _checked(probabilities, truth)
    found = np.full(truth.shape[1], np.nan)
    for label in np.flatnonzero(truth.any(axis=0)):
        order = np.argsort(-probabilities[:, label], kind="stable")
        sorted_, right = probabilities[order, label], np.cumsum(truth[order, label])
        last = np.append(np.flatnonzero(np.diff(sorted_)), len(order) - 1)  # of those with one probability
        recall, precision = right[last] / right[-1], right[last] / (last + 1)
        found[label] = (np.diff(recall, prepend=0) * precision).sum()
    return found


def label_scores(probabilities: ArrayLike, truth: ArrayLike) -> ClassScores:
    """Precision, recall, F1 and support of each label at a probability of 0.5; arguments as for `average_precision`."""
    probabilities, truth = _checked(probabilities, truth)
    predicted = probabilities >= THRESHOLD
    return scores_of_counts((predicted & truth).sum(axis=0), predicted.sum(axis=0), truth.sum(axis=0))


def multi_label_scores(probabilities: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """`map` and `f1`: the means of average precision and F1 over the labels that some image has; nan without any."""
    precisions, scores = average_precision(probabilities, truth), label_scores(probabilities, truth)
    there = scores.support > 0
    return {"map": float(precisions[there].mean()) if there.any() else np.nan,
            "f1": float(scores.f1[there].mean()) if there.any() else np.nan}


def label_table(probabilities: ArrayLike, truth: ArrayLike, names: Sequence[str]) -> str:
    """A row for each label as text, in percent, and the means over the labels that some image has.

    Labels that no image has are named below. names: one per label; other arguments as for `average_precision`.
    """
    precisions, scores = average_precision(probabilities, truth), label_scores(probabilities, truth)
    there = scores.support > 0
    columns = np.stack([precisions, scores.precision, scores.recall, scores.f1], axis=1)
    rows: list[tuple[str, ...]] = [("label", "AP", "precision", "recall", "F1", "support")]
    rows += [(name, *(f"{100 * value:.2f} %" if known else "-" for value in values), str(count))
             for name, values, known, count in zip(names, columns, there, scores.support, strict=True)]
    if there.any():
        mean = (f"{100 * value:.2f} %" for value in columns[there].mean(axis=0))
        rows.append(("mean", *mean, str(scores.support.sum())))
    without = [name for name, known in zip(names, there, strict=True) if not known]
    left_out = f"\nno image has, left out of the mean: {', '.join(without)}" if without else ""
    return aligned(rows) + left_out


def _checked(probabilities: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays `(N, K)`, the truth as bool."""
    probabilities, truth = np.asarray(probabilities), np.asarray(truth)
    if probabilities.shape != truth.shape or truth.ndim != 2 or not truth.size:
        raise ValueError(f"probabilities and truth must be (N, K) with N, K > 0, received {probabilities.shape} and "
                         f"{truth.shape}")
    if not np.isfinite(probabilities).all() or not np.isin(truth, (0, 1)).all():
        raise ValueError("probabilities must be finite and truth 0 or 1")
    return probabilities, truth.astype(bool)
