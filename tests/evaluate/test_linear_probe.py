import json
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from cvjax.evaluate.linear_probe import fold_numbers, linear_probe

QUICK = dict(l2s=(1e-2, 10.0))


@pytest.fixture(scope="module")
def digits():
    """Raw pixels: the 80/20 stratified split that the digits experiments use."""
    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        np.float32(x / 16), y, test_size=0.2, stratify=y, random_state=0
    )
    return train_x, train_y, test_x, test_y


def two_blobs(rows=40, dim=5, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 2
    return (rng.normal(size=(rows, dim)) + 2 * y[:, None]).astype(np.float32), y


def test_the_head_is_the_optimum_that_scikit_learn_finds(digits):
    """The same function on all training rows: l2 = 1 / (C N), and scikit-learn's bias is free of the penalty too.

    The loss curves by l2 = 0.01 or more along the kernel: a gradient of at most 2e-5 per entry, 640 of them, leaves
    at most 2e-5 sqrt(640) / 0.01 = 0.05 for the norm of the error, and some 0.002 for an entry. The bias has no
    penalty.
    """
    train_x, train_y, _, _ = digits
    result = linear_probe(*digits, 10, l2s=(0.01,))
    standard = StandardScaler().fit(train_x)
    regression = LogisticRegression(C=1 / (0.01 * len(train_y)), tol=1e-7, max_iter=2000)
    regression.fit(standard.transform(train_x), train_y)
    kernel = result.kernel * np.where(standard.var_ > 0, np.sqrt(standard.var_), 1)[:, None]
    np.testing.assert_allclose(kernel, regression.coef_.T, atol=2e-3)
    bias = result.bias + train_x.mean(axis=0) @ result.kernel  # of a softmax: up to one number for all classes
    np.testing.assert_allclose(bias - bias.mean(), regression.intercept_ - regression.intercept_.mean(), atol=1e-2)


def test_rounding_of_the_features_does_not_change_the_number(digits):
    """Features in another order of sums differ by some 1e-7 of their size: the same accuracy, penalty and head."""
    train_x, train_y, test_x, test_y = digits
    noise = np.random.default_rng(0).uniform(-1e-6, 1e-6, (2, *train_x.shape)).astype(np.float32)
    first = linear_probe(*digits, 10)
    second = linear_probe(train_x * (1 + noise[0]), train_y, test_x * (1 + noise[1, : len(test_x)]), test_y, 10)
    assert first.accuracy == second.accuracy and first.protocol == second.protocol
    # A fit ends by its gradient, so that kernels of standardised features are what it determines; the raw kernel of a
    # pixel that is nearly always 0 is that by a thousand.
    deviation = train_x.std(axis=0)[:, None]
    np.testing.assert_allclose(first.kernel * deviation, second.kernel * deviation,
                               atol=0.01 * np.abs(first.kernel * deviation).max())
    assert 0.962 <= first.accuracy <= 0.975  # cross-validated logistic regression: 0.967


def test_the_returned_head_reproduces_the_accuracy_on_raw_features(digits):
    _, _, test_x, test_y = digits
    result = linear_probe(*digits, 10, **QUICK)
    assert result.kernel.shape == (64, 10) and result.bias.shape == (10,)
    predictions = (test_x @ result.kernel + result.bias).argmax(axis=1)
    assert result.accuracy == np.mean(predictions == test_y)


def test_protocol_is_json_and_names_the_choice(digits):
    result = linear_probe(*digits, 10, **QUICK)
    assert result.l2 == 1e-2 and result.validation_accuracy > 0.9  # a penalty of 10 leaves nothing of the kernel
    assert json.loads(json.dumps(result.protocol)) == result.protocol
    assert result.protocol["chosen"] == {"l2": 1e-2} and result.protocol["l2s"] == [1e-2, 10.0]
    assert "3 stratified folds, then fitted to all 1437" in result.protocol["selection"]


def test_the_test_set_never_chooses(digits):
    train_x, train_y, test_x, test_y = digits
    honest = linear_probe(train_x, train_y, test_x, test_y, 10, **QUICK)
    shuffled = linear_probe(train_x, train_y, test_x[::-1] * 3, test_y, 10, **QUICK)
    assert honest.protocol == shuffled.protocol
    np.testing.assert_array_equal(honest.kernel, shuffled.kernel)
    assert honest.accuracy > shuffled.accuracy + 0.3


def test_held_out_rows_choose_a_strong_penalty_where_a_weak_one_only_memorises():
    """Labels that are drawn by lot: nothing is to be learnt, and any kernel makes held-out rows less likely."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 40)).astype(np.float32), rng.integers(0, 2, 60)
    assert linear_probe(x, y, x, y, 2, l2s=(1e-3, 10.0)).l2 == 10.0


def test_blocks_change_nothing(monkeypatch):
    """23 rows in blocks of 8, the last one padded, against one block of all."""
    x, y = two_blobs(23)
    whole = linear_probe(x, y, x, y, 2, **QUICK)
    monkeypatch.setattr(sys.modules[linear_probe.__module__], "BLOCK", 8)
    blocks = linear_probe(x, y, x, y, 2, **QUICK)
    assert whole.accuracy == blocks.accuracy
    np.testing.assert_allclose(whole.kernel, blocks.kernel, atol=1e-3 * np.abs(whole.kernel).max())


def test_scale_and_offset_of_features_do_not_matter():
    x, y = two_blobs(200)
    moved = x * np.float32([1e-4, 1, 100, 3, 1e4]) + np.float32([0, 5, -100, 0, 1e4])
    moved = np.concatenate([moved, np.full((200, 1), 0.1, np.float32)], axis=1)  # a constant dimension
    x = np.concatenate([x, np.zeros((200, 1), np.float32)], axis=1)

    def logits(features):
        result = linear_probe(features, y, features, y, 2, l2s=(0.01,))
        return features @ result.kernel + result.bias

    np.testing.assert_allclose(logits(moved), logits(x), atol=5e-3)


def test_folds_take_their_share_of_each_class():
    labels = np.repeat([0, 1, 2, 3], [50, 10, 2, 1])
    fold = fold_numbers(labels, 3)
    assert [np.bincount(fold[labels == name], minlength=3).tolist() for name in (0, 1, 2)] == [
        [17, 17, 16], [4, 3, 3], [1, 1, 0]]
    assert fold[-1] == -1  # a class of one row is always fitted to


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(train_x=np.full((40, 5), np.nan)), "train features must be finite"),
        (dict(test_x=np.full((40, 5), np.inf)), "test features must be finite"),
        (dict(train_y=np.arange(40) % 3), r"train labels must lie in \[0, 2\), received 0 to 2"),
        (dict(test_y=np.full(40, -1)), r"test labels must lie in \[0, 2\), received -1 to -1"),
        (dict(train_y=np.ones(40, int)), "2 or more classes, received only class 1"),
        (dict(train_x=np.ones((2, 5)), train_y=np.array([0, 1])), "2 training examples"),
        (dict(test_x=np.ones((40, 4))), "share D"),
        (dict(l2s=[]), "l2s must be one or more positive"),
        (dict(l2s=[0.1, 0.0]), r"l2s .*received \[0.1, 0.0\]"),
    ],
)
def test_errors_say_what_came_and_what_is_allowed(change, message):
    x, y = two_blobs(40)
    with pytest.raises(ValueError, match=message) as error:
        linear_probe(**dict(train_x=x, train_y=y, test_x=x, test_y=y, num_classes=2) | change)
    assert "\n" not in str(error.value)
