"""Attention pooling: one learned query looks at all tokens (Zhai et al. 2022, https://arxiv.org/abs/2106.04560)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.dense import Dense
from cvjax.layers.initializers import TransformerInit
from cvjax.layers.mlp import Activation, Mlp
from cvjax.ops.attention import attend


class AttentionPool(nn.Module):
    """`(B, T, D) -> (B, D)`: attention of a learned query to the tokens, then `x + mlp(norm(x))`.

    Parameters have the names of timm's `AttentionPoolLatent`. heads: must divide D. activation: see
    `cvjax.layers.mlp.Mlp`. inits: how the kernels start.
    """

    heads: int
    mlp_ratio: float = 4.0
    dtype: Any = jnp.float32
    inits: TransformerInit = TransformerInit()
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def linear(features: int, name: str) -> Dense:
            return Dense(features, kernel_init=self.inits.linear, dtype=self.dtype, name=name)

        batch, length, dim = x.shape
        latent = self.param("latent", nn.initializers.normal(dim**-0.5), (1, 1, dim))
        q = jnp.broadcast_to(linear(dim, "q")(latent), (batch, 1, dim)).reshape(batch, 1, self.heads, -1)
        k, v = jnp.moveaxis(linear(2 * dim, "kv")(x).reshape(batch, length, 2, self.heads, -1), 2, 0)
        # For attention maps, as in `SelfAttention`.
        self.sow("intermediates", "queries", q)
        self.sow("intermediates", "keys", k)
        self.sow("intermediates", "score_bias", 0.0)
        # cuDNN's kernel takes as many queries as keys.
        x = linear(dim, "proj")(attend(q, k, v, implementation="xla").reshape(batch, dim))
        y = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name="norm")(x)
        return x + Mlp(int(dim * self.mlp_ratio), self.dtype, self.inits.linear, self.activation, name="mlp")(y)
