"""Gates of channels: each channel of a map is scaled by a number in (0, 1) that follows from all of them."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.conv import Conv
from cvjax.layers.initializers import linear_uniform


class SqueezeExcitation(nn.Module):
    """Scales the channels of `(B, H, W, C)` by a small network on their means (Hu et al. 2018,
    https://arxiv.org/abs/1709.01507).

    The network's two 1x1 convolutions pass through C / 16 channels, rounded to a multiple of 8 as timm does.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        gate = x.mean(axis=(1, 2), keepdims=True)
        gate = nn.relu(Conv(max(8, (channels + 64) // 128 * 8), 1, dtype=self.dtype, name="fc1")(gate))
        return _scaled(x, nn.sigmoid(Conv(channels, 1, dtype=self.dtype, name="fc2")(gate)))


class EfficientChannelAttention(nn.Module):
    """Scales the channels of `(B, H, W, C)` by a convolution along their means (Wang et al. 2020,
    https://arxiv.org/abs/1910.03151).

    Its kernel `(k, 1, 1)` spans the odd number k of neighbouring channels that is next to (log2(C) + 1) / 2, at least
    3 (equation 12).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        size = max(int((math.log2(channels) + 1) / 2) // 2 * 2 + 1, 3)
        kernel = self.param("kernel", linear_uniform, (size, 1, 1))
        means = jnp.pad(x.mean(axis=(1, 2), dtype=jnp.float32), ((0, 0), (size // 2, size // 2)))
        gate = nn.sigmoid(sum(tap * means[:, i:i + channels] for i, tap in enumerate(kernel.ravel())))
        return _scaled(x, gate[:, None, None])


def _scaled(x: jax.Array, gate: jax.Array) -> jax.Array:
    return (x.astype(jnp.float32) * gate.astype(jnp.float32)).astype(x.dtype)  # for the sum that is the gate's gradient
