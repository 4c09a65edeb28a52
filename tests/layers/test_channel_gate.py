"""Gates of channels and response normalisation against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.channel_gate import EfficientChannelAttention, SqueezeExcitation
from cvjax.layers.grn import GlobalResponseNorm

X = np.random.default_rng(0).standard_normal((2, 3, 4, 16)).astype(np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("channels, reduced", [(16, 8), (64, 8), (192, 16), (256, 16), (2048, 128)])
def test_squeeze_and_excitation_passes_through_a_sixteenth_in_multiples_of_eight(channels: int, reduced: int) -> None:
    """timm's `make_divisible(channels / 16, 8, round_limit=0)`; 192 / 16 is halfway, and goes up."""
    shapes = jax.eval_shape(SqueezeExcitation().init, jax.random.key(0), jnp.zeros((1, 2, 2, channels)))["params"]
    assert shapes["fc1"]["kernel"].shape == (1, 1, channels, reduced)
    assert shapes["fc2"]["kernel"].shape == (1, 1, reduced, channels)


def test_squeeze_and_excitation_scales_by_a_network_on_the_means() -> None:
    shapes = jax.eval_shape(SqueezeExcitation().init, jax.random.key(0), X)["params"]
    params = jax.tree.map(lambda leaf: np.random.default_rng(1).standard_normal(leaf.shape, np.float32), shapes)
    first, second = (lambda x, layer=params[name]: x @ layer["kernel"][0, 0] + layer["bias"] for name in ("fc1", "fc2"))
    gate = sigmoid(second(np.maximum(first(X.mean((1, 2))), 0)))
    found = jax.jit(SqueezeExcitation().apply)({"params": params}, X)
    np.testing.assert_allclose(found, X * gate[:, None, None], atol=1e-5)


@pytest.mark.parametrize("channels, size", [(8, 3), (64, 3), (128, 5), (256, 5), (1024, 5), (2048, 7)])
def test_ecas_kernel_grows_with_the_channels(channels: int, size: int) -> None:
    """Equation 12, as the authors' code has it: (log2(C) + 1) / 2 cut to an integer, one more where that is even."""
    shapes = jax.eval_shape(EfficientChannelAttention().init, jax.random.key(0), jnp.zeros((1, 1, 1, channels)))
    assert shapes["params"]["kernel"].shape == (size, 1, 1)


def test_eca_scales_by_a_correlation_along_the_means() -> None:
    kernel = np.array([0.5, -1.0, 2.0], np.float32)
    means = np.pad(X.mean((1, 2)), ((0, 0), (1, 1)))
    gate = sigmoid(sum(tap * means[:, i:i + 16] for i, tap in enumerate(kernel)))
    found = jax.jit(EfficientChannelAttention().apply)({"params": {"kernel": kernel[:, None, None]}}, X)
    np.testing.assert_allclose(found, X * gate[:, None, None], atol=1e-5)


def test_a_response_is_a_channels_share_of_the_norms() -> None:
    scale, bias = np.linspace(-1, 1, 16, dtype=np.float32), np.linspace(0, 1, 16, dtype=np.float32)
    norms = np.sqrt((X**2).sum((1, 2), keepdims=True))
    expected = X + scale * X * norms / (norms.mean(-1, keepdims=True) + 1e-6) + bias
    found = jax.jit(GlobalResponseNorm().apply)({"params": {"scale": scale, "bias": bias}}, X)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_channel_of_zeros_has_a_gradient() -> None:
    """As torch's norm has it; far below zero GELU gives zeros."""
    given = {"params": {"scale": np.ones(16, np.float32), "bias": np.zeros(16, np.float32)}}
    x = np.where(np.arange(16) == 3, np.float32(0), X)
    gradient = jax.jit(jax.grad(lambda x: GlobalResponseNorm().apply(given, x).sum()))(x)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[..., 3], 1)
