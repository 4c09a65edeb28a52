import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cvjax.evaluate.linear_probe import _best, _fit, linear_probe, stratified_split

QUICK = dict(epochs=3, learning_rates=(1e-6, 0.1), weight_decays=(0.0,))


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


@pytest.mark.slow
def test_digits_as_good_as_cross_validated_logistic_regression(digits):
    train_x, train_y, test_x, test_y = digits
    result = linear_probe(*digits, 10)
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    search = GridSearchCV(regression, {"logisticregression__C": [0.01, 0.1, 1]}, cv=3)
    reference = search.fit(train_x, train_y).score(test_x, test_y)
    assert abs(result.accuracy - reference) <= 0.006, (result.accuracy, reference)
    assert 0.962 <= result.accuracy <= 0.975


def test_the_returned_head_reproduces_the_accuracy_on_raw_features(digits):
    _, _, test_x, test_y = digits
    result = linear_probe(*digits, 10, **QUICK)
    assert result.kernel.shape == (64, 10) and result.bias.shape == (10,)
    predictions = (test_x @ result.kernel + result.bias).argmax(axis=1)
    assert result.accuracy == np.mean(predictions == test_y)


def test_the_head_is_trained_again_on_all_training_rows(digits):
    train_x, train_y, _, _ = digits
    result = linear_probe(*digits, 10, seed=3, **QUICK)
    chosen = np.float32([[result.learning_rate, result.weight_decay]])
    kernel, _ = _fit(
        jnp.asarray(train_x), jnp.asarray(train_y, jnp.int32), np.arange(1437), chosen, jax.random.key(3),
        num_classes=10, epochs=QUICK["epochs"], batch_size=256,
    )
    np.testing.assert_allclose(result.kernel, kernel[0], atol=1e-6)


def test_same_seed_same_result(digits):
    first, second, other = (
        linear_probe(*digits, 10, seed=seed, **QUICK)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.kernel, second.kernel)
    assert first.protocol == second.protocol
    assert np.abs(first.kernel - other.kernel).max() > 1e-4


def test_protocol_is_json_and_names_the_choice(digits):
    result = linear_probe(*digits, 10, **QUICK)
    assert result.learning_rate == 0.1 and result.weight_decay == 0.0  # 1e-6 cannot have learnt anything
    assert json.loads(json.dumps(result.protocol)) == result.protocol
    assert result.protocol["chosen"] == {"learning_rate": 0.1, "weight_decay": 0.0}
    assert result.protocol["selection"].startswith("287 stratified")  # 20 % of 1437


def test_the_test_set_never_chooses(digits):
    train_x, train_y, test_x, test_y = digits
    honest = linear_probe(train_x, train_y, test_x, test_y, 10, **QUICK)
    shuffled = linear_probe(train_x, train_y, test_x[::-1] * 3, test_y, 10, **QUICK)
    assert honest.protocol == shuffled.protocol
    np.testing.assert_array_equal(honest.kernel, shuffled.kernel)
    assert honest.accuracy > shuffled.accuracy + 0.3


def test_the_sweep_trains_each_setting_as_if_alone(digits):
    train_x, train_y, _, _ = digits
    x, y = jnp.asarray(train_x), jnp.asarray(train_y)
    grid = np.float32([[0.01, 0.0], [0.3, 0.01], [1.0, 0.001]])
    sizes = dict(num_classes=10, epochs=3, batch_size=100)
    together = _fit(x, y, np.arange(1437), grid, jax.random.key(0), **sizes)
    for row, setting in enumerate(grid):
        alone = _fit(x, y, np.arange(1437), setting[None], jax.random.key(0), **sizes)
        for leaf, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(leaf[row], expected[0], atol=1e-3 * np.abs(expected).max())


def test_full_batches_reach_the_optimum_of_regularised_regression():
    """With L2 the optimum is unique: lambda = 1 / (C N). Also checks that the bias is free of decay."""
    x, y = two_blobs(60)
    y = np.where(np.arange(60) < 10, 1, y * (np.arange(60) % 4 > 1))  # unbalanced, so the bias matters
    decay = 0.05
    kernel, bias = _fit(
        jnp.asarray(x), jnp.asarray(y), np.arange(60), np.float32([[0.5, decay]]), jax.random.key(0),
        num_classes=2, epochs=2000, batch_size=60,
    )
    standard = StandardScaler().fit(x)
    # Columns w and -w cost decay * |w|^2: for the sigmoid's 2w that is decay / 2 times half its square.
    regression = LogisticRegression(C=2 / (decay * 60), tol=1e-8, max_iter=1000).fit(standard.transform(x), y)
    expected = regression.decision_function(standard.transform(x))
    logits = x @ kernel[0] + bias[0]
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, atol=2e-3)


