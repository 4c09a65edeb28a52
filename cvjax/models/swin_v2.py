"""Swin V2: Scaling Up Capacity and Resolution (Liu et al. 2022, https://arxiv.org/abs/2111.09883).

Windows, their shifts, and the order of the stages are those of `cvjax.models.swin`, with its treatment of images of any
size. Here is what the paper replaces: norms come after the branches, attention compares directions only, and a small
network makes the biases of offsets, so that they hold for windows of other sizes than it was trained with.

As in the authors' code, and not in the paper's text: biases lie between 0 and 16, keys have no bias, the norms of the
branches start at a scale of zero, and patches are normalised after they are merged. The additional norms of the two
largest networks, which are not published, are left out. Parameters carry timm's names but for the classifier (`head`).
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.attention import QKV
from cvjax.layers.dense import Dense
from cvjax.layers.drop_path import DropPath
from cvjax.layers.mlp import Mlp
from cvjax.layers.partition import spread
from cvjax.layers.remat import rematerialized
from cvjax.models.registry import register
from cvjax.models.swin import (
    BASE,
    INIT,
    LARGE,
    SMALL,
    TINY,
    SwinTransformer,
    WindowAttention,
    neighbours_as_channels,
)
from cvjax.ops.attention import attend
from cvjax.ops.linear import add
from cvjax.ops.unit import unit_vectors
from cvjax.ops.windows import Size, log_spaced_offsets

LARGEST_SCALE = 100.0  # of a cosine: temperatures are at least 0.01
LARGEST_BIAS = 16.0
HIDDEN_WIDTH = 512  # of the network that makes biases


class PatchMerging(nn.Module):
    """Halves a map and doubles its channels, `(B, H, W, C)` to `(B, H / 2, W / 2, 2C)`, rounded up, and normalises."""

    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Dense(2 * x.shape[-1], use_bias=False, kernel_init=INIT.linear, dtype=self.dtype, name="reduction")(
            neighbours_as_channels(x))
        return self.norm(name="norm")(y)


class CosineAttention(nn.Module):
    """Self-attention of `(B, T, D)` by cosines: scores are `cos(q, k) / temperature + bias` (sec. 3.2, eq. 2).

    bias: float32, broadcastable to `(B, heads, T, T)`. Each head learns the logarithm of one over its temperature.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        batch, length, dim = x.shape
        if dim % self.heads:
            raise ValueError(f"width {dim} cannot be split into {self.heads} heads: heads must divide width")
        q, k, v = QKV(self.heads, self.dtype, INIT.qkv, use_bias=False, name="qkv")(x)
        q_bias, v_bias = (self.param(name, nn.initializers.zeros, (dim,)).reshape(self.heads, -1)
                          for name in ("q_bias", "v_bias"))
        logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(10)), (self.heads,))
        scale = jnp.exp(jnp.minimum(logit_scale, math.log(LARGEST_SCALE)))[:, None]  # (heads, 1)
        q, k = (unit_vectors(y.astype(jnp.float32)) for y in (add(q, q_bias), k))
        q = q * scale * q.shape[-1] ** 0.5  # `attend` divides by the root
        q, k = q.astype(self.dtype), k.astype(self.dtype)
        for name, value in (("queries", q), ("keys", k), ("score_bias", bias)):
            self.sow("intermediates", name, value)  # see cvjax.layers.attention
        x = attend(q, k, add(v, v_bias), bias).reshape(batch, length, dim)
        return Dense(dim, kernel_init=INIT.linear, dtype=self.dtype, name="proj")(x)


class ContinuousPositionBias(nn.Module):
    """A network from log-spaced offsets `(N, 2)` to the bias of each head, `(N, heads)` (sec. 3.3, eq. 3); float32."""

    heads: int

    @nn.compact
    def __call__(self, offsets: jax.Array) -> jax.Array:
        x = nn.relu(Dense(HIDDEN_WIDTH, kernel_init=INIT.linear, name="0")(offsets))
        x = Dense(self.heads, use_bias=False, kernel_init=INIT.linear, name="2")(x)
        return LARGEST_BIAS * nn.sigmoid(x)


