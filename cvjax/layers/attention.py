"""Multi-head self-attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762)."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cvjax.layers.dense import Dense
from cvjax.layers.initializers import TransformerInit, xavier_uniform
from cvjax.layers.partition import is_spread, spread
from cvjax.ops.attention import Implementation, attend
from cvjax.ops.linear import linear
from cvjax.ops.position import rotate

# Whether queries, keys and values have biases; "qv": only queries and values, as in BEiT, EVA and DINOv3.
QKVBias = Literal[True, False, "qv"]


class QKV(nn.Module):
    """Queries, keys and values of all heads: `(B, T, D)` to three of `(B, T, heads, D / heads)`.

    Parameters are those of one linear layer, `kernel (D, 3D)` and `bias (3D,)`, as published weights have them; with
    use_bias "qv" `q_bias (D,)` and `v_bias (D,)`.
    """

    heads: int
    dtype: Any = jnp.float32
    kernel_init: Any = xavier_uniform
    use_bias: QKVBias = True

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        dim = x.shape[-1]
        split = (3, self.heads, dim // self.heads)
        kernel = self.param("kernel", self.kernel_init, (dim, 3 * dim)).astype(self.dtype)
        bias = self._bias(dim) if self.use_bias else None
        # Heads get an axis in the kernel already, so that devices can share them out before there are activations.
        kernel = spread(kernel.reshape(dim, *split), 2)
        bias = None if bias is None else spread(bias.reshape(split), 1)
        return lax.platform_dependent(x.astype(self.dtype), kernel, bias, tpu=_three_products, default=_one_product)

    def _bias(self, dim: int) -> jax.Array:
        if self.use_bias == "qv":
            q, v = (self.param(name, nn.initializers.zeros, (dim,)) for name in ("q_bias", "v_bias"))
            return jnp.concatenate([q, jnp.zeros_like(q), v])
        return self.param("bias", nn.initializers.zeros, (3 * dim,))


def _one_product(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cut into three columns, whose gradients are put side by side; with an axis of three they are padded and added.

    Only whole heads can be shared out to devices, which need that axis.
    """
    if is_spread():
        q, k, v = jnp.moveaxis(linear(x, kernel, bias), 2, 0)  # from (B, T, 3, heads, D / heads)
        return q, k, v
    columns = linear(x, kernel.reshape(len(kernel), -1), None if bias is None else bias.reshape(-1))
    q, k, v = (part.reshape(*x.shape[:-1], *kernel.shape[2:]) for part in jnp.split(columns, 3, axis=-1))
    return q, k, v


def _three_products(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same. A TPU's compiler copies each part out of one result and pads each gradient to add it to the others.

    The products have one axis of columns: with one of heads they get a layout that is transposed later.
    """
    def product(part: int) -> jax.Array:
        columns = kernel[:, part].reshape(len(kernel), -1)
        y = linear(x, columns, None if bias is None else bias[part].reshape(-1))
        return y.reshape(*x.shape[:-1], *kernel.shape[2:])

    return product(0), product(1), product(2)


class SelfAttention(nn.Module):
    """Self-attention `(B, T, D) -> (B, T, D)` over all tokens of an example.

    bias: float32, broadcastable to `(B, heads, T, T)`, added to the scores of queries (rows) with keys.
    hidden: so many tokens at the end are no tokens, see `cvjax.ops.attention.attend`.
    angles: `(B or 1, T, D / heads / 2)`, by which queries and keys are turned, see `cvjax.ops.position.rotate`.
    heads: number of heads; must divide D.
    qk_norm: LayerNorm on queries and keys per head (Dehghani et al. 2023, https://arxiv.org/abs/2302.05442).
    dtype: compute type; the softmax is always float32. implementation: see `cvjax.ops.attention.attend`.
    inits: how the kernels start. qkv_bias: see `QKVBias`. norm_epsilon: of `qk_norm`.
    """

    heads: int
    qk_norm: bool = False
    dtype: Any = jnp.float32
    implementation: Implementation = "auto"
    inits: TransformerInit = TransformerInit()
    qkv_bias: QKVBias = True
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None = None, hidden: int = 0, angles: jax.Array | None = None
                 ) -> jax.Array:
        batch, length, dim = x.shape
        if dim % self.heads:
            raise ValueError(f"width {dim} cannot be split into {self.heads} heads: heads must divide width")
        q, k, v = QKV(self.heads, self.dtype, self.inits.qkv, self.qkv_bias, name="qkv")(x)
        if self.qk_norm:
            q = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name="q_norm")(q)
            k = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name="k_norm")(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        # Attention maps are made from these. They are kept only if the caller makes `intermediates` mutable.
        self.sow("intermediates", "queries", q[:, :-hidden] if hidden else q)
        self.sow("intermediates", "keys", k[:, :-hidden] if hidden else k)
        self.sow("intermediates", "score_bias", 0.0 if bias is None else bias)
        x = attend(q, k, v, bias, self.implementation, hidden).reshape(batch, length, dim)
        return Dense(dim, kernel_init=self.inits.linear, dtype=self.dtype, name="proj")(x)
