import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from cvjax.evaluate import knn, knn_accuracy, knn_scores


def random_set(rows, seed, dim=7, classes=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, dim)).astype(np.float32), rng.integers(0, classes, rows)


def brute_force(train_x, train_y, test_x, classes, k, temperature):
    """The definition, in float64, one test example at a time."""
    train_x, test_x = np.float64(train_x), np.float64(test_x)
    train_x /= np.linalg.norm(train_x, axis=1, keepdims=True)
    test_x /= np.linalg.norm(test_x, axis=1, keepdims=True)
    scores = np.zeros((len(test_x), classes))
    for row, x in enumerate(test_x):
        similarity = train_x @ x
        for neighbour in np.argsort(-similarity, kind="stable")[:k]:
            scores[row, train_y[neighbour]] += np.exp(similarity[neighbour] / temperature)
    return scores / scores.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "k, test_block, train_block",
    [(5, 256, 8192), (5, 4, 10), (5, 1, 1), (1, 5, 60), (61, 23, 3), (61, 4, 10)],  # 61 train, 23 test rows
)
def test_equals_brute_force_for_any_blocks(k, test_block, train_block):
    (train_x, train_y), (test_x, _) = random_set(61, 0), random_set(23, 1)
    blocks = dict(test_block=test_block, train_block=train_block)
    scores = knn_scores(train_x, train_y, test_x * 1000, 4, k=k, temperature=0.5, **blocks)
    assert scores.shape == (23, 4) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, brute_force(train_x, train_y, test_x, 4, k, 0.5), atol=1e-6)


def test_padding_never_votes():
    # All similarities are negative: a zero-padded training row (similarity 0, class 0) would win.
    train_x, train_y = -np.ones((5, 3), np.float32), np.array([1, 1, 1, 2, 2])
    scores = knn_scores(train_x, train_y, np.ones((2, 3), np.float32), 3, k=5, train_block=4)
    np.testing.assert_allclose(scores, [[0, 0.6, 0.4]] * 2, atol=1e-6)


def test_equals_sklearn_on_digits():
    digits = load_digits()
    train_x, test_x = np.float32(digits.data[:600]), np.float32(digits.data[600:900])
    train_y, test_y = digits.target[:600], digits.target[600:900]
    reference = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    predictions = reference.fit(train_x, train_y).predict(test_x)
    scores = knn_scores(train_x, train_y, test_x, 10, k=20, test_block=128, train_block=250)
    np.testing.assert_array_equal(scores.argmax(axis=1), predictions)
    accuracy = np.mean(predictions == test_y)
    assert knn_accuracy(train_x, train_y, test_x, test_y, 10, ks=(20,)) == {20: accuracy}


def test_ties_go_to_the_earlier_example_in_any_block():
    train_x, train_y = np.eye(3, dtype=np.float32)[[0, 1, 1, 1, 1]], np.array([0, 3, 2, 1, 0])
    for train_block in (1, 2, 5):
        scores = knn_scores(train_x, train_y, train_x[1:2], 4, k=2, train_block=train_block)
        np.testing.assert_allclose(scores, [[0, 0, 0.5, 0.5]])


def test_a_tiny_temperature_is_nearest_neighbour():
    (train_x, train_y), (test_x, _) = random_set(61, 0), random_set(23, 1)
    sharp = knn_scores(train_x, train_y, test_x, 4, k=10, temperature=1e-4)
    nearest = knn_scores(train_x, train_y, test_x, 4, k=1)
    np.testing.assert_array_equal(sharp.argmax(axis=1), nearest.argmax(axis=1))


def test_each_accuracy_is_that_of_its_own_k():
    (train_x, train_y), (test_x, test_y) = random_set(61, 0), random_set(23, 1)
    accuracies = knn_accuracy(train_x, train_y, test_x, test_y, 4, ks=(1, 7, 30), test_block=5, train_block=9)
    for k, accuracy in accuracies.items():
        scores = knn_scores(train_x, train_y, test_x, 4, k=k)
        assert accuracy == np.mean(scores.argmax(axis=1) == test_y)


def test_k_beyond_the_training_set():
    (train_x, train_y), (test_x, test_y) = random_set(61, 0), random_set(23, 1)
    with pytest.warns(UserWarning, match=r"leaves out k=\[100, 200\]: only 61"):
        assert list(knn_accuracy(train_x, train_y, test_x, test_y, 4)) == [10, 20]
    with pytest.raises(ValueError, match="at most N=61, received \\(62,\\)"):
        knn_accuracy(train_x, train_y, test_x, test_y, 4, ks=(62,))
    with pytest.raises(ValueError, match="from 1 to N=61 training examples, received 62"):
        knn_scores(train_x, train_y, test_x, 4, k=62)


def test_one_compilation_for_all_blocks():
    (train_x, train_y), (test_x, _) = random_set(61, 0), random_set(23, 1)
    knn._search.clear_cache()
    knn_scores(train_x, train_y, test_x, 4, k=5, test_block=4, train_block=10)
    assert knn._search._cache_size() == 1


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(train_x=np.full((61, 7), np.nan)), "train features must be finite, .* NaN or inf in 61 rows"),
        (dict(test_x=np.zeros((23, 6))), r"share D, received \(61, 7\) and \(23, 6\)"),
        (dict(test_x=np.zeros((0, 7))), r"test features must be \(N, D\)"),
        (dict(train_y=np.full(61, 4)), r"train labels must lie in \[0, 4\), received 4 to 4"),
        (dict(train_y=np.zeros(61)), "integers .*received float64"),
        (dict(train_y=np.zeros(60, int)), r"shape \(61,\), received int64 of shape \(60,\)"),
        (dict(temperature=0.0), "temperature must be positive, received 0.0"),
        (dict(train_block=0), "at least 1 row, .*train_block=0"),
    ],
)
def test_errors_say_what_came_and_what_is_allowed(change, message):
    (train_x, train_y), (test_x, _) = random_set(61, 0), random_set(23, 1)
    arguments = dict(train_x=train_x, train_y=train_y, test_x=test_x, num_classes=4, k=3) | change
    with pytest.raises(ValueError, match=message) as error:
        knn_scores(**arguments)
    assert "\n" not in str(error.value)
