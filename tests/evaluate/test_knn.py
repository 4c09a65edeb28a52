import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from cvjax.evaluate import knn, knn_accuracy, knn_scores, nearest_neighbours


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


def brute_neighbours(train_x, test_x, k):
    """Similarities and row numbers by the definition, in float64."""
    train_x, test_x = (np.float64(x) / np.linalg.norm(np.float64(x), axis=1, keepdims=True) for x in (train_x, test_x))
    similarity = test_x @ train_x.T
    index = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarity, index, axis=1), index


# Similarities of unit rows in float32: 7 products and the two norms err by about 2^-24 each, together below 1e-6.
ROUNDING = 1e-6


@pytest.mark.parametrize(
    "k, test_block, train_block",
    [
        (3, 16, 1000),  # the chunks of one block
        (3, 16, 160),  # of several blocks, the last one filled up
        (5, 23, 170),  # 5 chunks of 6 in a block: the fewest that are left out
        (6, 7, 170),  # all chunks: the whole block at once
        (200, 23, 1000),
    ],
)
def test_neighbours_equal_brute_force_exactly(k, test_block, train_block):
    (train_x, _), (test_x, _) = random_set(1001, 0), random_set(23, 1)
    wanted, index = brute_neighbours(train_x, test_x, min(k + 1, 1001))
    assert np.diff(wanted, axis=1).max() < -1e-9  # no ties; closer than float32 sees is checked on the similarities
    similarity, found = nearest_neighbours(train_x * 1e-30, test_x * 1e25, k, test_block=test_block,
                                           train_block=train_block)
    assert similarity.dtype == np.float32 and found.dtype == np.int32 and similarity.shape == found.shape == (23, k)
    np.testing.assert_allclose(similarity, wanted[:, :k], atol=ROUNDING)
    told_apart = -np.diff(wanted, axis=1) > 2 * ROUNDING
    sure = told_apart[:, :k] & np.pad(told_apart, [(0, 0), (1, 0)], constant_values=True)[:, :k]
    assert sure.mean() > 0.95
    np.testing.assert_array_equal(found[sure], index[:, :k][sure])


def integer_set(rows, seed):
    """Of norm 2 and entries -1, 0 and 1: similarities are multiples of 1/4, exact in float32, and full of ties."""
    rng = np.random.default_rng(seed)
    x = np.zeros((rows, 7), np.float32)
    for row in x:
        row[rng.permutation(7)[:4]] = rng.choice([-1, 1], 4)
    return x


@pytest.mark.parametrize("k, train_block", [(1, 500), (5, 500), (3, 128), (40, 500), (500, 100)])
def test_ties_of_neighbours_go_to_the_earlier_example(k, train_block):
    train_x, test_x = integer_set(500, 0), integer_set(23, 1)
    similarity, index = nearest_neighbours(train_x, test_x, k, train_block=train_block)
    wanted, order = brute_neighbours(train_x, test_x, k)
    np.testing.assert_array_equal(similarity, wanted)
    np.testing.assert_array_equal(index, order)


def test_copies_of_an_example_are_equal_wherever_they_stand():
    """A matrix product may round a row at its edge differently from one in the middle; here this must not show."""
    (train_x, _), (test_x, _) = random_set(1001, 0, dim=33), random_set(23, 1, dim=33)
    copies = np.array([3, 17, 160, 498, 777, 1000])
    train_x[copies] = train_x[3]
    similarity, index = nearest_neighbours(train_x, train_x[3:4] + 0.01 * test_x, 6, train_block=250)
    np.testing.assert_array_equal(index, np.tile(copies, (23, 1)))
    assert (similarity == similarity[:, :1]).all()


def test_neighbours_of_a_zero_row_are_the_first_examples():
    (train_x, _), _ = random_set(61, 0), None
    similarity, index = nearest_neighbours(train_x, np.zeros((1, 7)), 3)
    assert not similarity.any() and index.tolist() == [[0, 1, 2]]


def test_padding_is_no_neighbour():
    # All similarities are negative: a zero row in the place of padding would stand before every example.
    train_x = -1 - np.random.default_rng(0).random((1001, 7), np.float32)
    wanted, index = brute_neighbours(train_x, np.ones((1, 7)), 3)
    similarity, found = nearest_neighbours(train_x, np.ones((1, 7)), 3)
    np.testing.assert_allclose(similarity, wanted, atol=ROUNDING)
    assert found.tolist() == index.tolist()


def test_padding_takes_no_chunks_place():
    """Blocks are of 160 rows; one has the last 100, in 4 chunks, and then a chunk of copies of the last row."""
    (train_x, _), (test_x, _) = random_set(900, 0), random_set(1, 1)
    nearest = [899, 868, 840]  # one in each chunk
    train_x[nearest] = test_x + 0.01 * np.arange(3)[:, None] * train_x[:3]
    assert nearest_neighbours(train_x, test_x, 3, train_block=130)[1].tolist() == [nearest]


def test_eight_devices_find_what_one_finds(python):
    """Ties on every border of shares and blocks; 3 rows on 8 devices, so that some hold only padding."""
    code = """
import json, sys
sys.path.insert(0, "tests/evaluate")
import jax, numpy as np
from test_knn import integer_set
from cvjax.evaluate import nearest_neighbours
test_x, equal = integer_set(9, 1), []
for rows, k, block in ((2000, 2, 100), (500, 70, 65536), (3, 3, 65536)):
    train_x = integer_set(rows, 0)
    one = nearest_neighbours(train_x, test_x, k, devices=jax.devices()[:1])
    eight = nearest_neighbours(train_x, test_x, k, train_block=block, test_block=4)
    equal.append([bool(np.array_equal(a, b)) for a, b in zip(one, eight)])
print(json.dumps([len(jax.devices()), equal]))
"""
    assert python(code, devices=8) == [8, [[True, True]] * 3]


def test_memory_is_that_of_one_block_of_similarities():
    """Not that of all similarities, and the same for four times the training rows."""
    mesh = jax.make_mesh((1,), ("train",), axis_types=(AxisType.Auto,))

    def temporary(steps):
        train = jax.ShapeDtypeStruct((steps, 2048, 8), np.float32)
        queries = jax.ShapeDtypeStruct((64, 8), np.float32)
        return knn._search.lower(train, queries, 1, k=10, mesh=mesh).compile().memory_analysis().temp_size_in_bytes

    block = 64 * 2048 * 4
    # Besides the block: a maximum per 32 similarities, and 10 chunks of 32 candidates, whose values and numbers are
    # gathered and joined to the best: (1 / 32 + a few times 320 / 2048) of it.
    assert block <= temporary(4) < 2 * block
    assert temporary(16) < 1.01 * temporary(4)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(k=0), "from 1 to N=61 training examples, received 0"),
        (dict(k=62), "from 1 to N=61 training examples, received 62"),
        (dict(test_x=np.zeros((23, 6))), r"share D, received \(61, 7\) and \(23, 6\)"),
        (dict(train_x=np.full((61, 7), np.inf)), "train features must be finite"),
        (dict(test_block=0), "at least 1 row, received test_block=0"),
    ],
)
def test_errors_of_neighbours(change, message):
    arguments = dict(train_x=random_set(61, 0)[0], test_x=random_set(23, 1)[0], k=3) | change
    with pytest.raises(ValueError, match=message):
        nearest_neighbours(**arguments)


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
