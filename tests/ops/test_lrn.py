"""Local response normalisation against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.lrn import LocalResponseNorm
from cvjax.ops.lrn import local_response_norm


def slow(x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """The paper's formula, channel by channel."""
    out, channels = np.empty_like(x), x.shape[-1]
    for i in range(channels):
        energy = sum(x[..., j] ** 2 for j in range(max(0, i - size // 2), min(channels, i + (size - 1) // 2 + 1)))
        out[..., i] = x[..., i] / (k + alpha * energy) ** beta
    return out


@pytest.mark.parametrize("size, channels", [(5, 12), (3, 7), (4, 9), (1, 3), (7, 3)])
def test_equals_a_slow_loop(size: int, channels: int) -> None:
    x = np.random.default_rng(size).standard_normal((2, 3, 4, channels))
    out = local_response_norm(jnp.asarray(x), size, 0.3, 0.75, 2.0)
    np.testing.assert_allclose(out, slow(x, size, 0.3, 0.75, 2.0), rtol=1e-5, atol=1e-6)


def test_the_layer_starts_from_the_papers_constants() -> None:
    x = 50 * np.random.default_rng(0).standard_normal((1, 2, 2, 8))
    out = LocalResponseNorm().apply({}, jnp.asarray(x))
    np.testing.assert_allclose(out, slow(x, 5, 1e-4, 0.75, 2.0), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_squared_and_summed_in_float32() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 2, 16)), jnp.bfloat16)
    out = local_response_norm(x, alpha=0.5)
    assert out.dtype == jnp.bfloat16
    exact = slow(np.asarray(x, np.float64), 5, 0.5, 0.75, 2.0)
    np.testing.assert_allclose(np.asarray(out, np.float64), exact, rtol=2**-8)  # one rounding
    assert jnp.isfinite(jax.grad(lambda x: local_response_norm(x).astype(jnp.float32).sum())(x)).all()
