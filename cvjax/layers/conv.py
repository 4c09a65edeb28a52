"""2-D convolution with padding counted in pixels, as the CNN papers count it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.initializers import kaiming_normal
from cvjax.ops.convolution import conv2d
from cvjax.ops.linear import add


def standardized(kernel: jax.Array, epsilon: float) -> jax.Array:
    """A kernel `(kh, kw, C, O)` whose filters have mean 0 and variance 1, each divided by `sqrt(variance + epsilon)`.

    Weight standardisation (Qiao et al. 2019, https://arxiv.org/abs/1903.10520, eq. 5-6).
    """
    axes = 0, 1, 2
    return (kernel - kernel.mean(axes)) * jax.lax.rsqrt(kernel.var(axes) + epsilon)


class Conv(nn.Module):
    """Convolution `(B, H, W, C) -> (B, H', W', features)`, `H' = (H + 2 padding - reach) // strides + 1`.

    kernel_size, padding: one number, or rows and columns; padding is zeros on either side.
    dilation: distance between the taps of the kernel; `reach = dilation * (kernel_size - 1) + 1`.
    groups: the channels are split into this many groups that do not see each other.
    standardize: None for the kernel as it is, or the epsilon by which its filters are `standardized`.
    """

    features: int
    kernel_size: int | tuple[int, int]
    strides: int = 1
    padding: int | tuple[int, int] = 0
    dilation: int = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Any = kaiming_normal
    bias_init: Any = nn.initializers.zeros
    standardize: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = (self.kernel_size, self.kernel_size) if isinstance(self.kernel_size, int) else self.kernel_size
        padding = (self.padding, self.padding) if isinstance(self.padding, int) else self.padding
        kernel = self.param("kernel", self.kernel_init, (*size, x.shape[-1] // self.groups, self.features))
        kernel = kernel if self.standardize is None else standardized(kernel, self.standardize)
        x = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, padding, self.dilation, self.groups)
        if self.use_bias:
            x = add(x, self.param("bias", self.bias_init, (self.features,)))
        return x
