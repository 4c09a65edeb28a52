import json

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from cvjax.evaluate import few_shot
from cvjax.evaluate.few_shot import BIAS, draw_shots, fit_ridge


def blobs(per_class, seed, dim=6, classes=3, spread=1.0):
    """Overlapping classes, correlated features with offsets and scales of their own."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(99)
    centres, mix = shared.normal(size=(classes, dim)), shared.normal(size=(dim, dim))
    y = np.repeat(np.arange(classes), per_class)
    x = (centres[y] + spread * rng.normal(size=(len(y), dim))) @ mix * np.logspace(-1, 2, dim) + 50
    return np.float32(x), y


def solve(x, y, classes, l2):
    """The definition: standardise, add the bias column, solve the normal equations."""
    x = np.float64(x)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    design = np.hstack([(x - mean) / scale, np.full((len(x), 1), BIAS)])
    target = np.where(np.arange(classes) == y[:, None], 1.0, -1.0)
    weights = np.linalg.solve(design.T @ design + l2 * np.eye(design.shape[1]), design.T @ target)
    return lambda new: np.hstack([(new - mean) / scale, np.full((len(new), 1), BIAS)]) @ weights, design, target


@pytest.mark.parametrize("per_class, dim", [(10, 6), (2, 40), (7, 20)])  # N > D + 1, N < D + 1, N = D + 1
@pytest.mark.parametrize("l2", [0.01, 1024.0])
def test_regression_is_the_solution_of_the_normal_equations(per_class, dim, l2):
    x, y = blobs(per_class, 0, dim)
    new, _ = blobs(5, 1, dim)
    ridge = fit_ridge(x, y, 3, [l2])
    predict, _, _ = solve(x, y, 3, l2)
    # The solver loses the condition number, at most 1e4 * 30 / 0.01, of 1e-16: 3e-9.
    np.testing.assert_allclose(new @ ridge.kernel + ridge.bias, predict(new), rtol=1e-7, atol=1e-7)
    assert ridge.l2 == l2 and ridge.kernel.dtype == np.float64


def test_regression_is_sklearns_when_the_bias_is_free():
    """sklearn does not regularise the bias at all: with 100 for the column, l2 / (N 1e4) of it is missing here."""
    x, y = blobs(10, 0)
    ridge = fit_ridge(x, y, 3, [2.0])
    standardised = (np.float64(x) - x.mean(axis=0, dtype=float)) / np.float64(x).std(axis=0)
    reference = Ridge(2.0).fit(standardised, np.where(np.arange(3) == y[:, None], 1.0, -1.0))
    np.testing.assert_allclose(x @ ridge.kernel + ridge.bias, reference.predict(standardised), atol=2 / (30 * 1e4))


@pytest.mark.parametrize("per_class, dim", [(5, 6), (3, 40)])
def test_l2_is_chosen_by_leaving_each_row_out(per_class, dim):
    """Refit without each row, in the standardisation of all of them; on several sets, as one may agree by chance."""
    grid = [4.0**i for i in range(-2, 11)]
    equals = 0
    for seed in range(8):
        x, y = blobs(per_class, seed, dim, spread=2.0)
        scores = []
        for l2 in grid:
            _, design, target = solve(x, y, 3, l2)
            wrong, error = 0, 0.0
            for row in range(len(x)):
                kept = np.arange(len(x)) != row
                gram = design[kept] @ design[kept].T + l2 * np.eye(len(x) - 1)
                output = design[row] @ design[kept].T @ np.linalg.solve(gram, target[kept])
                wrong += output.argmax() != y[row]
                error += np.sum((target[row] - output) ** 2)
            scores.append((wrong, error))
        fewest = [wrong for wrong, _ in scores].index(min(scores)[0])
        equals += scores.index(min(scores)) != fewest
        assert fit_ridge(x, y, 3, grid).l2 == grid[scores.index(min(scores))]
    assert equals  # somewhere several had the fewest wrong, and the first was not the best


def test_accuracy_of_the_solver_where_float32_has_no_digits():
    """Correlated features, L2 = 1/16: float64 errs by less than 1e-6, the same closed form in float32 by a 1000th."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = np.float32(rng.normal(size=(120, 20)) @ rng.normal(size=(20, 150)) + 0.01 * rng.normal(size=(120, 150)))
    _, design, target = solve(x, y, 3, 1.0)
    # Least squares of the rows and 1/4 of the identity: the ridge without squaring the condition number.
    rows = np.vstack([design, 0.25 * np.eye(151)])
    exact = design @ np.linalg.lstsq(rows, np.vstack([target, np.zeros((151, 3))]), rcond=None)[0]
    ridge = fit_ridge(x, y, 3, [0.0625])
    single, l2 = np.float32(design), np.float32(0.0625)
    eigenvalues, basis = np.linalg.eigh(single @ single.T)
    fitted = single @ (single.T @ (basis / (eigenvalues + l2)) @ (basis.T @ np.float32(target)))
    assert np.abs(x @ ridge.kernel + ridge.bias - exact).max() < 1e-6
    assert np.abs(fitted - exact).max() > 1e-3


