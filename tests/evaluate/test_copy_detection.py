import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.evaluate import copy_detection, copy_features, fit_whitening, generalized_mean
from cvjax.evaluate.copy_detection import Whitening


def test_generalized_mean_by_hand():
    tokens = np.float32([[[1, -3, 2, 0], [2, 1, 2, 0], [0, 1, 2, -5]]])  # 3 patches of 4 features
    # (1 + 16 + 0) / 3, (0 + 1 + 1) / 3 with -3 as 1e-6, all 2, all 1e-6.
    wanted = [[(17 / 3) ** 0.25, (2 / 3) ** 0.25, 2, 1e-6]]
    np.testing.assert_allclose(generalized_mean(tokens), wanted, rtol=1e-6)
    np.testing.assert_allclose(generalized_mean(np.abs(tokens), p=1), [[1, 5 / 3, 2, 5 / 3]], rtol=1e-5)


def test_generalized_mean_of_any_power_is_finite():
    tokens = np.float32([[[1e15, 1e-5], [1e14, 2e-5]]])
    for p in (4.0, 40.0):
        largest = np.float64(tokens).max(axis=1)
        expected = largest * np.mean((tokens / largest) ** p, axis=1) ** (1 / p)
        # The p-th power and root of rounding errors of 1e-7: about 1e-7 again.
        np.testing.assert_allclose(generalized_mean(tokens, p=p), expected, rtol=1e-6)


def test_features_are_the_class_token_beside_the_pooled_patches():
    rng = np.random.default_rng(0)
    class_token, patches = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=(2, 5, 3)).astype(np.float32)
    found = jax.jit(copy_features)(class_token, patches)
    pooled = np.mean(np.maximum(np.float64(patches), 1e-6) ** 4, axis=1) ** 0.25
    np.testing.assert_allclose(found, np.hstack([class_token, pooled]), rtol=1e-6)
    assert copy_features(jnp.bfloat16(class_token), jnp.bfloat16(patches)).dtype == jnp.bfloat16
    one = copy_features(class_token, patches, p=1)
    np.testing.assert_allclose(one[:, 3:], np.maximum(patches, 1e-6).mean(axis=1), rtol=1e-6)


def correlated(rows, seed, dim=6):
    shared = np.random.default_rng(99)
    mix = shared.normal(size=(dim, dim))
    return np.float32(np.random.default_rng(seed).normal(size=(rows, dim)) @ mix + 3)


def test_whitened_features_are_uncorrelated_with_deviation_one():
    x = correlated(200, 0)
    whitening = fit_whitening(x, centred=True)
    white = whitening(x)
    assert white.shape == (200, 6) and white.dtype == np.float32
    # Float32 rounding of values up to about 4: 200 of them averaged.
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=1e-6)
    # A rotation alone would have kept distances; Mahalanobis' are the definition.
    a, b = np.float64(x[:2])
    covariance = np.cov(np.float64(x).T, bias=True)
    distance = np.sqrt((a - b) @ np.linalg.solve(covariance, a - b))
    np.testing.assert_allclose(np.linalg.norm(white[0] - white[1]), distance, rtol=1e-5)


def test_fewer_components_are_those_of_largest_variance():
    x = correlated(200, 0)
    full, part = fit_whitening(x, centred=True), fit_whitening(x, components=2, centred=True)
    np.testing.assert_array_equal(part.matrix, full.matrix[:, :2])
    variances = 1 / np.sum(full.matrix**2, axis=0)
    assert (np.diff(variances) < 0).all()
    np.testing.assert_allclose(variances, np.linalg.eigvalsh(np.cov(np.float64(x).T, bias=True))[::-1])


def test_second_moments_about_zero_as_in_the_script():
    x = correlated(200, 0)
    whitening = fit_whitening(x)
    moments = np.float64(x).T @ np.float64(x) / 200
    np.testing.assert_allclose(whitening.matrix.T @ moments @ whitening.matrix, np.eye(6), atol=1e-9)
    np.testing.assert_allclose(whitening.mean, np.float64(x).mean(axis=0))
    assert not np.allclose(np.abs(whitening.matrix), np.abs(fit_whitening(x, centred=True).matrix), rtol=0.01)


