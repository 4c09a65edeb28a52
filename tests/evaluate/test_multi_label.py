"""Scores of images with several labels, against scikit-learn's."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from cvjax.evaluate.multi_label import average_precision, label_scores, label_table, multi_label_scores


def drawn(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.random.default_rng(seed)
    truth = numbers.random((40, 5)) < [0.05, 0.2, 0.5, 0.9, 1.0]
    truth[0] = True
    probabilities = np.clip(numbers.random((40, 5)) * 0.7 + 0.3 * truth, 0, 1)
    return (probabilities.round(1) if ties else probabilities).astype(np.float32), truth.astype(np.float32)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_each_label_as_scikit_learn(seed, ties):
    probabilities, truth = drawn(seed, ties)
    expected = average_precision_score(truth, probabilities, average=None)
    np.testing.assert_allclose(average_precision(probabilities, truth), expected, rtol=1e-12)  # float64 sums of 40
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = precision_recall_fscore_support(truth, probabilities >= 0.5, zero_division=0)
    for ours, their in zip(label_scores(probabilities, truth), theirs, strict=True):
        np.testing.assert_allclose(ours, their, rtol=1e-12)
    found = multi_label_scores(probabilities, truth)
    assert found["map"] == pytest.approx(average_precision_score(truth, probabilities, average="macro"), rel=1e-12)
    assert found["f1"] == pytest.approx(theirs[2].mean(), rel=1e-12)


def test_a_label_that_no_image_has_is_named_and_left_out_of_the_mean():
    probabilities, truth = drawn(0, False)
    truth[:, 2] = 0
    without = np.array([0, 1, 3, 4])
    assert np.isnan(average_precision(probabilities, truth)[2])
    assert multi_label_scores(probabilities, truth) == multi_label_scores(probabilities[:, without], truth[:, without])
    lines = label_table(probabilities, truth, list("abcde")).splitlines()
    assert lines[3].split() == ["c", "-", "-", "-", "-", "0"]
    assert lines[-1] == "no image has, left out of the mean: c" and lines[-2].startswith("mean")
    assert f"{100 * multi_label_scores(probabilities, truth)['map']:.2f} %" in lines[-2]
    assert np.isnan(multi_label_scores(probabilities, 0 * truth)["map"])
    assert "mean " not in label_table(probabilities, 0 * truth, list("abcde")).splitlines()[-2]


@pytest.mark.parametrize("probabilities, truth", [
    (np.zeros((2, 3)), np.zeros((2, 2))), (np.zeros((0, 3)), np.zeros((0, 3))),
    (np.full((2, 1), np.nan), np.zeros((2, 1))),
    (np.zeros((2, 1)), np.full((2, 1), 0.5)), (np.zeros(2), np.zeros(2))])
def test_other_arrays_are_refused(probabilities, truth):
    with pytest.raises(ValueError, match="probabilities"):
        average_precision(probabilities, truth)
