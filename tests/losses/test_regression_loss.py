import jax
import jax.numpy as jnp
import numpy as np

from cvjax.losses.regression import absolute_error, squared_error


def test_means_over_the_columns_by_hand():
    outputs, targets = jnp.array([[1.0, -2.0], [0.0, 4.0]]), jnp.array([[0.0, 1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(absolute_error(outputs, targets), [2.0, 1.5])
    np.testing.assert_array_equal(squared_error(outputs, targets), [5.0, 4.5])


def test_half_precision_is_summed_in_float32_and_gradients_are_the_derivatives():
    outputs, targets = jnp.array([[1.0, -2.0]], jnp.bfloat16), jnp.array([[0.0, 1.0]])
    assert absolute_error(outputs, targets).dtype == squared_error(outputs, targets).dtype == jnp.float32
    slopes = [jax.grad(lambda x, error=error: error(x, targets).sum())(jnp.array([[1.0, -2.0]]))
              for error in (absolute_error, squared_error)]
    np.testing.assert_array_equal(slopes, [[[0.5, -0.5]], [[1.0, -3.0]]])
