"""Scaled dot-product attention (Vaswani et al. 2017, eq. 1)."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

Implementation = Literal["auto", "xla", "cudnn"]


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None = None,
           implementation: Implementation = "auto") -> jax.Array:
    """Means of values, weighted by `softmax(queries keys / sqrt(D) + bias)`: all `(B, T, heads, D)`.

    bias: float32, broadcastable to `(B, heads, T, T)`, or None. The softmax is float32 always.
    implementation: "cudnn" for the fused kernel (FlashAttention, Dao et al. 2022, https://arxiv.org/abs/2205.14135) of
    NVIDIA's library, which has to be there: bfloat16 or float16, D a multiple of 8, no bias. "auto" for it on a GPU
    where it can be. Raises ValueError where "cudnn" cannot be.
    Differentiable in reverse mode, and unless fused in forward mode over that (`jax.jvp` of a `jax.grad`).
    """
    if implementation not in get_args(Implementation):
        raise ValueError(f"implementation {implementation!r}: it must be one of {', '.join(get_args(Implementation))}")
    if implementation == "cudnn":
        return _fused(queries, keys, values, bias)
    inputs = (queries, keys, values) if bias is None else (queries, keys, values, bias)
    if implementation == "auto" and _can_be_fused(*inputs):
        return lax.platform_dependent(*inputs, cuda=_fused, default=_by_heads)
    return _by_heads(*inputs)


def _can_be_fused(*inputs: jax.Array) -> bool:
    if jax.default_backend() != "gpu":
        return False
    try:
        jax.eval_shape(_fused, *inputs)
    except ValueError:
        return False
    return True


def _fused(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`attend` by cuDNN. JAX does not let it train with an odd number of tokens: they get one more, which none sees."""
    if queries.dtype not in (jnp.bfloat16, jnp.float16) or bias is not None:
        raise ValueError("attention by cudnn is for bfloat16 or float16 and no bias, not for "
                         f"{queries.dtype}{'' if bias is None else ' with a bias'}; dtype bfloat16 makes a ViT so")
    batch, length = queries.shape[:2]
    padded = [jnp.pad(x, ((0, 0), (0, length % 2), (0, 0), (0, 0))) for x in (queries, keys, values)]
    lengths = jnp.full((batch,), length, jnp.int32) if length % 2 else None
    try:
        return jax.nn.dot_product_attention(*padded, query_seq_lengths=lengths, key_value_seq_lengths=lengths,
                                            implementation="cudnn")[:, :length]
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"attention by cudnn: {str(error).splitlines()[0]}") from None


def _by_heads(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`attend` with heads before tokens: each head is then one matrix, and stays so in the gradients."""
    q, k, v = (x.swapaxes(1, 2) for x in (queries, keys, values))  # (B, heads, T, D)
    scores = _scores(q, k) / q.shape[-1] ** 0.5
    weights = jax.nn.softmax(scores if bias is None else scores + bias).astype(v.dtype)
    return lax.dot_general(weights, v, (((3,), (2,)), _HEADS)).swapaxes(1, 2)


_HEADS = (0, 1), (0, 1)


def _product(q: jax.Array, k: jax.Array) -> jax.Array:
    """Of queries with keys, `(B, heads, T, D)`: float32 `(B, heads, T, T)`."""
    return lax.dot_general(q, k, (((3,), (3,)), _HEADS), preferred_element_type=jnp.float32)


def _scores_backward(inputs: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    # What JAX derives would take these products in float32 where the layers compute in less.
    q, k = inputs
    g = g.astype(q.dtype)
    return lax.dot_general(g, k, (((3,), (2,)), _HEADS)), lax.dot_general(g, q, (((2,), (2,)), _HEADS))


_scores = jax.custom_vjp(_product)
_scores.defvjp(lambda q, k: (_product(q, k), (q, k)), _scores_backward)
