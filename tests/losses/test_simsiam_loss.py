"""SimSiam's loss against numbers worked out by hand, and what its gradients must not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.losses.simsiam import mean_deviation, negative_cosine, simsiam_loss, unit_moments

BATCH, D = 5, 7


def drawn(seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(BATCH, 2, D)), jnp.float32)


def test_loss_by_hand():
    """The first prediction (3, 4) meets the second projection (0, 2): cosine 4/5. The second one (1, 0) meets the first
    projection (-1, 0): cosine -1."""
    predictions, projections = jnp.array([[[3.0, 4.0], [1.0, 0.0]]]), jnp.array([[[-1.0, 0.0], [0.0, 2.0]]])
    np.testing.assert_allclose(simsiam_loss(predictions, projections), [-(0.8 - 1) / 2], rtol=1e-6)


def test_loss_is_a_slow_loop_over_both_directions():
    p, z = (np.asarray(drawn(seed), np.float64) for seed in (0, 1))
    expected = [-sum(p[b, i] @ z[b, 1 - i] / np.sqrt(p[b, i] @ p[b, i]) / np.sqrt(z[b, 1 - i] @ z[b, 1 - i])
                     for i in (0, 1)) / 2 for b in range(BATCH)]
    np.testing.assert_allclose(simsiam_loss(drawn(0), drawn(1)), expected, rtol=0, atol=1e-6)


def test_lengths_and_types_take_no_part():
    np.testing.assert_allclose(negative_cosine(drawn(0), 1000 * drawn(1)), negative_cosine(drawn(0), drawn(1)),
                               rtol=0, atol=1e-6)
    assert negative_cosine(drawn(0).astype(jnp.bfloat16), drawn(1)).dtype == jnp.float32
    np.testing.assert_allclose(negative_cosine(drawn(0), 3 * drawn(0)), -np.ones((BATCH, 2)), rtol=1e-6)


def test_no_gradient_reaches_projections_unless_asked_for():
    by_both = jax.grad(lambda p, z, stop: simsiam_loss(p, z, stop).sum(), (0, 1))
    p, z = by_both(drawn(0), drawn(1), True)
    assert (np.abs(p).max(-1) > 0).all() and not z.any()
    other_p, other_z = by_both(drawn(0), drawn(1), False)
    np.testing.assert_array_equal(other_p, p)
    assert (np.abs(other_z).max(-1) > 0).all()


def test_examples_do_not_see_each_other():
    gradient = jax.grad(lambda p: simsiam_loss(p, drawn(1))[2])(drawn(0))
    assert (np.abs(gradient).max((1, 2)) > 0).tolist() == [False, False, True, False, False]


def test_a_zero_vector_has_a_finite_loss_and_gradient():
    value, gradient = jax.value_and_grad(lambda p: simsiam_loss(p, drawn(1)).sum())(jnp.zeros((BATCH, 2, D)))
    assert value == 0 and np.isfinite(gradient).all()


def deviation(vectors: jax.Array) -> float:
    return float(mean_deviation(*unit_moments(vectors)))


def test_deviation_of_a_slow_twin():
    vectors = np.asarray(drawn(0)).reshape(-1, D) + 1
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    assert deviation(jnp.asarray(vectors)) == pytest.approx(unit.std(axis=0).mean(), rel=1e-5)


def test_deviation_at_its_bounds():
    """Directions spread evenly: 1 / sqrt(D). One direction, whatever the lengths: 0."""
    axes = jnp.concatenate([jnp.eye(D), -jnp.eye(D)])
    assert deviation(axes) == pytest.approx(D**-0.5, rel=1e-6)
    lengths = jnp.linspace(1.0, 3.0, 9)[:, None]
    assert deviation(lengths * drawn(0)[0, 0]) == pytest.approx(0, abs=1e-3)  # the root of float32's rounding
