"""The transformer's position-wise feed-forward network."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.dense import Dense
from cvjax.layers.initializers import xavier_uniform
from cvjax.layers.partition import spread
from cvjax.ops.gelu import gelu


class Mlp(nn.Module):
    """Linear, exact GELU, linear: `(..., D) -> (..., D)` through `hidden` channels."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dim = x.shape[-1]
        x = Dense(self.hidden, kernel_init=xavier_uniform, dtype=self.dtype, name="fc1")(x)
        x = gelu(spread(x, -1))
        return Dense(dim, kernel_init=xavier_uniform, dtype=self.dtype, name="fc2")(x)
