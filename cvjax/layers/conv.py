"""2-D convolution with padding counted in pixels, as the CNN papers count it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.initializers import kaiming_normal
from cvjax.ops.convolution import conv2d
from cvjax.ops.linear import add


class Conv(nn.Module):
    """Convolution `(B, H, W, C) -> (B, H', W', features)`, `H' = (H + 2 padding - reach) // strides + 1`.

    kernel_size, padding: one number, or rows and columns; padding is zeros on either side.
    dilation: distance between the taps of the kernel; `reach = dilation * (kernel_size - 1) + 1`.
    groups: the channels are split into this many groups that do not see each other.
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
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = (self.kernel_size, self.kernel_size) if isinstance(self.kernel_size, int) else self.kernel_size
        padding = (self.padding, self.padding) if isinstance(self.padding, int) else self.padding
        kernel = self.param("kernel", self.kernel_init, (*size, x.shape[-1] // self.groups, self.features))
        x = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, padding, self.dilation, self.groups)
        if self.use_bias:
            x = add(x, self.param("bias", self.bias_init, (self.features,)))
        return x