class CosineWindowAttention(WindowAttention):
    """`WindowAttention` by cosines, with biases that are made from offsets.

    trained_window: the window whose offsets the biases were first trained with; others are measured by it.
    """

    trained_window: Size

    def setup(self) -> None:
        self.attention = CosineAttention(self.heads, self.dtype)
        nn.share_scope(self, self.attention)
        self.cpb_mlp = ContinuousPositionBias(self.heads)

    def biases(self) -> jax.Array:
        return self.cpb_mlp(jnp.asarray(log_spaced_offsets(self.window, self.trained_window)))


class SwinV2Block(nn.Module):
    """`x + norm(attention(x))`, then `x + norm(mlp(x))`, on maps `(B, H, W, C)` (sec. 3.2, fig. 1)."""

    heads: int
    window: Size
    trained_window: Size
    mlp_ratio: float
    norm: Any
    dtype: Any
    shifted: bool
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = partial(self.norm, scale_init=nn.initializers.zeros)
        x = spread(x, 0, over="data")  # see cvjax.layers.transformer
        y = CosineWindowAttention(self.heads, self.window, self.shifted, self.dtype, self.trained_window,
                                  name="attn")(x)
        x = x + DropPath(self.drop_path, name="drop_path1")(norm(name="norm1")(y), train=train)
        y = Mlp(int(x.shape[-1] * self.mlp_ratio), self.dtype, INIT.linear, name="mlp")(x)
        return x + DropPath(self.drop_path, name="drop_path2")(norm(name="norm2")(y), train=train)


class SwinTransformerV2(SwinTransformer):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    pretrained_windows: side of each stage's window in the training that the weights come from, where `window` is
    another one now; None where it is the same. The other fields are those of `SwinTransformer`.
    """

    pretrained_windows: tuple[int, ...] | None = None

    @property
    def trained_windows(self) -> list[Size]:
        """Each stage's window by which its offsets are measured."""
        sides = self.pretrained_windows
        return self.windows if sides is None else [(side, side) for side in sides]

    @nn.nowrap
    def merging(self, norm: Any) -> Any:
        return partial(PatchMerging, norm, self.dtype)

    @nn.nowrap
    def block(self, stage: int, norm: Any) -> Any:
        return partial(rematerialized(SwinV2Block, self.remat), self.heads[stage], self.windows[stage],
                       self.trained_windows[stage], self.mlp_ratio, norm, self.dtype)

    def setup(self) -> None:
        if len(self.trained_windows) != len(self.windows) or min(map(min, self.trained_windows)) < 1:
            raise ValueError(f"pretrained_windows {self.pretrained_windows}: there must be one of at least 1 for each "
                             f"of {len(self.depths)} stages")
        super().setup()


def _variant(dims: dict[str, Any], window: int, image: int, pretrained: tuple[int, ...] | None = None
             ) -> tuple[type[SwinTransformerV2], dict[str, Any]]:
    return SwinTransformerV2, dict(dims, window=window, image_size=image, pretrained_windows=pretrained)


FROM_12 = (12, 12, 12, 6)  # trained with images of 192 pixels

VARIANTS = {
    f"swinv2_{size}_window{window}_{image}": _variant(dims, window, image)
    for size, dims, window, image in (
        ("tiny", TINY, 8, 256), ("tiny", TINY, 16, 256), ("small", SMALL, 8, 256), ("small", SMALL, 16, 256),
        ("base", BASE, 8, 256), ("base", BASE, 16, 256), ("base", BASE, 12, 192), ("large", LARGE, 12, 192),
    )
} | {
    f"swinv2_{size}_window12to{window}_192to{image}": _variant(dims, window, image, FROM_12)
    for size, dims in (("base", BASE), ("large", LARGE)) for window, image in ((16, 256), (24, 384))
}

register(VARIANTS)
