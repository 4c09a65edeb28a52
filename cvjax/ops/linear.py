"""Linear maps of the last axis, and sums that stay float32 in layers of any dtype."""

import jax
import jax.numpy as jnp
from jax import lax


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`(..., D)` times a kernel `(D, *outputs)` of the same dtype, plus `bias (*outputs)`: `(..., *outputs)`.

    It is one product of two matrices. With several axes of rows, XLA would transpose the activations for the kernel's
    gradient and choose the memory layout of all layers before to fit.
    """
    y = lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())))
    if bias is not None:
        y = add(y, bias)
    return y.reshape(*x.shape[:-1], *kernel.shape[1:])


def add(x: jax.Array, parameter: jax.Array) -> jax.Array:
    """`x + parameter`, broadcast, in float32. The parameter's gradient is a sum, in float32 as well.

    The result has x's dtype. In bfloat16 a sum over thousands of examples would lose all but a few of its digits.
    """
    return (x.astype(jnp.float32) + parameter.astype(jnp.float32)).astype(x.dtype)
