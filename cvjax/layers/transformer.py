"""The pre-norm transformer block and a stack of them (Dosovitskiy et al. 2021, eq. 2-3)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.layers.attention import SelfAttention
from cvjax.layers.drop_path import DropPath
from cvjax.layers.layer_scale import LayerScale
from cvjax.layers.mlp import Mlp


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`, on `(B, T, D)`."""

    heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    layer_scale: float | None = None
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def residual(name: str, branch: jax.Array) -> jax.Array:
            if self.layer_scale is not None:
                branch = LayerScale(self.layer_scale, name=f"ls{name}")(branch)
            return DropPath(self.drop_path, name=f"drop_path{name}")(branch, train=train)

        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm1")(x)
        x = x + residual("1", SelfAttention(self.heads, self.qk_norm, self.dtype, name="attn")(y))
        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm2")(x)
        return x + residual("2", Mlp(int(x.shape[-1] * self.mlp_ratio), self.dtype, name="mlp")(y))


class Blocks(nn.Module):
    """`depth` blocks in a row, from `(B, T, D)` to the outputs of all of them, first block first.

    The drop-path rate grows linearly from 0 to `drop_path` (stochastic depth, sec. 3).
    remat: recompute each block in the backward pass instead of storing its activations.
    """

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    layer_scale: float | None = None
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        outputs = []
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i, rate in enumerate(np.linspace(0.0, self.drop_path, self.depth)):
            x = block(self.heads, self.mlp_ratio, self.qk_norm, self.layer_scale, float(rate), self.dtype,
                      name=str(i))(x, train)
            outputs.append(x)
        return outputs
