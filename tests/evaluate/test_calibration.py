"""Calibration: hand-made cases, a slow loop, scikit-learn, and synthetic data whose calibration is known."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from cvjax.evaluate.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    softmax,
)


def drawn(count, classes, seed, scale=2.0):
    """Logits, and labels drawn from exactly their probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes), scale=scale)
    uniform = rng.uniform(size=(count, 1))
    labels = (np.cumsum(softmax(logits), axis=1) < uniform).sum(axis=1).clip(max=classes - 1)
    return logits, labels


def test_bins_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    found = reliability(probabilities, np.array([0, 0, 0, 1]), bins=4)
    # Confidences .9 and .8 are in (.75, 1], .6 in (.5, .75], .5 on the edge of (.25, .5]; of equals the first wins.
    np.testing.assert_array_equal(found.count, [0, 1, 1, 2])
    np.testing.assert_allclose(found.confidence, [np.nan, 0.5, 0.6, 0.85])
    np.testing.assert_allclose(found.accuracy, [np.nan, 0.0, 1.0, 0.5])
    expected = (1 * 0.5 + 1 * 0.4 + 2 * 0.35) / 4
    assert expected_calibration_error(probabilities, np.array([0, 0, 0, 1]), bins=4) == pytest.approx(expected)


def test_a_certain_model_that_is_wrong_has_error_one_and_one_that_is_right_has_none():
    certain = np.eye(3)[[0, 1, 2, 0]]
    assert expected_calibration_error(certain, np.array([1, 2, 0, 2])) == 1
    assert expected_calibration_error(certain, np.array([0, 1, 2, 0])) == 0
    np.testing.assert_array_equal(reliability(certain, np.array([0, 1, 2, 0])).count, [0] * 14 + [4])


def test_a_calibrated_model_has_an_error_near_zero_and_a_sharpened_one_has_not():
    """The accuracy of a bin of n differs from its confidence by at most sqrt(1 / 4 / n) on average; weighted by n / N
    over M bins that is at most sqrt(M / N) / 2 = 0.006. One label moves the error by at most 1 / N, so it exceeds its
    mean by 0.01 with probability below exp(-2 N 0.01**2) = 2e-9 (McDiarmid)."""
    logits, labels = drawn(100_000, 5, seed=0)
    assert expected_calibration_error(softmax(logits), labels) < 0.006 + 0.01
    assert expected_calibration_error(softmax(logits, 0.5), labels) > 0.1


def test_error_is_that_of_a_slow_loop():
    logits, labels = drawn(500, 4, seed=1)
    probabilities, total = softmax(logits), 0.0
    for i in range(15):
        inside = [(p.max(), p.argmax() == y) for p, y in zip(probabilities, labels) if i / 15 < p.max() <= (i + 1) / 15]
        if inside:
            total += len(inside) * abs(np.mean([c for c, _ in inside]) - np.mean([right for _, right in inside]))
    assert expected_calibration_error(probabilities, labels) == pytest.approx(total / 500, rel=1e-12)


def test_bins_are_those_of_scikit_learn():
    """Its calibration curve of "was the answer right" against the confidence, without empty bins."""
    logits, labels = drawn(2000, 3, seed=2)
    probabilities = softmax(logits)
    right = probabilities.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(right, probabilities.max(axis=1), n_bins=15)
    found = reliability(probabilities, labels)
    held = found.count > 0
    np.testing.assert_allclose(found.accuracy[held], accuracy)
    np.testing.assert_allclose(found.confidence[held], confidence)
    assert found.count.sum() == 2000 and held.sum() == len(accuracy) == 10, "3 classes: nothing up to 1/3"


def test_negative_log_likelihood_is_that_of_scikit_learn():
    logits, labels = drawn(300, 4, seed=3)
    found = negative_log_likelihood(softmax(logits), labels)
    assert found == pytest.approx(log_loss(labels, softmax(logits), labels=range(4)), rel=1e-12)
    assert negative_log_likelihood([[0.25, 0.75]], [1]) == pytest.approx(np.log(4 / 3))
    assert negative_log_likelihood([[1.0, 0.0]], [1]) == np.inf


def test_softmax_with_a_temperature():
    np.testing.assert_allclose(softmax([[0.0, np.log(9.0)]]), [[0.1, 0.9]])
    np.testing.assert_allclose(softmax([[0.0, np.log(9.0)]], 2.0), [[0.25, 0.75]])
    np.testing.assert_array_equal(softmax([[1e4, 0.0, -1e4]], 1e-300), [[1, 0, 0]])


