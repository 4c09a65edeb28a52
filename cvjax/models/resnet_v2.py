"""ResNet v2: Identity Mappings in Deep Residual Networks (He et al. 2016, https://arxiv.org/abs/1603.05027).

Norm and ReLU come before each convolution (`cvjax.models.resnet.ResidualBlock`, pre-activated), so that nothing stands
on the way of the shortcuts, and once more before the head. Also Big Transfer (BiT, Kolesnikov et al. 2020,
https://arxiv.org/abs/1912.11370): group norm and standardised weights (Qiao et al. 2019,
https://arxiv.org/abs/1903.10520) in place of batch norm, which depends on the other images of a batch.

Deviations, all of them timm's: the bottleneck strides in its 3x3 convolution. The first shortcut of a network of basic
blocks starts before the first activation, not after it. Names with d and t have a deep stem and averaged shortcuts (He
et al. 2019, https://arxiv.org/abs/1812.01187).
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
from cvjax.layers.initializers import small_normal
from cvjax.layers.norm import BatchNorm, GroupNorm
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import check_images
from cvjax.models.registry import register
from cvjax.models.resnet import (
    BASIC_18,
    BASIC_34,
    BOTTLENECK_50,
    BOTTLENECK_101,
    BOTTLENECK_152,
    D,
    DeepStem,
    ResidualBlock,
    Stage,
    T,
    strides_and_dilations,
)
from cvjax.ops.pooling import max_pool


class ResNetV2(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    depths: blocks of each stage. width: channels of the stem and of the first stage's inner convolutions; each stage
    doubles the latter. stem: a strided 7x7 convolution, or three 3x3 ones of `stem_widths` ("deep").
    shortcut: where shapes change, a 1x1 convolution ("projection"), or the same on 2x2 means ("average").
    normalization: "batch", or "group" with 32 groups.
    weight_standardization: None, or the epsilon of the standardised filters, see `cvjax.layers.conv.standardized`.
    zero_padded_pool: whether the zeros around the stem's map can be the maximum of the pooling, as in BiT's code. They
    often are, because that map has negative numbers.
    output_stride: as in `ResNet`. norm_epsilon, axis_name: see `BatchNorm`.
    image_size: the size the variant was made for; any other works. num_classes: 0 drops the head.
    drop_path: stochastic-depth rate of the last block, active with `train=True` (stream `dropout`).
    Named maps: `stem` and `stages_0`, `stages_1`, ..., before the norm and the ReLU that follow.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("head",)
    layer_decay: ClassVar[LayerOrder] = "modules"

    block: Literal["basic", "bottleneck"] = "bottleneck"
    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    stem: Literal["imagenet", "deep"] = "imagenet"
    stem_widths: tuple[int, ...] = (32, 32, 64)
    shortcut: Literal["projection", "average"] = "projection"
    normalization: Literal["batch", "group"] = "batch"
    weight_standardization: float | None = None
    zero_padded_pool: bool = False
    output_stride: Literal[8, 16, 32] = 32
    norm_epsilon: float = 1e-5
    drop_path: float = 0.0
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    num_classes: int = 1000
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        conv = partial(Conv, use_bias=False, standardize=self.weight_standardization, dtype=self.dtype)
        norm = (partial(GroupNorm, epsilon=self.norm_epsilon, dtype=self.dtype) if self.normalization == "group" else
                partial(BatchNorm, epsilon=self.norm_epsilon, axis_name=self.axis_name, dtype=self.dtype))
        stems: dict[str, Any] = {"imagenet": partial(conv, self.width, 7, 2, 3),
                                 "deep": partial(DeepStem, self.stem_widths, conv, norm)}
        self.conv1 = stems[self.stem]()
        rates = [self.drop_path * i / max(sum(self.depths) - 1, 1) for i in range(sum(self.depths))]
        plan = strides_and_dilations(len(self.depths), 4, self.output_stride)
        for i, (depth, (strides, dilations)) in enumerate(zip(self.depths, plan, strict=True)):
            channels = self.width * 2**i
            block = partial(
                ResidualBlock, self.block, channels, channels * (4 if self.block == "bottleneck" else 1), groups=1,
                shortcut=self.shortcut, preactivation=True, antialias=None, gate=None, conv=conv, norm=norm,
                last_scale=nn.initializers.ones)
            before = sum(self.depths[:i])
            setattr(self, f"stages_{i}", Stage(depth, strides, dilations, block, tuple(rates[before:before + depth]),
                                               is_first=False))
        self.norm = norm()
        if self.num_classes:
            self.head = Dense(self.num_classes, kernel_init=small_normal, dtype=self.dtype)

    @property
    def map_names(self) -> tuple[str, ...]:
        return "stem", *(f"stages_{i}" for i in range(len(self.depths)))

    @with_maps
    def features(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        """The input of the head: `(B, D)`."""
        check_images(images, self.in_channels)
        x = self.conv1(images, train) if self.stem == "deep" else self.conv1(images)
        x = yield "stem", x
        if self.zero_padded_pool:
            x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)
        else:
            x = max_pool(x, 3, 2, 1)
        for i in range(len(self.depths)):
            x = yield f"stages_{i}", getattr(self, f"stages_{i}")(x, train)
        return nn.relu(self.norm(x, train=train)).mean(axis=(1, 2))

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        x = self.features(images, train=train, maps=maps)
        return self.head(x).astype(jnp.float32) if self.num_classes and maps is None else x


GN = dict(normalization="group")


def _bit(base: dict[str, Any], factor: int) -> dict[str, Any]:
    """BiT's form, so many times as wide."""
    return base | GN | dict(width=64 * factor, weight_standardization=1e-8, zero_padded_pool=True)


VARIANTS: dict[str, tuple[type[ResNetV2], dict[str, Any]]] = {name: (ResNetV2, fields) for name, fields in {
    "resnetv2_18": BASIC_18,
    "resnetv2_18d": BASIC_18 | D,
    "resnetv2_34": BASIC_34,
    "resnetv2_34d": BASIC_34 | D,
    "resnetv2_50": BOTTLENECK_50,
    "resnetv2_50d": BOTTLENECK_50 | D,
    "resnetv2_50t": BOTTLENECK_50 | T,
    "resnetv2_101": BOTTLENECK_101,
    "resnetv2_101d": BOTTLENECK_101 | D,
    "resnetv2_152": BOTTLENECK_152,
    "resnetv2_152d": BOTTLENECK_152 | D,
    "resnetv2_50d_gn": BOTTLENECK_50 | D | GN,
    "resnetv2_50x1_bit": _bit(BOTTLENECK_50, 1),
    "resnetv2_50x3_bit": _bit(BOTTLENECK_50, 3),
    "resnetv2_101x1_bit": _bit(BOTTLENECK_101, 1),
    "resnetv2_101x3_bit": _bit(BOTTLENECK_101, 3),
    "resnetv2_152x2_bit": _bit(BOTTLENECK_152, 2),
    "resnetv2_152x4_bit": _bit(BOTTLENECK_152, 4),
}.items()}

register(VARIANTS)
