"""The linear layer over the last of any number of axes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.ops.linear import linear


class Dense(nn.Module):
    """`(..., D) -> (..., features)`, computed in `dtype`; parameters as `flax.linen.Dense` has them.

    Unlike there, gradients of biases are float32 sums for every dtype, and all rows form one axis (see `linear`).
    """

    features: int
    use_bias: bool = True
    kernel_init: Any = nn.initializers.lecun_normal()
    bias_init: Any = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,)) if self.use_bias else None
        return linear(x.astype(self.dtype), kernel.astype(self.dtype), bias)
