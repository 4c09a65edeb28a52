"""Linear maps against float64, and the precision of the sums behind their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.ops.linear import add, linear


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


@pytest.mark.parametrize("before", [(), (5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("outputs", [(6,), (3, 2, 4)])
def test_a_linear_map_is_a_sum_over_the_last_axis_and_has_its_gradients(before, outputs):
    x, kernel, bias = draw(*before, 7), draw(7, *outputs), draw(*outputs)
    weights = draw(*before, *outputs)
    arrays = [jnp.asarray(a, jnp.float32) for a in (x, kernel, bias)]
    expected = np.tensordot(x, kernel, 1) + bias
    np.testing.assert_allclose(linear(*arrays), expected, rtol=0, atol=2e-6)
    gradients = jax.grad(lambda *a: (linear(*a) * weights).sum(), (0, 1, 2))(*arrays)
    rows, g = x.reshape(-1, 7), weights.reshape(-1, *outputs)
    # Sums of at most 24 products of numbers around 1.
    np.testing.assert_allclose(gradients[0], np.tensordot(weights, kernel, (tuple(range(-len(outputs), 0)),
                               tuple(range(1, 1 + len(outputs))))), rtol=0, atol=1e-5)
    np.testing.assert_allclose(gradients[1], np.tensordot(rows, g, ((0,), (0,))), rtol=0, atol=1e-5)
    np.testing.assert_allclose(gradients[2], g.sum(0), rtol=0, atol=1e-5)


def test_the_gradient_of_what_is_added_is_summed_in_float32():
    """4,096 times 0.01, and a bfloat16 sum of that stops growing at 4: its steps there are 1/32."""
    x = jnp.zeros((4096, 3), jnp.bfloat16)
    assert add(x, jnp.zeros(3)).dtype == jnp.bfloat16
    gradient = jax.grad(lambda p: (add(x, p) * jnp.bfloat16(0.01)).astype(jnp.float32).sum())(jnp.zeros(3))
    np.testing.assert_allclose(gradient, 4096 * np.float32(jnp.bfloat16(0.01)), rtol=1e-6)


def test_one_product_of_matrices_forward_and_in_each_gradient():
    """Of two axes each: what XLA takes without transposing activations."""
    x, kernel, bias = jnp.zeros((2, 3, 7)), jnp.zeros((7, 3, 2, 4)), jnp.zeros((3, 2, 4))
    program = jax.jit(jax.grad(lambda *a: jnp.square(linear(*a)).sum(), (0, 1, 2))).lower(x, kernel, bias).as_text()
    products = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == 3
    assert not [line for line in products if "contracting_dims = [0, 1]" in line], "rows are several axes"
    assert "batching_dims" not in program
