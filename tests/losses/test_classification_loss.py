"""Classification losses against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.losses.classification import binary_cross_entropy, smooth_labels, softmax_cross_entropy, top_k_correct

LOG2 = np.log(2.0)


def test_smoothed_labels_keep_their_share_and_spread_the_rest():
    np.testing.assert_array_equal(smooth_labels(jnp.array([2, 0]), 3), [[0, 0, 1], [1, 0, 0]])
    # 0.2 over 4 classes is 0.05 each, on top of the 0.8 of the class itself.
    smoothed = smooth_labels(jnp.array([1]), 4, 0.2)
    np.testing.assert_allclose(smoothed, [[0.05, 0.85, 0.05, 0.05]], rtol=1e-6)
    assert smoothed.dtype == jnp.float32


def test_cross_entropy_by_hand():
    # Softmax of (log 1, log 2, log 5) is (1, 2, 5) / 8.
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0]] * 3))
    targets = jnp.array([[0, 1, 0], [1, 0, 0], [0.5, 0.25, 0.25]])
    expected = [np.log(4), np.log(8), 0.5 * np.log(8) + 0.25 * np.log(4) + 0.25 * np.log(8 / 5)]
    np.testing.assert_allclose(softmax_cross_entropy(logits, targets), expected, rtol=1e-6)


def test_cross_entropy_of_huge_and_half_precision_logits_is_finite_float32():
    logits = jnp.array([[60000.0, 0.0]], jnp.float16)
    loss = softmax_cross_entropy(logits, jnp.array([[1.0, 0.0]]))
    assert loss.dtype == jnp.float32 and float(loss[0]) == 0
    assert float(softmax_cross_entropy(logits, jnp.array([[0.0, 1.0]]))[0]) == 60000
    half = softmax_cross_entropy(jnp.zeros((1, 2), jnp.bfloat16), jnp.array([[1.0, 0.0]]))
    assert float(half[0]) == pytest.approx(LOG2, rel=1e-6), "the softmax is float32"


def test_gradient_is_softmax_minus_target():
    logits, target = jnp.log(jnp.array([[1.0, 2.0, 5.0]])), jnp.array([[0.1, 0.2, 0.7]])
    gradient = jax.grad(lambda x: softmax_cross_entropy(x, target).sum())(logits)
    np.testing.assert_allclose(gradient, [[1 / 8 - 0.1, 2 / 8 - 0.2, 5 / 8 - 0.7]], atol=1e-6)


def test_binary_cross_entropy_by_hand():
    # Sigmoids of log 3 and -log 3 are 3/4 and 1/4.
    logits = jnp.log(jnp.array([[3.0, 1 / 3], [3.0, 1 / 3]]))
    targets = jnp.array([[1.0, 0.0], [0.0, 0.5]])
    half = (np.log(4) + np.log(4 / 3)) / 2
    expected = [np.log(4 / 3), (np.log(4) + half) / 2]
    np.testing.assert_allclose(binary_cross_entropy(logits, targets), expected, rtol=1e-6)


def binary_cross_entropy_float64(logits, targets):
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    return (np.logaddexp(0, -logits) * targets + np.logaddexp(0, logits) * (1 - targets)).mean(axis=-1)


def test_binary_cross_entropy_keeps_its_digits_in_the_tails():
    """A few float32 roundings of positive terms: 1e-6 of the sum, down to e**-60 and without overflow at 1e4."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(64, 10), scale=20).astype(np.float32)
    logits[0], logits[1] = 60, 1e4
    targets = rng.uniform(size=logits.shape).astype(np.float32)
    targets[0], targets[1] = 1, np.arange(10) % 2
    found = binary_cross_entropy(jnp.array(logits), jnp.array(targets))
    np.testing.assert_allclose(found, binary_cross_entropy_float64(logits, targets), rtol=1e-6)
    assert 0 < float(found[0]) < 1e-25 and float(found[1]) == 5000


def test_binary_cross_entropy_is_float32_whatever_comes_in():
    logits = jnp.array([[3.0, -2.0]], jnp.bfloat16)
    found = binary_cross_entropy(logits, jnp.array([[1, 0]], jnp.int32))
    assert found.dtype == jnp.float32 and found.shape == (1,)
    np.testing.assert_allclose(found, binary_cross_entropy_float64([[3.0, -2.0]], [[1, 0]]), rtol=1e-6)


def test_binary_cross_entropy_threshold_turns_mixed_targets_into_answers():
    logits = jnp.array([[0.3, -0.7, 2.0, 1.0]])
    mixed = jnp.array([[0.7, 0.3, 0.0, 0.2]])
    for threshold, binary in ((0.0, [1, 1, 0, 1]), (0.2, [1, 1, 0, 0]), (0.5, [1, 0, 0, 0])):
        found = binary_cross_entropy(logits, mixed, threshold=threshold)
        np.testing.assert_array_equal(found, binary_cross_entropy(logits, jnp.array([binary])))
    assert not np.allclose(binary_cross_entropy(logits, mixed), binary_cross_entropy(logits, jnp.array([[1, 1, 0, 1]])))


def test_binary_cross_entropy_gradient_is_sigmoid_minus_target():
    logits, targets = jnp.array([[0.0, np.log(3.0), 100.0, -1e4]]), jnp.array([[0.25, 1.0, 1.0, 1.0]])
    gradient = jax.grad(lambda x: binary_cross_entropy(x, targets).sum())(logits)
    np.testing.assert_allclose(gradient, np.array([[0.25, -0.25, 0.0, -1.0]]) / 4, atol=1e-7)


@pytest.mark.parity
@pytest.mark.parametrize("threshold", [None, 0.2])
def test_binary_cross_entropy_of_torch(threshold):
    """torch in float64 on the same float32 numbers, mean over all entries, with gradients."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(16, 10), scale=5).astype(np.float32)
    targets = rng.dirichlet(np.ones(10), size=16).astype(np.float32)
    theirs = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor(targets, dtype=torch.float64)
    wanted = wanted if threshold is None else (wanted > threshold).double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(theirs, wanted)
    expected.backward()

    def mean(x):
        return binary_cross_entropy(x, jnp.array(targets), threshold=threshold).mean()

    value, gradient = jax.value_and_grad(mean)(jnp.array(logits))
    assert float(value) == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), atol=1e-8)  # entries of 1/160 with 6e-8 of rounding


def test_top_k():
    logits = jnp.array([[0.1, 0.5, 0.4], [0.9, 0.0, 0.1], [1.0, 2.0, 3.0]])
    labels = jnp.array([2, 1, 2])
    np.testing.assert_array_equal(top_k_correct(logits, labels), [0, 0, 1])
    np.testing.assert_array_equal(top_k_correct(logits, labels, 2), [1, 0, 1])
    np.testing.assert_array_equal(top_k_correct(logits, labels, 3), [1, 1, 1])


def test_equal_logits_are_no_hit_for_all_labels():
    assert top_k_correct(jnp.zeros((4, 4)), jnp.arange(4)).sum() == 1


@pytest.mark.parametrize("label", [-1, 3, 10])
def test_a_label_that_is_no_class_is_wrong_and_its_loss_nan(label):
    logits, labels = jnp.array([[5.0, 0.0, 0.0]] * 2), jnp.array([label, 0])
    for k in (1, 3):
        np.testing.assert_array_equal(top_k_correct(logits, labels, k), [0, 1])
    losses = softmax_cross_entropy(logits, smooth_labels(labels, 3, 0.1))
    np.testing.assert_array_equal(np.isnan(losses), [True, False])
