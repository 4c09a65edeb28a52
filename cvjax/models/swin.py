"""Swin: Hierarchical Vision Transformer using Shifted Windows (Liu et al. 2021, https://arxiv.org/abs/2103.14030).

Deviations: parameters carry timm's names, patch merging at the start of a stage included, but for the classifier,
which is `head` as in the authors' code (timm: `head.fc`). Images may have any size, as in the
authors' dense-prediction code: zeros fill up the last patches, the last windows of every block (before the map is
shifted) and the last 2x2 pixels that are merged; in a window, attention sees such tokens as keys. torchvision's Swin
gives the same numbers wherever it takes whole patches. timm's gives them for images of `image_size` where no shifted
map needs padding: it shifts before it pads, so that other windows see across the wrap, and only `image_size` decides
which maps it shifts.

A stage's window is no larger than its map at `image_size` (as in timm: it sets the size of the table of biases), and
a map that one window covers is not shifted.

Also the networks that a search over such windows found (Chen et al. 2021, https://arxiv.org/abs/2111.14725), with a
window of its own in each stage.
"""

import math
from collections.abc import Collection
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.layers.attention import SelfAttention
from cvjax.layers.dense import Dense
from cvjax.layers.drop_path import DropPath
from cvjax.layers.feature_maps import NamedMaps, with_maps
from cvjax.layers.initializers import TRANSFORMER_INITS, normal
from cvjax.layers.mlp import Mlp
from cvjax.layers.partition import spread
from cvjax.layers.remat import Remat, rematerialized
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import as_pair, check_images, size_of
from cvjax.models.registry import register
from cvjax.ops.patches import patchify
from cvjax.ops.windows import (
    Size,
    merge_windows,
    pad_to_multiple,
    partition_windows,
    relative_position_index,
    shifted_window_mask,
)

INIT = TRANSFORMER_INITS["timm"]
HIDDEN = -1e9  # a score whose softmax is zero


class PatchEmbed(nn.Module):
    """Images `(B, H, W, C)` to a normalised embedding of each patch `(B, H / p, W / p, D)`, rounded up."""

    patch_size: int
    width: int
    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        images = pad_to_multiple(images, (self.patch_size, self.patch_size))
        batch, height, width, _ = images.shape
        x = Dense(self.width, kernel_init=INIT.patches, dtype=self.dtype, name="proj")(
            patchify(images, self.patch_size))
        return self.norm(name="norm")(x).reshape(batch, height // self.patch_size, width // self.patch_size, -1)


def neighbours_as_channels(x: jax.Array) -> jax.Array:
    """Each 2x2 pixels of a map as one: `(B, H, W, C)` to `(B, H / 2, W / 2, 4C)`, rounded up."""
    x = pad_to_multiple(x, (2, 2))
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 4, 2, 5)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)  # (column, row, channel), the authors' order


class PatchMerging(nn.Module):
    """Halves a map and doubles its channels: `(B, H, W, C)` to `(B, H / 2, W / 2, 2C)`, rounded up (sec. 3.1)."""

    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm(name="norm")(neighbours_as_channels(x))
        return Dense(2 * x.shape[-1], use_bias=False, kernel_init=INIT.linear, dtype=self.dtype, name="reduction")(y)


