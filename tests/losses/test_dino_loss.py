"""DINO's loss against numbers worked out by hand, and what its gradients must not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.losses.dino import dino_loss, entropy, teacher_answers, update_center

VIEWS, GLOBALS, BATCH, K = 4, 2, 3, 5


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def answers():
    return teacher_answers(drawn(BATCH, GLOBALS, K, seed=1), jnp.zeros(K), 0.5)


def test_answers_are_centred_before_they_are_sharpened():
    logits, center = jnp.array([[1.0, 2.0]]), jnp.array([0.5, 1.0])
    # (0.5, 1.0) / 0.25 differ by 2.
    expected = [[1 / (1 + np.e**2), 1 / (1 + np.e**-2)]]
    np.testing.assert_allclose(teacher_answers(logits, center, 0.25), expected, rtol=1e-6)
    np.testing.assert_allclose(teacher_answers(logits + 7, center, jnp.float32(0.25)), expected, rtol=1e-6)


def test_loss_by_hand():
    """Sure answers: teacher 0 says prototype 0, teacher 1 says prototype 1. A view of logits (0, ln 3) at temperature 1
    gives them 1/4 and 3/4."""
    sure = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    student = jnp.array([[[0.0, np.log(3)], [0.0, np.log(3)], [np.log(3), 0.0]]])
    # Pairs (teacher, view): (0, 1) ln 4, (0, 2) ln 4/3, (1, 0) ln 4/3, (1, 2) ln 4.
    expected = (2 * np.log(4) + 2 * np.log(4 / 3)) / 4
    np.testing.assert_allclose(dino_loss(student, sure, 1.0), [expected], rtol=1e-6)
    np.testing.assert_allclose(dino_loss(student / 10, sure), [expected], rtol=1e-6)  # its temperature is 0.1


@pytest.mark.parametrize("views, globals_", [(4, 2), (2, 2), (2, 1), (5, 3)])
def test_loss_is_a_slow_mean_over_pairs(views, globals_):
    student = drawn(BATCH, views, K)
    given = teacher_answers(drawn(BATCH, globals_, K, seed=1), jnp.zeros(K), 0.5)
    s, t, expected = np.asarray(student, np.float64) / 0.2, np.asarray(given, np.float64), []
    for b in range(BATCH):
        pairs = [-(t[b, g] * (s[b, v] - np.log(np.exp(s[b, v]).sum()))).sum()
                 for g in range(globals_) for v in range(views) if v != g]
        expected.append(np.mean(pairs))
    np.testing.assert_allclose(dino_loss(student, given, 0.2), expected, rtol=1e-5)  # float32 sums of 5 to 60 terms


def test_a_view_is_not_compared_with_itself():
    """Teacher g alone: no gradient reaches view g, all others get one."""
    gradient_of = jax.grad(lambda student, given: dino_loss(student, given).sum())
    for g in range(GLOBALS):
        gradient = gradient_of(drawn(BATCH, VIEWS, K), answers().at[:, 1 - g].set(0.0))
        assert (np.abs(gradient).max((0, 2)) > 0).tolist() == [v != g for v in range(VIEWS)]


def test_examples_do_not_see_each_other():
    gradient = jax.grad(lambda x: dino_loss(x, answers())[1])(drawn(BATCH, VIEWS, K))
    assert (np.abs(gradient).max((1, 2)) > 0).tolist() == [False, True, False]


def test_large_logits_neither_overflow_nor_lose_the_loss():
    """At temperature 0.04 a cosine of 1 is a logit of 25; a thousand times that still has to be finite."""
    student = 1000 * drawn(BATCH, VIEWS, K)
    given = teacher_answers(1000 * drawn(BATCH, GLOBALS, K, seed=1), jnp.zeros(K), 0.04)
    losses, gradient = dino_loss(student, given), jax.grad(lambda x: dino_loss(x, given).sum())(student)
    assert np.isfinite(losses).all() and np.isfinite(gradient).all() and np.isfinite(entropy(given)).all()
    np.testing.assert_array_equal(dino_loss(student.astype(jnp.float16), given).dtype, jnp.float32)


def test_the_least_loss_is_the_teachers_entropy():
    logits = jnp.broadcast_to(drawn(BATCH, 1, K), (BATCH, VIEWS, K))
    given = teacher_answers(logits[:, :GLOBALS], jnp.zeros(K), 0.3)
    np.testing.assert_allclose(dino_loss(logits, given, 0.3), entropy(given[:, 0]), rtol=1e-5)
    np.testing.assert_array_less(entropy(given[:, 0]), dino_loss(logits, given, 0.2))


def test_center_is_a_running_mean():
    center = update_center(jnp.array([1.0, -2.0]), jnp.array([3.0, 0.0]), 0.75)
    np.testing.assert_array_equal(center, [1.5, -1.5])
    np.testing.assert_allclose(update_center(jnp.ones(2), jnp.zeros(2)), [0.9, 0.9], rtol=1e-7)


def test_entropy_at_its_bounds():
    np.testing.assert_allclose(entropy(jnp.array([[0.0, 1.0, 0.0, 0.0], [0.25] * 4, [0.5, 0.5, 0.0, 0.0]])),
                               [0.0, np.log(4), np.log(2)], rtol=1e-6)
