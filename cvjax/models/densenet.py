"""DenseNet: Densely Connected Convolutional Networks (Huang et al. 2017, https://arxiv.org/abs/1608.06993).

The bottlenecked and compressed form (DenseNet-BC) and the plain one. `remat` is the memory-saving training of Pleiss et
al. 2017 (https://arxiv.org/abs/1707.06990).

Deviations, as in torchvision: dropout follows only the last convolution of a layer, the transitions have no dropout,
and the final batch norm is called `norm5` for any number of blocks. Parameters carry torchvision's names.
"""

from collections.abc import Collection
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.conv import Conv
from cvjax.layers.dense import Dense
from cvjax.layers.feature_maps import NamedMaps, with_maps
from cvjax.layers.initializers import kaiming_normal_fan_in, linear_uniform
from cvjax.layers.norm import BatchNorm
from cvjax.layers.pool import AveragePool, MaxPool
from cvjax.layers.remat import Remat, rematerialized
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import check_images
from cvjax.models.registry import register


class DenseLayer(nn.Module):
    """`growth_rate` new channels from all maps before (eq. 2): `(B, H, W, C_i)` each to `(B, H, W, growth_rate)`.

    Norm, ReLU and a 3x3 convolution; before them, unless `bottleneck` is 0, norm, ReLU and a 1x1 convolution to
    `bottleneck * growth_rate` channels.
    """

    growth_rate: int
    bottleneck: int
    dropout: float
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, maps: list[jax.Array], train: bool) -> jax.Array:
        convs = [(self.bottleneck * self.growth_rate, 1)] if self.bottleneck else []
        x = jnp.concatenate(maps, axis=-1)
        for i, (features, size) in enumerate([*convs, (self.growth_rate, 3)], start=1):
            x = nn.relu(self.norm(name=f"norm{i}")(x, train=train))
            x = self.conv(features, size, padding=size // 2, name=f"conv{i}")(x)
        return nn.Dropout(self.dropout)(x, deterministic=not train)


class DenseBlock(nn.Module):
    """`depth` layers, each of which sees the block's input and all layers before: `C` to `C + depth * growth_rate`."""

    depth: int
    layer: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        maps = [x]
        for i in range(self.depth):
            maps.append(self.layer(name=f"denselayer{i + 1}")(maps, train))
        return jnp.concatenate(maps, axis=-1)


class Transition(nn.Module):
    """Between two blocks: a 1x1 convolution to a share `compression` of the channels, and half the resolution."""

    compression: float
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        features = int(x.shape[-1] * self.compression)
        x = self.conv(features, 1, name="conv")(nn.relu(self.norm(name="norm")(x, train=train)))
        return AveragePool(2, 2)(x)


class DenseNet(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    depths: layers of each block. growth_rate: channels that a layer adds. stem_width: channels before the first block.
    bottleneck: channels of a layer's 1x1 convolution, in growth rates; 0: none. compression: share of the channels
    that a transition keeps. dropout: of each layer's new channels, with `train=True` (stream `dropout`).
    stem: "imagenet" is a strided 7x7 convolution, norm and 3x3 max pooling, "cifar" a 3x3 convolution.
    remat: what each layer recomputes in the backward pass (`cvjax.layers.remat`). Without it training keeps every
    layer's concatenated input, which adds up to memory quadratic in a block's depth; with "full", only each
    layer's new channels.
    image_size: the size the variant was made for; any works that leaves a pixel after the stem and the transitions.
    num_classes: 0 drops the head. axis_name: see `BatchNorm`.
    Named maps: `stem`, `denseblock1`, `transition1`, `denseblock2`, ..., and `norm5`, the last one after norm and ReLU.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("classifier",)
    layer_decay: ClassVar[LayerOrder] = "modules"

    depths: tuple[int, ...] = (6, 12, 24, 16)
    growth_rate: int = 32
    stem_width: int = 64
    bottleneck: int = 4
    compression: float = 0.5
    stem: Literal["imagenet", "cifar"] = "imagenet"
    dropout: float = 0.0
    remat: Remat = "none"
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    num_classes: int = 1000
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        conv = partial(Conv, use_bias=False, kernel_init=kaiming_normal_fan_in, dtype=self.dtype)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        layer = partial(rematerialized(DenseLayer, self.remat), self.growth_rate, self.bottleneck, self.dropout, conv,
                        norm)
        if self.stem == "imagenet":
            self.conv0, self.norm0 = conv(self.stem_width, 7, 2, 3), norm()
            self.maxpool = MaxPool(3, 2, 1)
        else:
            self.conv0 = conv(self.stem_width, 3, 1, 1)
        for i, depth in enumerate(self.depths, start=1):
            setattr(self, f"denseblock{i}", DenseBlock(depth, layer))
            if i < len(self.depths):
                setattr(self, f"transition{i}", Transition(self.compression, conv, norm))
        self.norm5 = norm()
        if self.num_classes:
            self.classifier = Dense(self.num_classes, kernel_init=linear_uniform,
                                    bias_init=nn.initializers.zeros, dtype=self.dtype)

    @property
    def map_names(self) -> tuple[str, ...]:
        between = [f"{part}{i}" for i in range(1, len(self.depths)) for part in ("denseblock", "transition")]
        return "stem", *between, f"denseblock{len(self.depths)}", "norm5"

    @with_maps
    def features(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        """The input of the head: `(B, D)`."""
        smallest = 2 ** (len(self.depths) - 1)  # what the transitions halve to one pixel
        check_images(images, self.in_channels, at_least=4 * smallest - 3 if self.stem == "imagenet" else smallest)
        x = self.conv0(images)
        x = nn.relu(self.norm0(x, train=train)) if self.stem == "imagenet" else x
        x = yield "stem", x
        x = self.maxpool(x) if self.stem == "imagenet" else x
        for i in range(1, len(self.depths) + 1):
            x = yield f"denseblock{i}", getattr(self, f"denseblock{i}")(x, train)
            if i < len(self.depths):
                x = yield f"transition{i}", getattr(self, f"transition{i}")(x, train)
        x = yield "norm5", nn.relu(self.norm5(x, train=train))
        return x.mean(axis=(1, 2))

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        x = self.features(images, train=train, maps=maps)
        return self.classifier(x).astype(jnp.float32) if self.num_classes and maps is None else x


CIFAR = dict(stem="cifar", growth_rate=12, image_size=32, num_classes=10)

VARIANTS = {
    "densenet121": (DenseNet, dict(depths=(6, 12, 24, 16))),
    "densenet161": (DenseNet, dict(depths=(6, 12, 36, 24), growth_rate=48, stem_width=96)),
    "densenet169": (DenseNet, dict(depths=(6, 12, 32, 32))),
    "densenet201": (DenseNet, dict(depths=(6, 12, 48, 32))),
    "densenet40_k12": (DenseNet, dict(CIFAR, depths=(12, 12, 12), stem_width=16, bottleneck=0, compression=1.0)),
    "densenet_bc100_k12": (DenseNet, dict(CIFAR, depths=(16, 16, 16), stem_width=24)),
}

register(VARIANTS)
