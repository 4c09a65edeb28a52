"""Classification losses against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.losses.classification import smooth_labels, softmax_cross_entropy, top_k_correct

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


def test_top_k():
    logits = jnp.array([[0.1, 0.5, 0.4], [0.9, 0.0, 0.1], [1.0, 2.0, 3.0]])
    labels = jnp.array([2, 1, 2])
    np.testing.assert_array_equal(top_k_correct(logits, labels), [0, 0, 1])
    np.testing.assert_array_equal(top_k_correct(logits, labels, 2), [1, 0, 1])
    np.testing.assert_array_equal(top_k_correct(logits, labels, 3), [1, 1, 1])


def test_equal_logits_are_no_hit_for_all_labels():
    assert top_k_correct(jnp.zeros((4, 4)), jnp.arange(4)).sum() == 1