def test_temperature_is_the_minimum_that_scipy_finds():
    logits, labels = drawn(400, 5, seed=4)
    logits *= 3.0
    found = minimize_scalar(lambda t: negative_log_likelihood(softmax(logits, t), labels), (0.5, 3.0), tol=1e-10)
    # A search by values sees a minimum only to the square root of the rounding: 1e-8, and some for the curvature.
    assert fit_temperature(logits, labels) == pytest.approx(found.x, rel=1e-6)


@pytest.mark.parametrize("true", [1e-3, 0.2, 1.0, 7.0, 1e4])
def test_temperature_undoes_what_logits_were_multiplied_by(true):
    """Exactly in proportion, whatever the size; and near the truth: with N = 20000 the standard error is about 1 %."""
    logits, labels = drawn(20_000, 4, seed=5)
    assert fit_temperature(logits * true, labels) == pytest.approx(true * fit_temperature(logits, labels), rel=1e-9)
    assert fit_temperature(logits * true, labels) == pytest.approx(true, rel=0.05)


def test_temperature_scaling_repairs_a_sharpened_model():
    logits, labels = drawn(40_000, 5, seed=6)
    sharp, validation, test = logits * 3.0, slice(20_000), slice(20_000, None)
    temperature = fit_temperature(sharp[validation], labels[validation])
    before, after = (expected_calibration_error(softmax(sharp[test], t), labels[test]) for t in (1.0, temperature))
    # sqrt(15 / 20000) / 2 = 0.014, 0.014 above it with probability 4e-4, and 0.01 for a temperature that is off by 2 %.
    assert before > 0.15 and after < 0.04


def test_float32_and_bfloat16_like_rounding_of_probabilities_is_accepted():
    logits, labels = drawn(1000, 100, seed=7)
    exact = softmax(logits)
    assert expected_calibration_error(exact.astype(np.float32), labels) == pytest.approx(
        expected_calibration_error(exact, labels), abs=1e-3)  # an example may change its bin
    assert reliability([[0.9996, 0.0], [1.0004, 0.0]], [0, 0]).count[-1] == 2, "a confidence just above 1 has a bin too"


GOOD = np.full((4, 2), 0.5)


@pytest.mark.parametrize("probabilities, labels, message", [
    (np.ones(3), [0, 0, 0], r"probabilities must be \(N, K\) with N, K > 0, received shape \(3,\)"),
    (np.ones((0, 2)), [], r"probabilities must be \(N, K\)"),
    (np.array([[np.nan, 1.0], [0.5, 0.5]]), [0, 0], "probabilities must be finite, received NaN or inf in 1 rows"),
    (np.array([[0.5, 0.5], [2.0, -1.0]]), [0, 0], "sum 1 in each row, 1 rows are not; row 1 has minimum -1 and sum 1"),
    (GOOD * 3, [0] * 4, "4 rows are not; row 0 has minimum 1.5 and sum 3"),
    (GOOD, [0, 0], r"labels must be integers of shape \(4,\), received int64 of shape \(2,\)"),
    (GOOD, [0.0] * 4, r"labels must be integers of shape \(4,\), received float64"),
    (GOOD, [0, 1, 2, 0], r"labels must lie in \[0, 2\), received 0 to 2"),
])
def test_what_cannot_be_is_refused_in_one_line(probabilities, labels, message):
    for function in (reliability, expected_calibration_error, negative_log_likelihood):
        with pytest.raises(ValueError, match=message) as error:
            function(probabilities, np.array(labels))
        assert "\n" not in str(error.value)


def test_bins_and_temperatures_out_of_range_are_refused():
    with pytest.raises(ValueError, match="bins must be at least 1, received 0"):
        reliability(GOOD, [0] * 4, bins=0)
    for temperature in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="temperature must be positive"):
            softmax(GOOD, temperature)


def test_no_temperature_where_none_is_best():
    logits = np.array([[2.0, 1.0], [0.0, 3.0]])
    with pytest.raises(ValueError, match="no best value: all 2 labels have the largest logit of their row"):
        fit_temperature(logits, [0, 1])
    with pytest.raises(ValueError, match="no best value: on average, the labels' logits are not larger"):
        fit_temperature(logits, [1, 0])
    with pytest.raises(ValueError, match="logits must be finite"):
        fit_temperature(logits + np.inf, [0, 1])
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\)"):
        fit_temperature(logits, [0, 2])
