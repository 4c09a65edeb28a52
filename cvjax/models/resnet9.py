"""ResNet-9: a small residual network that learns CIFAR-10 quickly.

Page 2018, "How to Train Your ResNet", parts 4 and 8 (https://myrtle.ai/how-to-train-your-resnet/).

Deviation: the maxima of 2x2 pixels are taken before the norm, as in part 8, and all scales of norms are trained.
"""

from collections.abc import Collection
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.conv import Conv
from cvjax.layers.dense import Dense
from cvjax.layers.feature_maps import NamedMaps, with_maps
from cvjax.layers.initializers import linear_uniform
from cvjax.layers.norm import BatchNorm
from cvjax.layers.pool import MaxPool
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import check_images
from cvjax.models.registry import register
from cvjax.ops.pooling import global_max_pool

LOGIT_SCALE = 0.125


class ConvNorm(nn.Module):
    """A 3x3 convolution, 2x2 maxima where `pool` is set, batch norm and ReLU."""

    features: int
    pool: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = Conv(self.features, 3, 1, 1, use_bias=False, dtype=self.dtype, name="conv")(x)
        x = MaxPool(2, 2)(x) if self.pool else x
        return nn.relu(BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="bn")(x, train=train))


class Layer(nn.Module):
    """A layer that halves the map; where `residual` is set, `x + two layers of x` follows."""

    features: int
    residual: bool
    conv: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.conv(self.features, pool=True, name="down")(x, train)
        if not self.residual:
            return x
        return x + self.conv(self.features, name="res2")(self.conv(self.features, name="res1")(x, train), train)


class ResNet9(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    channels: of the first convolution and of the three layers. image_size: the size it was made for; any from 8 pixels
    on works. num_classes: 0 drops the head. axis_name: see `BatchNorm`. Named maps: `prep`, `layer1` to `layer3`.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("fc",)
    layer_decay: ClassVar[LayerOrder] = "modules"

    channels: tuple[int, int, int, int] = (64, 128, 256, 512)
    image_size: int | tuple[int, int] = 32
    in_channels: int = 3
    num_classes: int = 10
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        conv = partial(ConvNorm, axis_name=self.axis_name, dtype=self.dtype)
        prep, *widths = self.channels
        self.prep = conv(prep)
        self.layer1, self.layer2, self.layer3 = (
            Layer(width, residual, conv) for width, residual in zip(widths, (True, False, True), strict=True))
        if self.num_classes:
            self.fc = Dense(self.num_classes, use_bias=False, kernel_init=linear_uniform, dtype=self.dtype)

    @property
    def map_names(self) -> tuple[str, ...]:
        return "prep", "layer1", "layer2", "layer3"

    @with_maps
    def features(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        """The input of the head, the largest value of each channel: `(B, D)`."""
        check_images(images, self.in_channels, at_least=8)
        x = yield "prep", self.prep(images, train)
        for name in ("layer1", "layer2", "layer3"):
            x = yield name, getattr(self, name)(x, train)
        return global_max_pool(x)

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        x = self.features(images, train=train, maps=maps)
        return self.fc(x).astype(jnp.float32) * LOGIT_SCALE if self.num_classes and maps is None else x


VARIANTS = {"resnet9": (ResNet9, dict())}

register(VARIANTS)
