"""Distillation's losses against plain numpy in float64, and what the temperature does to a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.losses.distillation import feature_distance, hard_label_loss, soft_label_loss

DRAW = np.random.default_rng(0)
STUDENT, TEACHER = DRAW.normal(0, 3, (6, 10)), DRAW.normal(0, 3, (6, 10))
FEATURES, TAUGHT = DRAW.normal(1, 2, (6, 7)), DRAW.normal(-1, 5, (6, 7))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 2.5, 20.0])
def test_soft_labels_are_those_of_numpy(temperature: float) -> None:
    p, q = softmax(TEACHER / temperature), softmax(STUDENT / temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum(axis=1)
    # At high temperatures a small difference of logarithms is multiplied by T^2: 400 x 2**-24 absolute.
    np.testing.assert_allclose(soft_label_loss(jnp.asarray(STUDENT), jnp.asarray(TEACHER), temperature), expected,
                               rtol=1e-5, atol=5e-5)
    np.testing.assert_allclose(soft_label_loss(jnp.asarray(TEACHER), jnp.asarray(TEACHER), temperature), 0, atol=5e-5)


def gradient(temperature: float) -> np.ndarray:
    return np.asarray(jax.grad(lambda x: soft_label_loss(x, jnp.asarray(TEACHER), temperature).sum())(
        jnp.asarray(STUDENT, jnp.float32)))


def test_the_square_of_the_temperature_keeps_the_gradients_size() -> None:
    """It is T (softmax(s / T) - softmax(t / T)) (Hinton et al. 2015, eq. 2), which tends to the difference of centred
    logits over K (eq. 4): the remainder falls as 1 / T."""
    for temperature in (1.0, 3.0):
        expected = temperature * (softmax(STUDENT / temperature) - softmax(TEACHER / temperature))
        np.testing.assert_allclose(gradient(temperature), expected, rtol=1e-4, atol=1e-6)
    limit = (STUDENT - STUDENT.mean(axis=1, keepdims=True) - TEACHER + TEACHER.mean(axis=1, keepdims=True)) / 10
    far = [np.abs(gradient(temperature) - limit).max() for temperature in (50.0, 100.0, 200.0)]
    assert far[0] < 0.1 * np.abs(limit).max()
    assert far[1] == pytest.approx(far[0] / 2, rel=0.1) and far[2] == pytest.approx(far[1] / 2, rel=0.1)


def test_a_hard_label_is_the_teachers_likeliest_class() -> None:
    likeliest = TEACHER.argmax(axis=1)
    expected = -np.log(softmax(STUDENT))[np.arange(6), likeliest]
    np.testing.assert_allclose(hard_label_loss(jnp.asarray(STUDENT), jnp.asarray(TEACHER)), expected, rtol=1e-5)
    np.testing.assert_array_equal(hard_label_loss(jnp.asarray(STUDENT), jnp.asarray(TEACHER)),
                                  hard_label_loss(jnp.asarray(STUDENT), jnp.asarray(9 * TEACHER)))


def test_the_cosine_distance_is_numpys_and_knows_directions_only() -> None:
    lengths = np.linalg.norm(FEATURES, axis=1) * np.linalg.norm(TAUGHT, axis=1)
    found = feature_distance(jnp.asarray(FEATURES), jnp.asarray(TAUGHT), "cosine")
    np.testing.assert_allclose(found, 1 - (FEATURES * TAUGHT).sum(axis=1) / lengths, rtol=1e-5)
    np.testing.assert_allclose(feature_distance(jnp.asarray(3 * FEATURES), jnp.asarray(0.1 * TAUGHT), "cosine"), found,
                               rtol=1e-5)
    np.testing.assert_allclose(feature_distance(jnp.asarray(TAUGHT), jnp.asarray(2 * TAUGHT), "cosine"), 0, atol=1e-6)


def test_the_squared_distance_is_numpys_to_targets_of_mean_0_and_deviation_1() -> None:
    targets = (TAUGHT - TAUGHT.mean(axis=1, keepdims=True)) / TAUGHT.std(axis=1, keepdims=True)
    found = feature_distance(jnp.asarray(FEATURES), jnp.asarray(TAUGHT), "mse")
    np.testing.assert_allclose(found, ((FEATURES - targets) ** 2).mean(axis=1), rtol=1e-5)
    # However the teacher is scaled and shifted.
    np.testing.assert_allclose(feature_distance(jnp.asarray(FEATURES), jnp.asarray(5 * TAUGHT + 2), "mse"), found,
                               rtol=1e-5)
    np.testing.assert_allclose(feature_distance(jnp.asarray(targets), jnp.asarray(TAUGHT), "mse"), 0, atol=1e-6)


def test_losses_of_bfloat16_are_float32() -> None:
    half = jnp.asarray(STUDENT, jnp.bfloat16), jnp.asarray(TEACHER, jnp.bfloat16)
    found = [soft_label_loss(*half, 2.0), hard_label_loss(*half), feature_distance(*half, "cosine"),
             feature_distance(*half, "mse")]
    assert [(each.dtype, each.shape) for each in found] == [(jnp.float32, (6,))] * 4
