"""Does a classifier that says 80 % get 80 % right? Calibration of predicted probabilities.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks" (https://arxiv.org/abs/1706.04599). All on the host
in float64. Probabilities are float `(N, K)`, rows non-negative with sum 1; logits float `(N, K)`, finite; labels int
`(N,)` in [0, K). Anything else is a ValueError.
"""

from typing import NamedTuple

import numpy as np

from cvjax.evaluate._check import check_labels

BINS = 15  # as in the paper's tables


class Reliability(NamedTuple):
    """A reliability diagram: per bin of confidence, what was promised and what was kept, float64 `(bins,)` each.

    Bin i of M holds the examples whose largest probability is in (i / M, (i + 1) / M].
    """

    confidence: np.ndarray  # mean of the largest probability, in [0, 1]; nan in an empty bin
    accuracy: np.ndarray  # share of right answers, in [0, 1]; nan in an empty bin
    count: np.ndarray  # int64, examples


def softmax(logits, temperature: float = 1.0) -> np.ndarray:
    """Probabilities float64 `(N, K)` of logits divided by a temperature, more than 0."""
    logits = _matrix("logits", logits)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, received {temperature}")
    # Shifted before dividing: a small temperature then underflows to 0 and never overflows.
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def reliability(probabilities, labels, *, bins: int = BINS) -> Reliability:
    """Confidence, accuracy and count per bin (sec. 2); of equally probable classes the first is the answer."""
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


def expected_calibration_error(probabilities, labels, *, bins: int = BINS) -> float:
    """Mean over examples of |accuracy - confidence| of their bin, in [0, 1] (sec. 2, eq. 3).

    Bins of equal width and the largest probability alone, as in the paper. Bins of few examples bias it upwards: a
    perfectly calibrated model has up to `sqrt(bins / N) / 2` on average.
    """
    confidence, accuracy, count = reliability(probabilities, labels, bins=bins)
    gaps = np.where(count > 0, np.abs(accuracy - confidence), 0.0)
    return float((gaps * count).sum() / count.sum())


def negative_log_likelihood(probabilities, labels) -> float:
    """Mean of -log(probability of the label), in nats, 0 or more; inf where a label was given probability 0."""
    probabilities, labels = _check(probabilities, labels)
    with np.errstate(divide="ignore"):
        return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def fit_temperature(logits, labels) -> float:
    """The temperature T > 0 for which `softmax(logits, T)` has the smallest negative log likelihood (sec. 4.2).

    Fit on validation logits, never on those that are judged with it. In 1 / T the likelihood is convex, so the minimum
    is found exactly, by Newton steps kept in a shrinking bracket.

    Raises:
      ValueError: also where no finite T > 0 is best: when every label has the largest logit of its row (T would be 0),
        or when the labels' logits are on average no larger than the rows' means (T would be infinite).
    """
    logits = _matrix("logits", logits)
    labels = _labels(labels, logits)
    relative = logits - logits[np.arange(len(labels)), labels][:, None]  # the label's own is 0
    if not relative.max(axis=1).sum() > 0:
        raise ValueError(f"temperature has no best value: all {len(labels)} labels have the largest logit of their row")
    if relative.mean() >= 0:
        raise ValueError("temperature has no best value: the labels' logits are on average no larger than the others")
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


def _check(probabilities, labels) -> tuple[np.ndarray, np.ndarray]:
    probabilities = _matrix("probabilities", probabilities)
    # 1e-3: a softmax in half precision is that far off; percentages or logits are further.
    wrong = (probabilities < 0).any(axis=1) | (np.abs(probabilities.sum(axis=1) - 1) > 1e-3)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"probabilities must be non-negative with sum 1 in each row, {wrong.sum()} rows are not; "
                         f"row {row} has minimum {probabilities[row].min():g} and sum {probabilities[row].sum():g}")
    return probabilities, _labels(labels, probabilities)


def _matrix(name: str, matrix) -> np.ndarray:
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} must be (N, K) with N, K > 0, received shape {matrix.shape}")
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} must be finite, received NaN or inf in {(~finite).sum()} rows")
    return matrix


def _labels(labels, matrix: np.ndarray) -> np.ndarray:
    check_labels("labels", labels, *matrix.shape)
    return np.asarray(labels)
