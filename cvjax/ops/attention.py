"""Scaled dot-product attention (Vaswani et al. 2017, eq. 1)."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

Implementation = Literal["xla", "cudnn"]


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None = None,
           implementation: Implementation = "xla") -> jax.Array:
    """Means of values, weighted by `softmax(queries keys / sqrt(D) + bias)`: all `(B, T, heads, D)`.

    bias: float32, broadcastable to `(B, heads, T, T)`, or None. The softmax is float32 always.
    implementation: "cudnn" for the fused kernel (FlashAttention, Dao et al. 2022, https://arxiv.org/abs/2205.14135) of
    NVIDIA's library, which has to be there: bfloat16 or float16, D a multiple of 8, no bias.
    Raises ValueError where it cannot be.
    """
    if implementation == "cudnn":
        return _fused(queries, keys, values, bias)
    inputs = (queries, keys, values) if bias is None else (queries, keys, values, bias)
    return lax.platform_dependent(*inputs, cpu=_by_heads, default=jax.nn.dot_product_attention)


def _fused(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None) -> jax.Array:
    """`attend` by cuDNN. JAX does not let it train with an odd number of tokens: they get one more, which none sees."""
    if queries.dtype not in (jnp.bfloat16, jnp.float16) or bias is not None:
        raise ValueError("--attention cudnn is for bfloat16 or float16 and no bias, not for "
                         f"{queries.dtype}{'' if bias is None else ' with a bias'}; --dtype bfloat16 makes a ViT so")
    batch, length = queries.shape[:2]
    padded = [jnp.pad(x, ((0, 0), (0, length % 2), (0, 0), (0, 0))) for x in (queries, keys, values)]
    lengths = jnp.full((batch,), length, jnp.int32) if length % 2 else None
    try:
        return jax.nn.dot_product_attention(*padded, query_seq_lengths=lengths, key_value_seq_lengths=lengths,
                                            implementation="cudnn")[:, :length]
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"--attention cudnn: {str(error).splitlines()[0]}") from None


def _by_heads(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`attend` with heads before tokens, for a CPU: each head is then one matrix, and stays so in the gradients."""
    q, k, v = (x.swapaxes(1, 2) for x in (queries, keys, values))  # (B, heads, T, D)
    heads = (0, 1), (0, 1)
    scores = lax.dot_general(q, k, (((3,), (3,)), heads), preferred_element_type=jnp.float32) / q.shape[-1] ** 0.5
    weights = jax.nn.softmax(scores if bias is None else scores + bias).astype(v.dtype)
    return lax.dot_general(weights, v, (((3,), (2,)), heads)).swapaxes(1, 2)
