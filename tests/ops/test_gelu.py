"""GELU against the standard library's error function."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.ops.gelu import gelu

POINTS = np.concatenate([np.linspace(-6, 6, 241), [-40.0, -12.0, 12.0, 40.0]])


def exact(x: float) -> tuple[float, float, float]:
    """The value, the slope, and the slope of the slope, in float64."""
    density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    distribution = math.erfc(-x / math.sqrt(2)) / 2
    return x * distribution, distribution + x * density, (2 - x * x) * density


def test_values_and_slopes_of_both_modes_are_exact():
    x = jnp.asarray(POINTS, jnp.float32)
    value, slope, curvature = np.array([exact(v) for v in POINTS]).T
    # A few roundings of numbers up to 1, 6e-8 each; a value's are relative to x, the curvature's to x**2 <= 36.
    ours, tangent = jax.jit(lambda x: jax.jvp(gelu, (x,), (jnp.ones_like(x),)))(x)
    np.testing.assert_allclose(ours, value, rtol=5e-7, atol=5e-7)
    np.testing.assert_allclose(tangent, slope, rtol=0, atol=5e-7)
    backward = jax.grad(lambda x: gelu(x).sum())
    np.testing.assert_array_equal(jax.jit(backward)(x), tangent)
    np.testing.assert_allclose(jax.jit(jax.grad(lambda x: backward(x).sum()))(x), curvature, rtol=0, atol=5e-6)


def test_bfloat16_stays():
    x = jnp.asarray([-1.0, 0.0, 2.0], jnp.bfloat16)
    assert gelu(x).dtype == jax.grad(lambda x: gelu(x).sum())(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(gelu(x).astype(np.float32), [exact(v)[0] for v in (-1.0, 0.0, 2.0)], rtol=2**-7)
