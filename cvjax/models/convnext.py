"""ConvNeXt: A ConvNet for the 2020s (Liu et al. 2022, https://arxiv.org/abs/2201.03545).

Also ConvNeXt V2 (Woo et al. 2023, https://arxiv.org/abs/2301.00808), whose blocks normalise their responses and have no
scale, and timm's small networks and heads.

Deviation: kernels start from a normal distribution of standard deviation 0.02 that is cut off at two of these. The
authors' code cuts it off so far out that it is a plain normal distribution.
"""

from collections.abc import Collection
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.layers.conv import Conv
from cvjax.layers.dense import Dense
from cvjax.layers.drop_path import DropPath
from cvjax.layers.feature_maps import NamedMaps, with_maps
from cvjax.layers.initializers import normal
from cvjax.layers.layer_scale import LayerScale
from cvjax.layers.mlp import Mlp
from cvjax.layers.partition import spread
from cvjax.layers.remat import Remat, rematerialized
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import check_images
from cvjax.models.registry import register
from cvjax.ops.gelu import gelu


class Stem(nn.Module):
    """Images `(B, H, W, C)` to a normalised embedding of each patch, `(B, H / p, W / p, width)`, rounded down."""

    patch_size: int
    width: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.conv(self.width, self.patch_size, self.patch_size, name="conv")(images)
        return self.norm(name="norm")(x)


class OverlappingStem(nn.Module):
    """timm's: two strided 3x3 convolutions, `(B, H, W, C)` to `(B, H / 4, W / 4, width)`, rounded up, and the norm."""

    first_width: int
    width: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.conv(self.first_width, 3, 2, 1, name="conv_first")(images)
        return self.norm(name="norm")(self.conv(self.width, 3, 2, 1, name="conv")(x))


class Downsample(nn.Module):
    """Normalises and halves a map: `(B, H, W, C)` to `(B, H / 2, W / 2, width)`, rounded down (sec. 2.6)."""

    width: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(self.width, 2, 2, name="conv")(self.norm(name="norm")(x))


