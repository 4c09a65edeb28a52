"""Scaled dot-product attention (Vaswani et al. 2017, eq. 1)."""

from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from cvjax.ops.multilinear import Multilinear

Implementation = Literal["auto", "xla", "cudnn"]


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None = None,
           implementation: Implementation = "auto", hidden: int = 0) -> jax.Array:
    """Means of values, weighted by `softmax(queries keys / sqrt(D) + bias)`: all `(B, T, heads, D)`.

    bias: float32, broadcastable to `(B, heads, T, T)`, or None. The softmax is always computed in float32.
    implementation: "cudnn" takes the fused kernel (FlashAttention, Dao et al. 2022, https://arxiv.org/abs/2205.14135)
    of NVIDIA's cuDNN, which must be installed. It needs bfloat16 or float16, D a multiple of 8, and no bias. "auto"
    takes it on a GPU wherever it is possible. Raises ValueError if "cudnn" is asked for and is not possible.
    hidden: so many tokens at the end are no tokens: none is attended to, and what is returned for them says nothing.
    The fused kernel can be differentiated once, in reverse mode; everything else any number of times, in both
    modes.
    """
    if implementation not in get_args(Implementation):
        raise ValueError(f"implementation {implementation!r}: it must be one of {', '.join(get_args(Implementation))}")
    fused, plain = partial(_fused, hidden=hidden), partial(_by_heads, hidden=hidden)
    if implementation == "cudnn":
        return fused(queries, keys, values, bias)
    inputs = (queries, keys, values) if bias is None else (queries, keys, values, bias)
    if implementation == "auto" and _can_be_fused(*inputs):
        return lax.platform_dependent(*inputs, cuda=fused, default=plain)
    return plain(*inputs)


def hidden_tokens(shape: tuple[int, ...], heads: int, dtype: Any, implementation: Implementation) -> int:
    """How many hidden tokens `(B, T, D)` should get before layers whose attention has no bias: 0 or 1.

    JAX trains cuDNN's kernel with an even number of tokens only, and `attend` copies an odd number of them each time.
    """
    batch, length, dim = shape
    if length % 2 == 0 or implementation == "xla":
        return 0
    inputs = [jax.ShapeDtypeStruct((batch, length, heads, dim // heads), dtype)] * 3
    return int(implementation == "cudnn" or _can_be_fused(*inputs))


def _can_be_fused(*inputs: Any) -> bool:
    if jax.default_backend() != "gpu":
        return False
    try:
        jax.eval_shape(_fused, *inputs)
    except ValueError:
        return False
    return True


def _fused(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None = None, *, hidden: int = 0
           ) -> jax.Array:
    """`attend` by cuDNN. An odd number of tokens gets a hidden one more.

    Hidden tokens are no keys, but they are queries: the kernel would leave their results as they lay in memory.
    """
    if queries.dtype not in (jnp.bfloat16, jnp.float16) or bias is not None:
        raise ValueError("attention by cudnn is for bfloat16 or float16 and no bias, not for "
                         f"{queries.dtype}{'' if bias is None else ' with a bias'}; set the model's dtype to bfloat16")
    batch, length = queries.shape[:2]
    padded = [jnp.pad(x, ((0, 0), (0, length % 2), (0, 0), (0, 0))) for x in (queries, keys, values)]
    lengths: dict[str, jax.Array] = {}
    if hidden or length % 2:
        lengths = {"query_seq_lengths": jnp.full((batch,), padded[0].shape[1], jnp.int32),
                   "key_value_seq_lengths": jnp.full((batch,), length - hidden, jnp.int32)}
    try:
        return jax.nn.dot_product_attention(*padded, **lengths, implementation="cudnn")[:, :length]
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"attention by cudnn: {str(error).splitlines()[0]}") from None


def _by_heads(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None = None, *,
              hidden: int = 0) -> jax.Array:
    """`attend` with the axis of heads before that of tokens: each head is one matrix, in the gradients as well."""
    q, k, v = (x.swapaxes(1, 2) for x in (queries, keys, values))  # (B, heads, T, D)
    if hidden:
        k, v = k[:, :, :-hidden], v[:, :, :-hidden]
    scores = _scores(q, k) / q.shape[-1] ** 0.5
    return _weighted_mean(scores if bias is None else scores + bias, v).swapaxes(1, 2)


@jax.custom_jvp
def _weighted_mean(scores: jax.Array, values: jax.Array) -> jax.Array:
    """`softmax(scores) values`: float32 `(B, heads, T, T)` and `(B, heads, T, D)`.

    In the derivative of softmax, `P (dS - sum(P dS))`, the sum is taken after the product with the values, where it is
    a number times the result. Transposed that is FlashAttention's `P (dP - sum(dO O))` (Dao et al. 2022, eq. 4): the
    gradient of the scores is elementwise in what the product before it writes, and no sum over them is left.
    """
    return _mean(jax.nn.softmax(scores).astype(values.dtype), values)


@_weighted_mean.defjvp
def _weighted_mean_jvp(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
                       ) -> tuple[jax.Array, jax.Array]:
    (scores, values), (scores_dot, values_dot) = primals, tangents
    # Without the barrier, XLA keeps the float32 scores for the backward pass and computes the weights again from them.
    weights = lax.optimization_barrier(jax.nn.softmax(scores).astype(values.dtype))
    result = _mean(weights, values)
    moved = weights.astype(jnp.float32) * scores_dot
    shift = moved.sum(axis=-1, keepdims=True) * result.astype(jnp.float32)  # (B, heads, T, D)
    return result, (_mean(moved.astype(values.dtype), values) - shift.astype(result.dtype) + _mean(weights, values_dot))


def _mean(weights: jax.Array, values: jax.Array) -> jax.Array:
    return lax.dot_general(weights, values, (((3,), (2,)), _HEADS))


_HEADS = (0, 1), (0, 1)


def _product(q: jax.Array, k: jax.Array) -> jax.Array:
    """Inner products of queries and keys `(B, heads, T, D)`: float32 `(B, heads, T, T)`."""
    return lax.dot_general(q, k, (((3,), (3,)), _HEADS), preferred_element_type=jnp.float32)


# The transposes that JAX derives would compute in float32 even where the layers compute in bfloat16.
_scores = Multilinear("attention_scores", _product, transposes=(
    lambda g, q, k: lax.dot_general(g.astype(k.dtype), k, (((3,), (2,)), _HEADS)),
    lambda g, q, k: lax.dot_general(g.astype(q.dtype), q, (((2,), (2,)), _HEADS))))
