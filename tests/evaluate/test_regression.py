"""Errors of predicted numbers, against scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from cvjax.evaluate.regression import column_errors, regression_scores, regression_table

NUMBERS = np.random.default_rng(0)
TRUTH = NUMBERS.standard_normal((30, 3)) * [1, 1000, 1e-3] + [0, 1e6, 0]
FOUND = TRUTH + NUMBERS.standard_normal((30, 3)) * [0.3, 2000, 1e-4]


def test_each_column_and_the_means_as_scikit_learn():
    errors = column_errors(FOUND, TRUTH)
    for ours, theirs in zip(errors, (mean_absolute_error, root_mean_squared_error, r2_score), strict=True):
        expected = theirs(TRUTH, FOUND, multioutput="raw_values")
        np.testing.assert_allclose(ours, expected, rtol=1e-9)  # sums of 30 float64; the mean 1e6 takes three digits
    assert errors.r2[1] < 0 < errors.r2[0], "a prediction worse than the mean is below 0"
    found = regression_scores(FOUND, TRUTH)
    assert found == pytest.approx({"mae": mean_absolute_error(TRUTH, FOUND), "r2": r2_score(TRUTH, FOUND),
                                   "rmse": root_mean_squared_error(TRUTH, FOUND)}, rel=1e-9)


def test_a_column_without_spread_is_named_and_has_no_part_in_the_mean_of_r2():
    truth = TRUTH.copy()
    truth[:, 1] = 7
    assert np.isnan(column_errors(FOUND, truth).r2[1])
    assert regression_scores(FOUND, truth)["r2"] == pytest.approx(column_errors(FOUND, TRUTH).r2[[0, 2]].mean())
    lines = regression_table(FOUND, truth, ["a", "b", "c"]).splitlines()
    assert lines[2].split()[3] == "-" and lines[-1] == "all truths are equal, so that there is no R2: b"
    assert np.isnan(regression_scores(FOUND[:, 1:2], truth[:, 1:2])["r2"])


def test_the_table_has_a_row_for_each_column_and_a_mean_of_several():
    table = regression_table([[1.0, 0], [2, 0]], [[1.0, 1], [4, 3]], ["age", "height"])
    assert [line.split() for line in table.splitlines()] == [
        ["column", "MAE", "RMSE", "R2", "mean", "deviation"],
        ["age", "1", "1.414", "0.1111", "2.5", "1.5"],  # 1 - (0 + 4) / (2 x 1.5^2)
        ["height", "2", "2.236", "-4.0000", "2", "1"],
        ["mean", "1.5", "1.825", "-1.9444"]]
    assert len(regression_table([[1.0], [2]], [[1.0], [4]], ["age"]).splitlines()) == 2


@pytest.mark.parametrize("found, truth", [(np.zeros((2, 3)), np.zeros((2, 2))), (np.zeros((0, 3)), np.zeros((0, 3))),
                                          (np.full((2, 1), np.nan), np.zeros((2, 1))), (np.zeros(2), np.zeros(2))])
def test_other_arrays_are_refused(found, truth):
    with pytest.raises(ValueError, match="predictions and truth"):
        column_errors(found, truth)
