"""Scaled dot-product attention (Vaswani et al. 2017, eq. 1)."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from cvjax.ops.multilinear import Multilinear

Implementation = Literal["auto", "xla", "cudnn"]


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None = None,
           implementation: Implementation = "auto") -> jax.Array:
    """Means of values, weighted by `softmax(queries keys / sqrt(D) + bias)`: all `(B, T, heads, D)`.

    bias: float32, broadcastable to `(B, heads, T, T)`, or None. The softmax is always computed in float32.
    implementation: "cudnn" takes the fused kernel (FlashAttention, Dao et al. 2022, https://arxiv.org/abs/2205.14135)
    of NVIDIA's cuDNN, which must be installed. It needs bfloat16 or float16, D a multiple of 8, and no bias. "auto"
    takes it on a GPU wherever it is possible. Raises ValueError if "cudnn" is asked for and is not possible.
    The fused kernel can be differentiated once, in reverse mode; everything else any number of times, in both
    modes.
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
    """`attend` by cuDNN. JAX does not train it with an odd number of tokens, so a hidden token is added then."""
    if queries.dtype not in (jnp.bfloat16, jnp.float16) or bias is not None:
        raise ValueError("attention by cudnn is for bfloat16 or float16 and no bias, not for "
                         f"{queries.dtype}{'' if bias is None else ' with a bias'}; set the model's dtype to bfloat16")
    batch, length = queries.shape[:2]
    padded = [jnp.pad(x, ((0, 0), (0, length % 2), (0, 0), (0, 0))) for x in (queries, keys, values)]
    lengths = jnp.full((batch,), length, jnp.int32) if length % 2 else None
    try:
        return jax.nn.dot_product_attention(*padded, query_seq_lengths=lengths, key_value_seq_lengths=lengths,
                                            implementation="cudnn")[:, :length]
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"attention by cudnn: {str(error).splitlines()[0]}") from None


def _by_heads(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`attend` with the axis of heads before that of tokens: each head is one matrix, in the gradients as well."""
    q, k, v = (x.swapaxes(1, 2) for x in (queries, keys, values))  # (B, heads, T, D)
    scores = _scores(q, k) / q.shape[-1] ** 0.5
    weights = jax.nn.softmax(scores if bias is None else scores + bias).astype(v.dtype)
    return lax.dot_general(weights, v, (((3,), (2,)), _HEADS)).swapaxes(1, 2)


_HEADS = (0, 1), (0, 1)


def _product(q: jax.Array, k: jax.Array) -> jax.Array:
    """Inner products of queries and keys `(B, heads, T, D)`: float32 `(B, heads, T, T)`."""
    return lax.dot_general(q, k, (((3,), (3,)), _HEADS), preferred_element_type=jnp.float32)


# The transposes that JAX derives would compute in float32 even where the layers compute in bfloat16.
_scores = Multilinear("attention_scores", _product, transposes=(
    lambda g, q, k: lax.dot_general(g.astype(k.dtype), k, (((3,), (2,)), _HEADS)),
    lambda g, q, k: lax.dot_general(g.astype(q.dtype), q, (((2,), (2,)), _HEADS))))
