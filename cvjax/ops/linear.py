"""Linear maps of the last axis, and sums that stay float32 whatever the layers compute in."""

import jax
import jax.numpy as jnp
from jax import lax


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`(..., D)` times a kernel `(D, *outputs)` of the same dtype, plus `bias (*outputs)`: `(..., *outputs)`.

    As one product of two matrices: for more axes than one XLA turns the kernel's gradient into transposes of the
    activations, and lays out all that comes before it accordingly.
    """
    y = lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())))
    if bias is not None:
        y = add(y, bias)
    return y.reshape(*x.shape[:-1], *kernel.shape[1:])


def add(x: jax.Array, parameter: jax.Array) -> jax.Array:
    """`x + parameter`, which is broadcast; in float32, and so is the sum that is the parameter's gradient.

    The result has x's dtype. In bfloat16 a sum over thousands of examples would lose all but a few of its digits.
    """
    return (x.astype(jnp.float32) + parameter.astype(jnp.float32)).astype(x.dtype)
