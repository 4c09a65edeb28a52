"""The loss of label maps against numbers worked out by hand, a slow twin, and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.losses.segmentation import median_frequency_weights, pixel_cross_entropy, weighted_mean


def problem():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (3, 5, 6))
    labels[rng.random(labels.shape) < 0.3] = 255
    return rng.normal(0, 3, (3, 5, 6, 4)).astype(np.float32), labels, np.float32([0.5, 2.0, 0.0, 1.5])


def test_cross_entropy_by_hand():
    """Softmax of (log 1, log 3) is (1, 3) / 4; the third pixel does not count, the last one twice."""
    logits = jnp.log(jnp.broadcast_to(jnp.array([1.0, 3.0]), (1, 2, 2, 2)))
    labels = jnp.array([[[0, 1], [255, 1]]])
    total, weight = pixel_cross_entropy(logits, labels)
    np.testing.assert_allclose(total, [np.log(4) + 2 * np.log(4 / 3)], rtol=1e-6)
    assert weight.tolist() == [3]
    total, weight = pixel_cross_entropy(logits, labels, jnp.array([5.0, 2.0]))
    np.testing.assert_allclose(total, [5 * np.log(4) + 4 * np.log(4 / 3)], rtol=1e-6)
    assert weight.tolist() == [9]


def test_cross_entropy_equals_a_slow_twin():
    logits, labels, weights = problem()
    total, weight = pixel_cross_entropy(logits, labels, weights)
    for example in range(3):
        expected = [0.0, 0.0]
        for place in np.ndindex(5, 6):
            label = labels[example][place]
            if label != 255:
                scores = logits[example][place].astype(np.float64)
                expected[0] += weights[label] * (np.log(np.exp(scores).sum()) - scores[label])
                expected[1] += weights[label]
        np.testing.assert_allclose((total[example], weight[example]), expected, rtol=1e-5)  # 30 float32 sums


def test_pixels_that_do_not_count_have_no_gradient_and_may_be_anything():
    logits, labels, _ = problem()
    logits[labels == 255] = np.inf
    value, gradient = jax.value_and_grad(lambda x: pixel_cross_entropy(x, labels)[0].sum())(jnp.asarray(logits))
    assert np.isfinite(value)
    gradient = np.asarray(gradient)
    assert (gradient[labels != 255] != 0).any(axis=-1).all()
    finite = np.asarray(jax.grad(lambda x: pixel_cross_entropy(x, labels)[0].sum())(
        jnp.where(jnp.isinf(logits), 7.0, logits)))
    assert (finite[labels == 255] == 0).all()


def test_where_no_pixel_counts_loss_and_gradient_are_zero():
    labels = jnp.full((2, 3, 3), 255)

    def loss(logits):
        total, weight = pixel_cross_entropy(logits, labels)
        return weighted_mean(total.sum(), weight.sum())

    value, gradient = jax.value_and_grad(loss)(jnp.ones((2, 3, 3, 4)))
    assert float(value) == 0 and not np.asarray(gradient).any()


def test_half_precision_logits_give_a_float32_loss():
    total, _ = pixel_cross_entropy(jnp.zeros((1, 1, 1, 2), jnp.bfloat16), jnp.zeros((1, 1, 1), int))
    assert total.dtype == jnp.float32 and float(total[0]) == pytest.approx(np.log(2), rel=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_torchs(weighted):
    torch = pytest.importorskip("torch")
    logits, labels, weights = problem()
    weights = weights if weighted else None
    there = torch.tensor(logits.transpose(0, 3, 1, 2), requires_grad=True)
    criterion = torch.nn.CrossEntropyLoss(None if weights is None else torch.tensor(weights), ignore_index=255)
    expected = criterion(there, torch.tensor(labels))
    expected.backward()

    def loss(x):
        total, weight = pixel_cross_entropy(x, labels, weights)
        return weighted_mean(total.sum(), weight.sum())

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
    assert float(value) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, there.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-7)


def test_median_frequencies_by_hand():
    """Class 0: 6 of the 8 pixels of both; class 1: 1 of 4; class 2: 1 of 4 that count; class 3 is nowhere."""
    maps = [np.array([[0, 0], [0, 1]]), np.array([[0, 0, 255], [0, 2, 255]])]
    weights = median_frequency_weights(maps, 4)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [0.25 / 0.75, 1, 1, 0], rtol=1e-6)


def test_without_a_pixel_that_counts_there_are_no_frequencies():
    with pytest.raises(ValueError, match="no pixel that counts"):
        median_frequency_weights([np.full((2, 2), 255)], 3)


def test_a_label_above_the_classes_is_named():
    with pytest.raises(ValueError, match=r"^a label map has label 32: labels must be in \[0, 21\), or 255$"):
        median_frequency_weights([np.array([[0, 32]])], 21)