class WindowAttention(nn.Module):
    """Self-attention of a map `(B, H, W, C)` within windows, with a learned bias for each offset (sec. 3.2, eq. 4).

    shifted: the windows begin half a window further down and right. Those at the edges wrap around the map, and their
    parts do not see each other. An axis that one window covers is not shifted.
    """

    heads: int
    window: Size
    shifted: bool
    dtype: Any

    def setup(self) -> None:
        self.attention = SelfAttention(self.heads, dtype=self.dtype, inits=INIT)
        nn.share_scope(self, self.attention)  # the table lies next to `qkv` and `proj`, as in published weights
        offsets = math.prod(2 * n - 1 for n in self.window)
        self.table = self.param("relative_position_bias_table", normal, (offsets, self.heads))

    def biases(self) -> jax.Array:
        """Of each offset, in the order of `relative_position_index`, for each head: `((2h - 1) * (2w - 1), heads)`."""
        return self.table

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, _ = x.shape
        x = pad_to_multiple(x, self.window)
        size = size_of(x)
        down, right = (w // 2 if self.shifted and n > w else 0 for n, w in zip(size, self.window, strict=True))
        shift = down, right
        biases = self.biases()[relative_position_index(self.window)]  # (h * w, h * w, heads)
        bias = jnp.moveaxis(biases, -1, 0)[None]
        if any(shift):
            x = jnp.roll(x, (-down, -right), axis=(1, 2))
            seen = shifted_window_mask(size, self.window, shift)
            bias = jnp.where(seen[:, None], bias, HIDDEN)  # (N, heads, h * w, h * w)
            bias = jnp.tile(bias, (batch, 1, 1, 1))
        windows = self.attention(partition_windows(x, self.window), bias)
        x = merge_windows(windows, self.window, size)
        if any(shift):
            x = jnp.roll(x, shift, axis=(1, 2))
        return x[:, :height, :width]


class SwinBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`, on maps `(B, H, W, C)` (eq. 3)."""

    heads: int
    window: Size
    mlp_ratio: float
    norm: Any
    dtype: Any
    shifted: bool
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = spread(x, 0, over="data")  # see cvjax.layers.transformer
        y = self.norm(name="norm1")(x)
        y = WindowAttention(self.heads, self.window, self.shifted, self.dtype, name="attn")(y)
        x = x + DropPath(self.drop_path, name="drop_path1")(y, train=train)
        y = self.norm(name="norm2")(x)
        y = Mlp(int(x.shape[-1] * self.mlp_ratio), self.dtype, INIT.linear, name="mlp")(y)
        return x + DropPath(self.drop_path, name="drop_path2")(y, train=train)


class Blocks(nn.Module):
    """The blocks of one stage; every second one is shifted. `block` makes one with its own settings."""

    block: Any
    drop_path: tuple[float, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i, rate in enumerate(self.drop_path):
            x = self.block(shifted=i % 2 == 1, drop_path=rate, name=str(i))(x, train)
        return x


class Stage(nn.Module):
    """Patch merging, in all stages but the first, and blocks."""

    merge: Any | None
    blocks: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = x if self.merge is None else self.merge(name="downsample")(x)
        return self.blocks(name="blocks")(x, train)


class Stages(nn.Module):
    """The stages, called one by one by their number."""

    stages: tuple[Any, ...]

    @nn.compact
    def __call__(self, number: int, x: jax.Array, train: bool) -> jax.Array:
        return self.stages[number](name=str(number))(x, train)


class SwinTransformer(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    image_size: the size windows are cut for; any other works with the same parameters.
    width: channels of the first stage; each further stage doubles them. depths, heads: of each stage.
    window: side of a window, in tokens; one number, or one for each stage.
    num_classes: 0 drops the head, the output is then `features`.
    drop_path: stochastic-depth rate of the last block, active with `train=True` (stream `dropout`); it grows linearly
    from 0. remat: what each block recomputes in the backward pass (`cvjax.layers.remat`).
    Named maps: `layers/0`, `layers/1`, ..., the output of each stage.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("head",)
    layer_decay: ClassVar[LayerOrder] = "modules"

    image_size: int | tuple[int, int] = 224
    patch_size: int = 4
    in_channels: int = 3
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int | tuple[int, ...] = 7
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    drop_path: float = 0.0
    remat: Remat = "none"
    dtype: Any = jnp.float32

    @property
    def windows(self) -> list[Size]:
        """Each stage's window: as `window` says, or the whole map of an image of `image_size` where that is smaller."""
        height, width = as_pair(self.image_size)
        sides = [self.window] * len(self.depths) if isinstance(self.window, int) else self.window
        strides = [self.patch_size * 2**i for i in range(len(sides))]
        return [(min(side, -(-height // stride)), min(side, -(-width // stride)))
                for side, stride in zip(sides, strides, strict=True)]

    @nn.nowrap
    def merging(self, norm: Any) -> Any:
        """Makes what halves the map before a stage."""
        return partial(PatchMerging, norm, self.dtype)

    @nn.nowrap
    def block(self, stage: int, norm: Any) -> Any:
        """Makes a block of a stage, which is the first one with the number 0, from `shifted` and `drop_path`."""
        return partial(rematerialized(SwinBlock, self.remat), self.heads[stage], self.windows[stage], self.mlp_ratio,
                       norm, self.dtype)

    def setup(self) -> None:
        if len(self.depths) != len(self.heads):
            raise ValueError(f"depths {self.depths} and heads {self.heads}: there must be one of each for every stage")
        if len(self.windows) != len(self.depths):
            raise ValueError(f"window {self.window}: it must be one number, or {len(self.depths)}, one for every stage")
        if min(map(min, self.windows)) < 1:
            raise ValueError(f"window {self.window}: it must be at least 1")
        norm = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        rates = np.split(np.linspace(0.0, self.drop_path, sum(self.depths)), np.cumsum(self.depths)[:-1])
        stages = [partial(Stage, self.merging(norm) if i else None,
                          partial(Blocks, self.block(i, norm), tuple(map(float, stage_rates))))
                  for i, stage_rates in enumerate(rates)]
        self.patch_embed = PatchEmbed(self.patch_size, self.width, norm, self.dtype)
        self.layers = Stages(tuple(stages))
        self.norm = norm()
        if self.num_classes:
            self.head = Dense(self.num_classes, kernel_init=normal, dtype=self.dtype)

    @property
    def map_names(self) -> tuple[str, ...]:
        return tuple(f"layers/{i}" for i in range(len(self.depths)))

    @with_maps
    def features(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        """The input of the head: `(B, D)`."""
        check_images(images, self.in_channels)
        x = self.patch_embed(images)
        for i in range(len(self.depths)):
            x = yield f"layers/{i}", self.layers(i, x, train)
        return self.norm(x).mean(axis=(1, 2))

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        x = self.features(images, train=train, maps=maps)
        return self.head(x).astype(jnp.float32) if self.num_classes and maps is None else x


TINY = dict(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24))
SMALL = dict(width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24))
BASE = dict(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32))
LARGE = dict(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48))

VARIANTS: dict[str, tuple[type[SwinTransformer], dict[str, Any]]] = {
    f"swin_{size}_patch4_window{window}_{image}": (SwinTransformer, dict(dims, window=window, image_size=image))
    for size, dims, window, image in (
        ("tiny", TINY, 7, 224), ("small", SMALL, 7, 224),
        ("base", BASE, 7, 224), ("base", BASE, 12, 384),
        ("large", LARGE, 7, 224), ("large", LARGE, 12, 384),
    )
} | {
    "swin_s3_tiny_224": (SwinTransformer, dict(TINY, window=(7, 7, 14, 7))),
    "swin_s3_small_224": (SwinTransformer, dict(SMALL, window=(14, 14, 14, 7))),
    "swin_s3_base_224": (SwinTransformer, dict(TINY, depths=(2, 2, 30, 2), window=(7, 7, 14, 7))),
}

register(VARIANTS)
