"""Pooling modules of the CNNs; the arithmetic is in `cvjax.ops.pooling`."""

import flax.linen as nn
import jax

from cvjax.ops.pooling import average_pool, blur_pool, max_pool


class MaxPool(nn.Module):
    """The largest value in each window of `(B, H, W, C)`; see `cvjax.ops.pooling.max_pool`."""

    window: int
    strides: int
    padding: int = 0
    ceil_mode: bool = False

    def __call__(self, x: jax.Array) -> jax.Array:
        return max_pool(x, self.window, self.strides, self.padding, ceil_mode=self.ceil_mode)


class AveragePool(nn.Module):
    """The mean of each window of `(B, H, W, C)`, without padding; see `cvjax.ops.pooling.average_pool`."""

    window: int
    strides: int
    ceil_mode: bool = False

    def __call__(self, x: jax.Array) -> jax.Array:
        return average_pool(x, self.window, self.strides, ceil_mode=self.ceil_mode)


class BlurPool(nn.Module):
    """Every `strides`-th pixel of `(B, H, W, C)` after a blur; see `cvjax.ops.pooling.blur_pool`."""

    strides: int

    def __call__(self, x: jax.Array) -> jax.Array:
        return blur_pool(x, self.strides)