def test_directions_never_seen_are_not_blown_up():
    x = correlated(4, 0)  # 4 rows span 3 directions of 6
    matrix = fit_whitening(x, centred=True).matrix
    lengths = np.linalg.norm(matrix, axis=0)
    largest = np.linalg.eigvalsh(np.cov(np.float64(x).T, bias=True))[-1]
    np.testing.assert_allclose(lengths[3:], 1 / np.sqrt(1e-5 * largest))


def test_score_by_hand():
    def angles(*degrees):
        return np.float32([(np.cos(a), np.sin(a)) for a in np.radians(degrees)])

    # Seen from 0 degrees the order is 0 1 2 3; from 40 it is 3 2 1 0.
    database = angles(10, 20, 30, 38)
    result = copy_detection(angles(0, 40, 0), database, [[0], [2], [1, 3]], depth=3)
    # Found first; found second: (0 + 1/2) / 2; second and, below the depth, never: (0 + 1/2) / 2 of 2.
    np.testing.assert_allclose(result.average_precision, [1, 1 / 4, 1 / 8])
    assert result.mean_average_precision == pytest.approx(11 / 24)
    assert json.loads(json.dumps(result.protocol)) == result.protocol
    assert result.protocol["depth"] == 3 and result.protocol["database"] == 4
    whole = copy_detection(angles(0, 40, 0), database, [[0], [2], [1, 3]])
    assert whole.protocol["depth"] == 4
    # The second original at position 3: (1/3 + 2/4) / 2 of 2 more.
    np.testing.assert_allclose(whole.average_precision, [1, 1 / 4, 1 / 8 + 5 / 24])


def test_whitening_finds_copies_behind_a_common_direction():
    """All descriptors share a large random part along one axis, which says nothing about the image."""
    rng = np.random.default_rng(0)

    def glare(rows):
        return rng.normal(size=(len(rows), 1)) * 50 * np.eye(8)[0] + rows

    images = rng.normal(size=(30, 8))
    database, queries, others = glare(images), glare(images + 0.05 * rng.normal(size=images.shape)), glare(
        rng.normal(size=(200, 8)))
    positives = [[i] for i in range(30)]
    whitening = fit_whitening(others)
    raw = copy_detection(queries, database, positives).mean_average_precision
    whitened = copy_detection(whitening(queries), whitening(database), positives).mean_average_precision
    assert raw < 0.5 and whitened > 0.9


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: copy_features(np.zeros((2, 3)), np.zeros((2, 5, 4))), r"received \(2, 3\) and \(2, 5, 4\)"),
        (lambda: copy_features(np.zeros((2, 3)), np.zeros((2, 0, 3))), "L > 0"),
        (lambda: generalized_mean(np.ones((1, 2, 3)), p=0), "p must be positive, received 0"),
        (lambda: fit_whitening(np.ones((4, 3))), "must differ, received 4 equal rows"),
        (lambda: fit_whitening(correlated(9, 0), components=7), "from 1 to D=6, received 7"),
        (lambda: fit_whitening(np.full((2, 2), np.inf)), "whitening features must be finite"),
        (lambda: Whitening(np.zeros(3), np.eye(3))(np.zeros((2, 4))), r"must be \(N, 3\), received shape \(2, 4\)"),
        (lambda: copy_detection(np.ones((2, 3)), np.ones((4, 3)), [[0]]), "each of 2 queries, received 1"),
        (lambda: copy_detection(np.ones((2, 3)), np.ones((4, 3)), [[0], []]), r"received \[\] for query 1"),
        (lambda: copy_detection(np.ones((2, 3)), np.ones((4, 3)), [[4], [0]]), r"\[0, 4\), received \[4\]"),
        (lambda: copy_detection(np.ones((2, 3)), np.ones((4, 3)), [[0], [0]], depth=0), "depth .* received 0"),
        (lambda: copy_detection(np.ones((2, 3)), np.ones((4, 2)), [[0], [0]]), "share D"),
    ],
)
def test_errors_say_what_came_and_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
