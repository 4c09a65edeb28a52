"""The transformer's position-wise feed-forward network."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.dense import Dense
from cvjax.layers.grn import GlobalResponseNorm
from cvjax.layers.initializers import xavier_uniform
from cvjax.layers.partition import spread
from cvjax.ops.gelu import gelu


class Mlp(nn.Module):
    """Linear, exact GELU, linear: `(..., D) -> (..., D)` through `hidden` channels.

    kernel_init: the initialiser of both kernels. response_norm: whether maps `(B, H, W, hidden)` are normalised before
    the second layer, see `GlobalResponseNorm`.
    """

    hidden: int
    dtype: Any = jnp.float32
    kernel_init: Any = xavier_uniform
    response_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dim = x.shape[-1]
        x = Dense(self.hidden, kernel_init=self.kernel_init, dtype=self.dtype, name="fc1")(x)
        x = gelu(spread(x, -1))
        x = GlobalResponseNorm(name="grn")(x) if self.response_norm else x
        return Dense(dim, kernel_init=self.kernel_init, dtype=self.dtype, name="fc2")(x)
