"""ResNet: Deep Residual Learning for Image Recognition (He et al. 2016, https://arxiv.org/abs/1512.03385).

Also Wide ResNet (Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146), ResNeXt (Xie et al. 2017,
https://arxiv.org/abs/1611.05431) and the pre-activation form (He et al. 2016, https://arxiv.org/abs/1603.05027).
Later changes are a field each: deep stems and averaged shortcuts (He et al. 2019, https://arxiv.org/abs/1812.01187: the
letters c, d, s, and t with timm's narrower stem), gates of channels (`cvjax.layers.channel_gate`), pooling in the place
of strides (Zhang 2019, https://arxiv.org/abs/1904.11486) and group normalisation.

Deviations: the bottleneck strides in its 3x3 convolution (ResNet v1.5, as torchvision and timm do), not in the first
1x1. The last scale of each residual branch starts at zero (Goyal et al. 2017, sec. 5.1). Parameters carry
torchvision's names. The CIFAR networks (sec. 4.2) have the paper's parameter-free shortcuts. `output_stride` dilates
late stages instead of striding (Yu and Koltun 2016, https://arxiv.org/abs/1511.07122), as torchvision and timm do.
"""

from collections.abc import Collection
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.channel_gate import EfficientChannelAttention, SqueezeExcitation
from cvjax.layers.conv import Conv
from cvjax.layers.dense import Dense
from cvjax.layers.drop_path import DropPath
from cvjax.layers.feature_maps import NamedMaps, with_maps
from cvjax.layers.initializers import linear_uniform
from cvjax.layers.norm import BatchNorm, GroupNorm
from cvjax.layers.pool import AveragePool, BlurPool, MaxPool
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import check_images
from cvjax.models.registry import register


class DeepStem(nn.Module):
    """Three 3x3 convolutions, the first one strided, in the place of one of 7x7 (He et al. 2019, fig. 2b)."""

    widths: tuple[int, ...]
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = self.conv(self.widths[0], 3, 2, 1, name="0")(images)
        for i, width in enumerate(self.widths[1:]):
            x = nn.relu(self.norm(name=f"{3 * i + 1}")(x, train=train))
            x = self.conv(width, 3, 1, 1, name=f"{3 * i + 3}")(x)
        return x


class Projection(nn.Module):
    """The shortcut of a block that changes shape: a strided 1x1 convolution (option B of the paper).

    average: 2x2 means instead of its strides, so that no pixel is left out (He et al. 2019, fig. 2c); where `dilated`
    stands for the strides, means of each pixel and its next ones, with zeros after the last.
    """

    features: int
    strides: int
    average: bool
    dilated: bool
    conv: Any
    norm: Any | None  # None: no norm, as in the pre-activation form

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.average and self.dilated:
            x = AveragePool(2, 1)(jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))))
        elif self.average and self.strides > 1:
            x = AveragePool(2, self.strides, ceil_mode=True)(x)
        strides, first = (1, 1) if self.average else (self.strides, 0)
        x = self.conv(self.features, 1, strides, name=f"{first}")(x)
        return x if self.norm is None else self.norm(name=f"{first + 1}")(x, train=train)


def means(strides: int) -> AveragePool:
    """Means of squares side by side, where the last ones hang over the edge as strides do."""
    return AveragePool(strides, strides, ceil_mode=True)