class ConvNeXtBlock(nn.Module):
    """`x + scale * mlp(norm(depthwise_convolution(x)))`, on maps `(B, H, W, C)` (fig. 4)."""

    kernel_size: int
    layer_scale: float | None
    response_norm: bool
    conv: Any
    norm: Any
    dtype: Any
    drop_path: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = spread(x, 0, over="data")  # see cvjax.layers.transformer
        width = x.shape[-1]
        y = self.conv(width, self.kernel_size, padding=self.kernel_size // 2, groups=width, name="conv_dw")(x)
        y = self.norm(name="norm")(y)
        y = Mlp(4 * width, self.dtype, kernel_init=normal, response_norm=self.response_norm, name="mlp")(y)
        if self.layer_scale is not None:
            y = LayerScale(self.layer_scale, name="layer_scale")(y)
        return x + DropPath(self.drop_path, name="drop_path")(y, train=train)


class Stage(nn.Module):
    """Blocks at one resolution, after what halves the map (`downsample`) in all stages but the first.

    block: makes a block with its own rate of stochastic depth; drop_path: the rate of each.
    """

    downsample: Any | None
    block: Any
    drop_path: tuple[float, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.downsample is not None:
            x = self.downsample(name="downsample")(x)
        for i, rate in enumerate(self.drop_path):
            x = self.block(drop_path=rate, name=str(i))(x, train)
        return x


class ConvNeXt(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    image_size: the size the variant was made for. Any other size works if the last map has a pixel: sides must be at
    least `patch_size * 2 ** (stages - 1)`.
    widths, depths: channels and blocks of each stage. kernel_size: side of the depthwise convolutions, an odd number.
    layer_scale: initial scale of the residual branches; None leaves the scales out.
    response_norm: whether blocks have V2's global response normalisation. norm_epsilon: of the other norms.
    stem_width: None cuts the image into patches of `patch_size`; a number is for two overlapping convolutions, and says
    how many channels are between them.
    norm_first: whether the last norm comes before the mean over the map. representation_size: channels of a linear
    layer with GELU before the head, 0 for none.
    conv_mlp: whether files hold the linear layers of the blocks as 1x1 convolutions, which compute the same.
    num_classes: 0 drops the head, the output is then `features`.
    drop_path: stochastic-depth rate of the last block, active with `train=True` (stream `dropout`); it grows linearly
    from 0. remat: what each block recomputes in the backward pass (`cvjax.layers.remat`).
    Named maps: `stages_0`, `stages_1`, ..., the output of each stage.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("head",)
    layer_decay: ClassVar[LayerOrder] = "modules"

    image_size: int | tuple[int, int] = 224
    patch_size: int = 4
    in_channels: int = 3
    widths: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    kernel_size: int = 7
    layer_scale: float | None = 1e-6
    response_norm: bool = False
    norm_epsilon: float = 1e-6
    stem_width: int | None = None
    norm_first: bool = False
    representation_size: int = 0
    conv_mlp: bool = False
    num_classes: int = 1000
    drop_path: float = 0.0
    remat: Remat = "none"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if len(self.widths) != len(self.depths):
            raise ValueError(f"widths {self.widths} and depths {self.depths}: each stage must have one of both")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size}: it must be odd")
        conv = partial(Conv, kernel_init=normal, dtype=self.dtype)
        norm = partial(nn.LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype)
        block = partial(rematerialized(ConvNeXtBlock, self.remat), self.kernel_size, self.layer_scale,
                        self.response_norm, conv, norm, self.dtype)
        rates = np.split(np.linspace(0.0, self.drop_path, sum(self.depths)), np.cumsum(self.depths)[:-1])
        self.stem = (Stem(self.patch_size, self.widths[0], conv, norm) if self.stem_width is None else
                     OverlappingStem(self.stem_width, self.widths[0], conv, norm))
        self.stages = [
            Stage(partial(Downsample, width, conv, norm) if i else None, block, tuple(map(float, stage_rates)))
            for i, (width, stage_rates) in enumerate(zip(self.widths, rates, strict=True))]
        self.norm = norm()
        dense = partial(Dense, kernel_init=normal, dtype=self.dtype)
        if self.representation_size:
            self.pre_logits = dense(self.representation_size)
        if self.num_classes:
            self.head = dense(self.num_classes)

    @property
    def map_names(self) -> tuple[str, ...]:
        return tuple(f"stages_{i}" for i in range(len(self.depths)))

    @with_maps
    def features(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        """What comes before the head: `(B, D)`."""
        check_images(images, self.in_channels, at_least=self.patch_size * 2 ** (len(self.depths) - 1))
        x = self.stem(images)
        for i, stage in enumerate(self.stages):
            x = yield f"stages_{i}", stage(x, train)
        x = self.norm(x).mean(axis=(1, 2)) if self.norm_first else self.norm(x.mean(axis=(1, 2)))
        return gelu(self.pre_logits(x)) if self.representation_size else x

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        x = self.features(images, train=train, maps=maps)
        return self.head(x).astype(jnp.float32) if self.num_classes and maps is None else x


ATTO = dict(widths=(40, 80, 160, 320), depths=(2, 2, 6, 2))
FEMTO = dict(widths=(48, 96, 192, 384), depths=(2, 2, 6, 2))
PICO = dict(widths=(64, 128, 256, 512), depths=(2, 2, 6, 2))
NANO = dict(widths=(80, 160, 320, 640), depths=(2, 2, 8, 2))
TINY = dict(widths=(96, 192, 384, 768), depths=(3, 3, 9, 3))
SMALL = dict(widths=(96, 192, 384, 768), depths=(3, 3, 27, 3))
BASE = dict(widths=(128, 256, 512, 1024), depths=(3, 3, 27, 3))
LARGE = dict(widths=(192, 384, 768, 1536), depths=(3, 3, 27, 3))
V2 = dict(response_norm=True, layer_scale=None)
CONV_MLP = dict(conv_mlp=True)

VARIANTS: dict[str, tuple[type[ConvNeXt], dict[str, Any]]] = {name: (ConvNeXt, fields) for name, fields in {
    "convnext_tiny": TINY,
    "convnext_small": SMALL,
    "convnext_base": BASE,
    "convnext_large": LARGE,
    "convnext_xlarge": dict(widths=(256, 512, 1024, 2048), depths=(3, 3, 27, 3)),

    # timm's
    "convnext_atto": ATTO | CONV_MLP,
    "convnext_atto_ols": ATTO | CONV_MLP | dict(stem_width=24),
    "convnext_femto": FEMTO | CONV_MLP,
    "convnext_femto_ols": FEMTO | CONV_MLP | dict(stem_width=24),
    "convnext_pico": PICO | CONV_MLP,
    "convnext_pico_ols": PICO | CONV_MLP | dict(stem_width=32),
    "convnext_nano": NANO | CONV_MLP,
    "convnext_nano_ols": NANO | CONV_MLP | dict(stem_width=80),
    "convnext_tiny_hnf": TINY | CONV_MLP | dict(norm_first=True),
    "convnext_large_mlp": LARGE | dict(representation_size=1536),
    "convnext_xxlarge": dict(widths=(384, 768, 1536, 3072), depths=(3, 4, 30, 3), norm_epsilon=1e-5),

    "convnextv2_atto": ATTO | CONV_MLP | V2,
    "convnextv2_femto": FEMTO | CONV_MLP | V2,
    "convnextv2_pico": PICO | CONV_MLP | V2,
    "convnextv2_nano": NANO | CONV_MLP | V2,
    "convnextv2_tiny": TINY | V2,
    "convnextv2_small": SMALL | V2,
    "convnextv2_base": BASE | V2,
    "convnextv2_large": LARGE | V2,
    "convnextv2_huge": dict(widths=(352, 704, 1408, 2816), depths=(3, 3, 27, 3)) | V2,
}.items()}

register(VARIANTS)
