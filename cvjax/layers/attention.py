"""Multi-head self-attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.initializers import xavier_uniform


class SelfAttention(nn.Module):
    """Self-attention `(B, T, D) -> (B, T, D)` over all tokens of an example.

    bias: float32, broadcastable to `(B, heads, T, T)`, added to the scores of queries (rows) with keys.
    heads: number of heads; must divide D.
    qk_norm: LayerNorm on queries and keys per head (Dehghani et al. 2023, https://arxiv.org/abs/2302.05442).
    dtype: compute type; the softmax is float32 always.
    """

    heads: int
    qk_norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        batch, length, dim = x.shape
        if dim % self.heads:
            raise ValueError(f"width {dim} cannot be split into {self.heads} heads: heads must divide width")
        qkv = nn.Dense(3 * dim, kernel_init=xavier_uniform, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(batch, length, 3, self.heads, -1), 2, 0)  # each (B, T, heads, D / heads)
        if self.qk_norm:
            q = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="q_norm")(q)
            k = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="k_norm")(k)
        # Kept only where the caller makes `intermediates` mutable: attention maps are made from them.
        self.sow("intermediates", "queries", q)
        self.sow("intermediates", "keys", k)
        self.sow("intermediates", "score_bias", 0.0 if bias is None else bias)
        x = jax.nn.dot_product_attention(q, k, v, bias).reshape(batch, length, dim)
        return nn.Dense(dim, kernel_init=xavier_uniform, dtype=self.dtype, name="proj")(x)