def test_few_shots_of_separable_classes_suffice():
    train, test = blobs(20, 0, dim=40, spread=0.01), blobs(30, 1, dim=40, spread=0.01)
    for shots in (1, 2, 5):
        result = few_shot(*train, *test, 3, shots=shots, draws=3)
        assert result.accuracy == 1 and result.deviation == 0 and result.accuracies == (1, 1, 1)


def test_result_is_that_of_its_draws():
    (train_x, train_y), (test_x, test_y) = blobs(20, 0), blobs(30, 1)
    result = few_shot(train_x, train_y, test_x, test_y, 3, shots=4, draws=3, l2s=(1.0, 64.0), seed=5)
    accuracies = []
    for draw, l2 in enumerate(result.l2):
        rows = draw_shots(train_y, 4, (5, draw))
        ridge = fit_ridge(train_x[rows], train_y[rows], 3, (1.0, 64.0))
        assert ridge.l2 == l2
        accuracies.append(np.mean((test_x @ ridge.kernel + ridge.bias).argmax(axis=1) == test_y))
    assert result.accuracies == tuple(accuracies) and len(set(accuracies)) > 1
    mean = sum(accuracies) / 3
    assert result.accuracy == pytest.approx(mean)
    assert result.deviation == pytest.approx((sum((a - mean) ** 2 for a in accuracies) / 2) ** 0.5)
    assert json.loads(json.dumps(result.protocol)) == result.protocol
    assert result.protocol["chosen"] == list(result.l2) and result.protocol["shots"] == 4
    assert few_shot(train_x, train_y, test_x, test_y, 3, shots=4, draws=3, l2s=(1.0, 64.0), seed=5) == result
    assert few_shot(train_x, train_y, test_x, test_y, 3, shots=4, draws=3, l2s=(1.0, 64.0), seed=6) != result


def test_the_test_set_chooses_nothing():
    (train_x, train_y), (test_x, test_y) = blobs(20, 0), blobs(30, 1)
    result = few_shot(train_x, train_y, test_x, test_y, 3, shots=4)
    assert few_shot(train_x, train_y, test_x[::-1] * 2, (test_y + 1) % 3, 3, shots=4).l2 == result.l2


def test_one_shot_keeps_the_regularisation_of_big_vision():
    (train_x, train_y), test = blobs(20, 0), blobs(30, 1)
    result = few_shot(train_x, train_y, *test, 3, shots=1, draws=2)
    assert result.l2 == (1024, 1024) and result.protocol["l2s"] == [1024]


def test_draws_are_nested_balanced_and_without_repetition():
    y = np.array([2, 0, 1, 0, 2, 1, 1, 0, 2, 2])
    two, three = draw_shots(y, 2, (0, 1)), draw_shots(y, 3, (0, 1))
    assert y[two].tolist() == [0, 0, 1, 1, 2, 2] and len(set(two)) == 6 and set(two) < set(three)
    assert {tuple(draw_shots(y, 2, (0, draw))) for draw in range(5)} != {tuple(two)}


def test_a_constant_feature_changes_nothing():
    (train_x, train_y), (test_x, test_y) = blobs(20, 0), blobs(30, 1)
    plain = few_shot(train_x, train_y, test_x, test_y, 3, shots=4)
    more = [np.hstack([x, np.full((len(x), 1), value, np.float32)]) for x, value in ((train_x, 0.1), (test_x, 7.0))]
    assert few_shot(more[0], train_y, more[1], test_y, 3, shots=4).accuracies == plain.accuracies


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(shots=0), "shots must be from 1 to 4, the examples of class 0, received 0"),
        (dict(shots=5), "from 1 to 4, .* received 5"),
        (dict(num_classes=4), "from 1 to 0, the examples of class 3"),
        (dict(draws=1), "draws must be at least 2 .* received 1"),
        (dict(l2s=()), r"l2s must be one or more positive numbers, received \(\)"),
        (dict(l2s=(1.0, 0.0)), r"received \(1.0, 0.0\)"),
        (dict(train_x=np.full((12, 6), np.nan)), "train features must be finite"),
        (dict(test_y=np.full(30, 3)), r"test labels must lie in \[0, 3\)"),
        (dict(test_x=np.zeros((30, 5))), "share D"),
    ],
)
def test_errors_say_what_came_and_what_is_allowed(change, message):
    (train_x, train_y), (test_x, test_y) = blobs(4, 0), blobs(10, 1)
    arguments = dict(train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y, num_classes=3, shots=2) | change
    with pytest.raises(ValueError, match=message) as error:
        few_shot(**arguments)
    assert "\n" not in str(error.value)