class BlurredMaxPool(nn.Module):
    """A 3x3 maximum around each pixel, and every second one of them after a blur (Zhang 2019, sec. 3.2)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return BlurPool(2)(MaxPool(3, 1, 1)(x))


def identity_shortcut(x: jax.Array, features: int, strides: int) -> jax.Array:
    """Every `strides`-th pixel, and zeros in the new channels, half on either side (option A of the paper)."""
    x = x[:, ::strides, ::strides]
    new = features - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


class ResidualBlock(nn.Module):
    """`relu(shortcut(x) + branch(x))`; pre-activated: `shortcut + branch`, the branch starting with norm and ReLU.

    The branch has two 3x3 convolutions ("basic") or 1x1, 3x3 (in `groups`), 1x1 ("bottleneck", figure 5).
    width: channels of the inner convolutions. features: channels of the output.
    dilations: of a basic branch's two convolutions; a bottleneck's 3x3 has the first.
    antialias: what strides after the convolution that would, or None; made with the strides. gate: what scales the
    channels of the branch, or None.
    is_first: of the network. Pre-activated, its shortcut too starts after the first norm and ReLU, as that of a block
    that changes shape does (He et al. 2016b, fig. 4e and appendix).
    """

    kind: Literal["basic", "bottleneck"]
    width: int
    features: int
    strides: int
    dilations: tuple[int, int]
    groups: int
    shortcut: Literal["projection", "average", "identity"]
    preactivation: bool
    antialias: Any | None
    gate: Any | None
    is_first: bool
    drop_path: float
    conv: Any
    norm: Any
    last_scale: Any  # initialiser of the branch's last norm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        first, second = self.dilations
        # Where dilation takes the place of strides, timm has a blur of stride 1.
        strides_or_dilates = self.strides > 1 or first != second
        pool = self.antialias(self.strides) if self.antialias is not None and strides_or_dilates else None
        strides = self.strides if pool is None else 1
        # features, kernel size, strides, dilation, groups
        if self.kind == "basic":
            convs = [(self.width, 3, strides, first, 1), (self.features, 3, 1, second, 1)]
        else:
            convs = [(self.width, 1, 1, 1, 1), (self.width, 3, strides, first, self.groups),
                     (self.features, 1, 1, 1, 1)]
        branch = x
        for i, (features, size, strides, dilation, groups) in enumerate(convs, start=1):
            conv = self.conv(features, size, strides, size // 2 * dilation, dilation, groups, name=f"conv{i}")
            if self.preactivation:
                branch = nn.relu(self.norm(name=f"bn{i}")(branch, train=train))
                if i == 1 and (self.is_first or self._changes_shape(x)):
                    x = branch  # the network's first shortcut, and those of a new shape, start after the activation
                branch = conv(branch)
            else:
                scale = {"scale_init": self.last_scale} if i == len(convs) else {}
                branch = self.norm(name=f"bn{i}", **scale)(conv(branch), train=train)
                branch = nn.relu(branch) if i < len(convs) else branch
            if pool is not None and i == len(convs) - 1:
                branch = pool(branch)
        branch = branch if self.gate is None else self.gate(name="se")(branch)
        branch = DropPath(self.drop_path, name="drop_path")(branch, train=train)
        out = self._shortcut(x, train) + branch
        return out if self.preactivation else nn.relu(out)

    def _changes_shape(self, x: jax.Array) -> bool:
        return self.strides != 1 or x.shape[-1] != self.features

    def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        if not self._changes_shape(x):
            return x
        if self.shortcut == "identity":
            return identity_shortcut(x, self.features, self.strides)
        norm = None if self.preactivation else self.norm
        return Projection(self.features, self.strides, self.shortcut == "average", self.dilations[1] > 1, self.conv,
                          norm, name="downsample")(x, train)


class Stage(nn.Module):
    """Residual blocks at one resolution; the first one strides. `block` makes block i with its own settings.

    dilations: the stage's before, which the first convolution (of the first block) still has, and this one's.
    is_first: of the network's stages.
    """

    depth: int
    strides: int
    dilations: tuple[int, int]
    block: Any
    drop_path: tuple[float, ...]
    is_first: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i in range(self.depth):
            strides = self.strides if i == 0 else 1
            before, own = self.dilations
            x = self.block(strides=strides, dilations=(own if i else before, own), drop_path=self.drop_path[i],
                           is_first=self.is_first and i == 0, name=str(i))(x, train)
        return x


def strides_and_dilations(stages: int, reached: int, output_stride: int) -> list[tuple[int, tuple[int, int]]]:
    """Each stage's stride, and the dilations before and in it.

    All stages but the first stride, as long as there are at most `output_stride` pixels of the image to one of a map;
    after that they dilate instead. reached: so many pixels there are to one that enters the first stage.
    """
    plan, dilation = [], 1
    for i in range(stages):
        strides, before = 1 if i == 0 else 2, dilation
        if reached * strides > output_stride:
            strides, dilation = 1, 2 * dilation
        reached *= strides
        plan.append((strides, (before, dilation)))
    return plan


class ResNet(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    depths: blocks of each stage. width: channels of the first stage's inner convolutions; each stage doubles them.
    width_factor: widens a bottleneck's inner convolutions (Wide ResNet, ResNeXt); groups: of its 3x3 convolution.
    stem: "imagenet" is a strided 7x7 convolution and a 3x3 max pooling, "cifar" a 3x3 convolution, "deep" has three 3x3
    convolutions of `stem_widths` instead of the 7x7.
    shortcut: where shapes change, a 1x1 convolution ("projection"), the same on 2x2 means ("average"), or subsampling
    and zeros ("identity").
    gate: of each branch's channels, squeeze-and-excitation ("se") or ECA-Net's ("eca").
    antialias: what strides in the place of the branches' convolutions and of the max pooling: a blur, or 2x2 means.
    normalization: "batch", or "group" with 32 groups and no batch statistics.
    output_stride: the most pixels of the image to one of the last map: a stage that would exceed it does not stride but
    dilates its 3x3 convolutions; 8 is torchvision's `replace_stride_with_dilation=(False, True, True)`.
    image_size: the size the variant was made for; any from 1 pixel on works, with means against aliasing from 3 pixels.
    num_classes: 0 drops the head.
    drop_path: stochastic-depth rate of the last block, active with `train=True` (stream `dropout`).
    axis_name, norm_epsilon: see `BatchNorm`. Named maps: `stem` and `layer1`, `layer2`, ...
    """

    output_modules: ClassVar[tuple[str, ...]] = ("fc",)
    layer_decay: ClassVar[LayerOrder] = "modules"

    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    width_factor: float = 1.0
    groups: int = 1
    stem: Literal["imagenet", "cifar", "deep"] = "imagenet"
    stem_widths: tuple[int, ...] = (32, 32, 64)
    shortcut: Literal["projection", "average", "identity"] = "projection"
    gate: Literal["none", "se", "eca"] = "none"
    antialias: Literal["none", "blur", "average"] = "none"
    normalization: Literal["batch", "group"] = "batch"
    preactivation: bool = False
    output_stride: Literal[8, 16, 32] = 32
    zero_init_last: bool = True
    norm_epsilon: float = 1e-5
    drop_path: float = 0.0
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    num_classes: int = 1000
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        conv = partial(Conv, use_bias=False, dtype=self.dtype)
        norm = (partial(GroupNorm, epsilon=self.norm_epsilon, dtype=self.dtype) if self.normalization == "group" else
                partial(BatchNorm, epsilon=self.norm_epsilon, axis_name=self.axis_name, dtype=self.dtype))
        gates = {"none": None, "se": partial(SqueezeExcitation, dtype=self.dtype), "eca": EfficientChannelAttention}
        stems = {"imagenet": partial(conv, self.width, 7, 2, 3), "cifar": partial(conv, self.width, 3, 1, 1),
                 "deep": partial(DeepStem, self.stem_widths, conv, norm)}
        # The pooling of the stem, and what strides in blocks.
        pool, antialias = {"none": (partial(MaxPool, 3, 2, 1), None), "blur": (BlurredMaxPool, BlurPool),
                           "average": (partial(AveragePool, 2, 2), means)}[self.antialias]
        self.conv1 = stems[self.stem]()
        if not self.preactivation:
            self.bn1 = norm()
        self.maxpool = pool()
        rates = [self.drop_path * i / max(sum(self.depths) - 1, 1) for i in range(sum(self.depths))]
        plan = strides_and_dilations(len(self.depths), 1 if self.stem == "cifar" else 4, self.output_stride)
        for i, (depth, (strides, dilations)) in enumerate(zip(self.depths, plan, strict=True)):
            channels = self.width * 2**i
            inner = int(channels * self.width_factor) if self.block == "bottleneck" else channels
            block = partial(
                ResidualBlock, self.block, inner, channels * (4 if self.block == "bottleneck" else 1),
                groups=self.groups, shortcut=self.shortcut, preactivation=self.preactivation, antialias=antialias,
                gate=gates[self.gate], conv=conv, norm=norm,
                last_scale=nn.initializers.zeros if self.zero_init_last else nn.initializers.ones)
            first = sum(self.depths[:i])
            stage = Stage(depth, strides, dilations, block, tuple(rates[first:first + depth]), i == 0)
            setattr(self, f"layer{i + 1}", stage)
        if self.preactivation:
            self.norm = norm()
        if self.num_classes:
            self.fc = Dense(self.num_classes, kernel_init=linear_uniform, bias_init=nn.initializers.zeros,
                            dtype=self.dtype)

    @property
    def map_names(self) -> tuple[str, ...]:
        return "stem", *(f"layer{i + 1}" for i in range(len(self.depths)))

    @with_maps
    def features(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        """The input of the head: `(B, D)`."""
        check_images(images, self.in_channels, at_least=3 if self.antialias == "average" else 1)
        x = self.conv1(images, train) if self.stem == "deep" else self.conv1(images)
        x = x if self.preactivation else nn.relu(self.bn1(x, train=train))
        x = yield "stem", x
        x = x if self.stem == "cifar" else self.maxpool(x)
        for i in range(len(self.depths)):
            x = yield f"layer{i + 1}", getattr(self, f"layer{i + 1}")(x, train)
        x = nn.relu(self.norm(x, train=train)) if self.preactivation else x
        return x.mean(axis=(1, 2))

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        x = self.features(images, train=train, maps=maps)
        return self.fc(x).astype(jnp.float32) if self.num_classes and maps is None else x


BASIC_18 = dict(block="basic", depths=(2, 2, 2, 2))
BASIC_34 = dict(block="basic", depths=(3, 4, 6, 3))
BOTTLENECK_26 = dict(block="bottleneck", depths=(2, 2, 2, 2))
BOTTLENECK_50 = dict(block="bottleneck", depths=(3, 4, 6, 3))
BOTTLENECK_101 = dict(block="bottleneck", depths=(3, 4, 23, 3))
BOTTLENECK_152 = dict(block="bottleneck", depths=(3, 8, 36, 3))
BOTTLENECK_200 = dict(block="bottleneck", depths=(3, 24, 36, 3))
BOTTLENECK_269 = dict(block="bottleneck", depths=(3, 30, 48, 8))
CIFAR = dict(stem="cifar", width=16, shortcut="identity", image_size=32, num_classes=10)
# Letters: He et al. 2019 and their GluonCV; t is timm's.
C = dict(stem="deep")
D = dict(stem="deep", shortcut="average")
S = dict(stem="deep", stem_widths=(64, 64, 128))
T = dict(stem="deep", stem_widths=(24, 32, 64), shortcut="average")
# ResNeXt's groups, and channels of each in the first stage.
X_32X4D = dict(width_factor=2.0, groups=32)
X_32X8D = dict(width_factor=4.0, groups=32)
X_64X4D = dict(width_factor=4.0, groups=64)
SE = dict(gate="se")
ECA = dict(gate="eca")
BLUR = dict(antialias="blur")
AA = dict(antialias="average")

VARIANTS: dict[str, tuple[type[ResNet], dict[str, Any]]] = {name: (ResNet, fields) for name, fields in {
    "resnet18": BASIC_18,
    "resnet34": BASIC_34,
    "resnet50": BOTTLENECK_50,
    "resnet101": BOTTLENECK_101,
    "resnet152": BOTTLENECK_152,
    "wide_resnet50_2": BOTTLENECK_50 | dict(width_factor=2.0),
    "wide_resnet101_2": BOTTLENECK_101 | dict(width_factor=2.0),
    "resnext50_32x4d": BOTTLENECK_50 | X_32X4D,
    "resnext101_32x8d": BOTTLENECK_101 | X_32X8D,
    "resnext101_64x4d": BOTTLENECK_101 | X_64X4D,

    "resnet20": CIFAR | dict(depths=(3, 3, 3)),
    "resnet32": CIFAR | dict(depths=(5, 5, 5)),
    "resnet44": CIFAR | dict(depths=(7, 7, 7)),
    "resnet56": CIFAR | dict(depths=(9, 9, 9)),
    "resnet110": CIFAR | dict(depths=(18, 18, 18)),

    # timm's
    "resnet10t": dict(block="basic", depths=(1, 1, 1, 1)) | T,
    "resnet14t": dict(block="bottleneck", depths=(1, 1, 1, 1)) | T,
    "resnet18d": BASIC_18 | D,
    "resnet26": BOTTLENECK_26,
    "resnet26d": BOTTLENECK_26 | D,
    "resnet26t": BOTTLENECK_26 | T,
    "resnet34d": BASIC_34 | D,
    "resnet50c": BOTTLENECK_50 | C,
    "resnet50d": BOTTLENECK_50 | D,
    "resnet50s": BOTTLENECK_50 | S,
    "resnet50t": BOTTLENECK_50 | T,
    "resnet50_gn": BOTTLENECK_50 | dict(normalization="group"),
    "resnet101c": BOTTLENECK_101 | C,
    "resnet101d": BOTTLENECK_101 | D,
    "resnet101s": BOTTLENECK_101 | S,
    "resnet152c": BOTTLENECK_152 | C,
    "resnet152d": BOTTLENECK_152 | D,
    "resnet152s": BOTTLENECK_152 | S,
    "resnet200": BOTTLENECK_200,
    "resnet200d": BOTTLENECK_200 | D,
    "resnext50d_32x4d": BOTTLENECK_50 | X_32X4D | D,
    "resnext101_32x4d": BOTTLENECK_101 | X_32X4D,
    "resnext101_32x16d": BOTTLENECK_101 | dict(width_factor=8.0, groups=32),
    "resnext101_32x32d": BOTTLENECK_101 | dict(width_factor=16.0, groups=32),
    "seresnet18": BASIC_18 | SE,
    "seresnet34": BASIC_34 | SE,
    "seresnet50": BOTTLENECK_50 | SE,
    "seresnet50t": BOTTLENECK_50 | T | SE,
    "seresnet101": BOTTLENECK_101 | SE,
    "seresnet152": BOTTLENECK_152 | SE,
    "seresnet152d": BOTTLENECK_152 | D | SE,
    "seresnet200d": BOTTLENECK_200 | D | SE,
    "seresnet269d": BOTTLENECK_269 | D | SE,
    "seresnext26d_32x4d": BOTTLENECK_26 | X_32X4D | D | SE,
    "seresnext26t_32x4d": BOTTLENECK_26 | X_32X4D | T | SE,
    "seresnext50_32x4d": BOTTLENECK_50 | X_32X4D | SE,
    "seresnext101_32x4d": BOTTLENECK_101 | X_32X4D | SE,
    "seresnext101_32x8d": BOTTLENECK_101 | X_32X8D | SE,
    "seresnext101d_32x8d": BOTTLENECK_101 | X_32X8D | D | SE,
    "seresnext101_64x4d": BOTTLENECK_101 | X_64X4D | SE,
    "ecaresnet26t": BOTTLENECK_26 | T | ECA,
    "ecaresnet50d": BOTTLENECK_50 | D | ECA,
    "ecaresnet50t": BOTTLENECK_50 | T | ECA,
    "ecaresnetlight": dict(block="bottleneck", depths=(1, 1, 11, 3), shortcut="average") | ECA,
    "ecaresnet101d": BOTTLENECK_101 | D | ECA,
    "ecaresnet200d": BOTTLENECK_200 | D | ECA,
    "ecaresnet269d": BOTTLENECK_269 | D | ECA,
    "ecaresnext26t_32x4d": BOTTLENECK_26 | X_32X4D | T | ECA,
    "ecaresnext50t_32x4d": BOTTLENECK_50 | X_32X4D | T | ECA,
    "resnetblur18": BASIC_18 | BLUR,
    "resnetblur50": BOTTLENECK_50 | BLUR,
    "resnetblur50d": BOTTLENECK_50 | D | BLUR,
    "resnetblur101d": BOTTLENECK_101 | D | BLUR,
    "resnetaa34d": BASIC_34 | D | AA,
    "resnetaa50": BOTTLENECK_50 | AA,
    "resnetaa50d": BOTTLENECK_50 | D | AA,
    "resnetaa101d": BOTTLENECK_101 | D | AA,
    "seresnetaa50d": BOTTLENECK_50 | D | SE | AA,
    "seresnextaa101d_32x8d": BOTTLENECK_101 | X_32X8D | D | SE | AA,
    "seresnextaa201d_32x8d": dict(block="bottleneck", depths=(3, 24, 36, 4)) | X_32X8D | D | S | SE | AA,
}.items()}

register(VARIANTS)
