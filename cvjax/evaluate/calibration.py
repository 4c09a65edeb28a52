"""Does a classifier that says 80 % get 80 % right? Calibration of predicted probabilities.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks" (https://arxiv.org/abs/1706.04599). Everything is
computed on the host in float64. Probabilities are float `(N, K)` whose rows are non-negative with sum 1; logits are
finite float `(N, K)`; labels are int `(N,)` in [0, K). Anything else raises ValueError.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cvjax.evaluate._check import check_labels

BINS = 15  # as in the paper's tables


class Reliability(NamedTuple):
    """A reliability diagram: confidence and accuracy per bin of confidence, float64 `(bins,)` each.

    Bin i of M holds the examples whose largest probability lies in (i / M, (i + 1) / M].
    """

    confidence: np.ndarray  # mean of the largest probability, in [0, 1]; nan in an empty bin
    accuracy: np.ndarray  # share of right answers, in [0, 1]; nan in an empty bin
    count: np.ndarray  # type: ignore[assignment]  # int64, examples; it hides tuple.count, which nobody needs here


def softmax(logits: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """Probabilities float64 `(N, K)` of logits divided by a temperature, which is above 0."""
    logits = _matrix("logits", logits)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, received {temperature}")
    # Shifted before dividing: a small temperature then underflows to 0 and never overflows.
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def reliability(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = BINS) -> Reliability:
    """Confidence, accuracy and count per bin (sec. 2). Among equally probable classes the first is the answer."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, received {bins}")
    probabilities, labels = _check(probabilities, labels)
    confidence = probabilities.max(axis=1)
    inner_edges = np.arange(1, bins) / bins
    place = np.searchsorted(inner_edges, confidence, side="left")  # an edge belongs to the bin below it
    count = np.bincount(place, minlength=bins)
    right = probabilities.argmax(axis=1) == labels
    with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins
        return Reliability(np.bincount(place, confidence, minlength=bins) / count,
                           np.bincount(place, right, minlength=bins) / count, count)


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = BINS) -> float:
    """Mean over examples of |accuracy - confidence| of their bin, in [0, 1] (sec. 2, eq. 3).

    As in the paper, bins have equal width and only the largest probability counts. Bins with few examples bias the
    error upwards: a perfectly calibrated model has up to `sqrt(bins / N) / 2` on average.
    """
    confidence, accuracy, count = reliability(probabilities, labels, bins=bins)
    gaps = np.where(count > 0, np.abs(accuracy - confidence), 0.0)
    return float((gaps * count).sum() / count.sum())


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean of -log(probability of the label), in nats, 0 or more; inf if a label has probability 0."""
    probabilities, labels = _check(probabilities, labels)
    with np.errstate(divide="ignore"):
        return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T > 0 for which `softmax(logits, T)` has the smallest negative log likelihood (sec. 4.2).

    Fit it on validation logits, never on the logits that it is judged by. The likelihood is convex in 1 / T, so the
    minimum is found exactly, by Newton steps kept within a shrinking bracket.

    A classifier that is 98 % sure of each answer and right in 3 of 4:

        >>> logits, labels = 4 * np.eye(2)[[0, 0, 0, 1]], np.array([0, 0, 1, 1])
        >>> softmax(logits).max(axis=1).round(2)
        array([0.98, 0.98, 0.98, 0.98])
        >>> softmax(logits, fit_temperature(logits, labels)).max(axis=1).round(2)
        array([0.75, 0.75, 0.75, 0.75])

    Raises:
      ValueError: also if no finite T > 0 is best: every label has the largest logit of its row (T would be 0), or the
        labels' logits are on average no larger than the means of their rows (T would be infinite).
    """
    logits = _matrix("logits", logits)
    labels = _labels(labels, logits)
    relative = logits - logits[np.arange(len(labels)), labels][:, None]  # the label's own is 0
    if not relative.max(axis=1).sum() > 0:
        raise ValueError(f"temperature has no best value: all {len(labels)} labels have the largest logit of their row")
    if relative.mean() >= 0:
        raise ValueError("temperature has no best value: on average, the labels' logits are not larger than the others")
    shifted = relative - relative.max(axis=1, keepdims=True)
    low, high, inverse = 0.0, np.inf, 1.0
    while True:
        powers = np.exp(inverse * shifted)
        powers /= powers.sum(axis=1, keepdims=True)
        means = np.einsum("nk,nk->n", powers, relative)
        slope = means.mean()
        curvature = np.einsum("nk,nk,nk->n", powers, relative, relative).mean() - (means**2).mean()
        step = inverse - slope / curvature if curvature > 0 else np.nan
        if abs(step - inverse) <= 1e-12 * inverse:
            return float(1 / step)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        if not low < step < high:
            step = 2 * inverse if np.isinf(high) else (low + high) / 2
            if step in (low, high):  # the bracket is as narrow as floats are
                return float(1 / step)
        inverse = step


def _check(probabilities: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    probabilities = _matrix("probabilities", probabilities)
    # 1e-3: a softmax in half precision is that far off; percentages or logits are further.
    wrong = (probabilities < 0).any(axis=1) | (np.abs(probabilities.sum(axis=1) - 1) > 1e-3)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"probabilities must be non-negative with sum 1 in each row, {wrong.sum()} rows are not; "
                         f"row {row} has minimum {probabilities[row].min():g} and sum {probabilities[row].sum():g}")
    return probabilities, _labels(labels, probabilities)


def _matrix(name: str, matrix: ArrayLike) -> np.ndarray:
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} must be (N, K) with N, K > 0, received shape {matrix.shape}")
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} must be finite, received NaN or inf in {(~finite).sum()} rows")
    return matrix


def _labels(labels: ArrayLike, matrix: np.ndarray) -> np.ndarray:
    check_labels("labels", labels, *matrix.shape)
    return np.asarray(labels)
