"""Scaled dot-product attention (Vaswani et al. 2017, eq. 1)."""

import jax
import jax.numpy as jnp
from jax import lax


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Means of values, weighted by `softmax(queries keys / sqrt(D) + bias)`: all `(B, T, heads, D)`.

    bias: float32, broadcastable to `(B, heads, T, T)`, or None. The softmax is float32 always.
    """
    inputs = (queries, keys, values) if bias is None else (queries, keys, values, bias)
    return lax.platform_dependent(*inputs, cpu=_by_heads, default=jax.nn.dot_product_attention)


def _by_heads(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`attend` with heads before tokens, for a CPU: each head is then one matrix, and stays so in the gradients."""
    q, k, v = (x.swapaxes(1, 2) for x in (queries, keys, values))  # (B, heads, T, D)
    heads = (0, 1), (0, 1)
    scores = lax.dot_general(q, k, (((3,), (3,)), heads), preferred_element_type=jnp.float32) / q.shape[-1] ** 0.5
    weights = jax.nn.softmax(scores if bias is None else scores + bias).astype(v.dtype)
    return lax.dot_general(weights, v, (((3,), (2,)), heads)).swapaxes(1, 2)