def test_a_batch_larger_than_the_set_is_one_batch():
    x, y = two_blobs(40)
    result = linear_probe(
        x, y, x, y, 2, epochs=30, batch_size=1000, learning_rates=[0.01, 0.1], weight_decays=[0.0]
    )
    assert result.accuracy >= 0.95


def test_padding_rows_change_nothing():
    """5 rows in batches of 2 need one padding row (a copy of row 0): the last step must see one row only."""
    x, y = two_blobs(5)
    rate, key = 0.1, jax.random.key(2)
    kernel, bias = _fit(
        jnp.asarray(x), jnp.asarray(y), np.arange(5), np.float32([[rate, 0.0]]), key,
        num_classes=2, epochs=1, batch_size=2,
    )
    mean, std = x.mean(axis=0), x.std(axis=0)
    order = np.asarray(jax.random.permutation(jax.random.split(key, 1)[0], np.arange(5)))
    assert order[4] != 0, "take another key: the padding must differ from the last row"
    head, velocity = np.zeros((6, 2)), np.zeros((6, 2))
    for step, rows in enumerate((order[:2], order[2:4], order[4:])):
        z = np.concatenate([(x[rows] - mean) / std, np.ones((len(rows), 1))], axis=1)
        logits = z @ head
        probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        velocity = 0.9 * velocity + z.T @ (probability - np.eye(2)[y[rows]]) / len(rows)
        head -= rate * (1 + np.cos(np.pi * step / 3)) / 2 * velocity
    np.testing.assert_allclose(kernel[0] * std[:, None], head[:-1], atol=1e-5)
    np.testing.assert_allclose(bias[0] + mean @ kernel[0], head[-1], atol=1e-5)


def test_scale_and_offset_of_features_do_not_matter():
    x, y = two_blobs(200)
    moved = x * np.float32([1e-4, 1, 100, 3, 1e4]) + np.float32([0, 5, -100, 0, 1e4])
    moved = np.concatenate([moved, np.full((200, 1), 0.1, np.float32)], axis=1)  # a constant dimension
    x = np.concatenate([x, np.zeros((200, 1), np.float32)], axis=1)

    def logits(features):
        kernel, bias = _fit(
            jnp.asarray(features), jnp.asarray(y), np.arange(200), np.float32([[0.1, 0.01]]),
            jax.random.key(0), num_classes=2, epochs=5, batch_size=64,
        )
        return features @ kernel[0] + bias[0]

    np.testing.assert_allclose(logits(moved), logits(x), atol=5e-3)


def test_stratified_split_takes_its_share_of_each_class():
    labels = np.repeat([0, 1, 2, 3], [50, 10, 2, 1])
    fit, held_out = stratified_split(labels, 0.2, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([fit, held_out])), np.arange(63))
    np.testing.assert_array_equal(np.bincount(labels[held_out], minlength=4), [10, 2, 1, 0])
    assert (stratified_split(labels, 0.2, seed=1)[1] != held_out).any()


def test_best_setting():
    assert _best(np.array([5, 9, 9, 9]), np.array([0.1, 0.3, 0.2, 0.2])) == 2
    assert _best(np.array([9, 5]), np.array([np.nan, 1.0])) == 1
    with pytest.raises(ValueError, match="diverged"):
        _best(np.array([9, 5]), np.array([np.nan, np.inf]))


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
        (dict(epochs=0), "epochs=0"),
        (dict(learning_rates=[]), "learning_rates must be one or more positive"),
        (dict(learning_rates=[0.1, 0.0]), r"learning_rates .*received \[0.1, 0.0\]"),
        (dict(weight_decays=[-1.0]), r"weight_decays .*received \[-1.0\]"),
    ],
)
def test_errors_say_what_came_and_what_is_allowed(change, message):
    x, y = two_blobs(40)
    with pytest.raises(ValueError, match=message) as error:
        linear_probe(**dict(train_x=x, train_y=y, test_x=x, test_y=y, num_classes=2) | change)
    assert "\n" not in str(error.value)
