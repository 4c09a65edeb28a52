"""ResNet: Deep Residual Learning for Image Recognition (He et al. 2016, https://arxiv.org/abs/1512.03385).

Also Wide ResNet (Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146), ResNeXt (Xie et al. 2017,
https://arxiv.org/abs/1611.05431) and the pre-activation form (He et al. 2016, https://arxiv.org/abs/1603.05027).

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

from cvjax.layers.conv import Conv
from cvjax.layers.dense import Dense
from cvjax.layers.drop_path import DropPath
from cvjax.layers.feature_maps import NamedMaps, with_maps
from cvjax.layers.initializers import linear_uniform
from cvjax.layers.norm import BatchNorm
from cvjax.layers.pool import MaxPool
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import check_images
from cvjax.models.registry import register


class Projection(nn.Module):
    """The shortcut of a block that changes shape: a strided 1x1 convolution (option B of the paper)."""

    features: int
    strides: int
    conv: Any
    norm: Any | None  # None: no norm, as in the pre-activation form

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.conv(self.features, 1, self.strides, name="0")(x)
        return x if self.norm is None else self.norm(name="1")(x, train=train)


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
    is_first: of the network. Pre-activated, its shortcut too starts after the first norm and ReLU, as that of a block
    that changes shape does (He et al. 2016b, fig. 4e and appendix).
    """

    kind: Literal["basic", "bottleneck"]
    width: int
    features: int
    strides: int
    dilations: tuple[int, int]
    groups: int
    shortcut: Literal["projection", "identity"]
    preactivation: bool
    is_first: bool
    drop_path: float
    conv: Any
    norm: Any
    last_scale: Any  # initialiser of the branch's last norm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        # features, kernel size, strides, dilation, groups
        first, second = self.dilations
        if self.kind == "basic":
            convs = [(self.width, 3, self.strides, first, 1), (self.features, 3, 1, second, 1)]
        else:
            convs = [(self.width, 1, 1, 1, 1), (self.width, 3, self.strides, first, self.groups),
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
        return Projection(self.features, self.strides, self.conv, norm, name="downsample")(x, train)


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


class ResNet(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    depths: blocks of each stage. width: channels of the first stage's inner convolutions; each stage doubles them.
    width_factor: widens a bottleneck's inner convolutions (Wide ResNet, ResNeXt); groups: of its 3x3 convolution.
    stem: "imagenet" is a strided 7x7 convolution and a 3x3 max pooling, "cifar" a 3x3 convolution.
    shortcut: where shapes change, a 1x1 convolution ("projection") or subsampling and zeros ("identity").
    output_stride: the most pixels of the image to one of the last map: a stage that would exceed it does not stride but
    dilates its 3x3 convolutions; 8 is torchvision's `replace_stride_with_dilation=(False, True, True)`.
    image_size: the size the variant was made for; any from 1 pixel on works. num_classes: 0 drops the head.
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
    stem: Literal["imagenet", "cifar"] = "imagenet"
    shortcut: Literal["projection", "identity"] = "projection"
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
        norm = partial(BatchNorm, epsilon=self.norm_epsilon, axis_name=self.axis_name, dtype=self.dtype)
        self.conv1 = conv(self.width, 7, 2, 3) if self.stem == "imagenet" else conv(self.width, 3, 1, 1)
        if not self.preactivation:
            self.bn1 = norm()
        self.maxpool = MaxPool(3, 2, 1)
        rates = [self.drop_path * i / max(sum(self.depths) - 1, 1) for i in range(sum(self.depths))]
        reached, dilation = 4 if self.stem == "imagenet" else 1, 1
        for i, depth in enumerate(self.depths):
            strides, before = 1 if i == 0 else 2, dilation
            if reached * strides > self.output_stride:
                strides, dilation = 1, 2 * dilation
            reached *= strides
            channels = self.width * 2**i
            inner = int(channels * self.width_factor) if self.block == "bottleneck" else channels
            block = partial(
                ResidualBlock, self.block, inner, channels * (4 if self.block == "bottleneck" else 1),
                groups=self.groups, shortcut=self.shortcut, preactivation=self.preactivation, conv=conv, norm=norm,
                last_scale=nn.initializers.zeros if self.zero_init_last else nn.initializers.ones)
            first = sum(self.depths[:i])
            stage = Stage(depth, strides, (before, dilation), block, tuple(rates[first:first + depth]), i == 0)
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
        check_images(images, self.in_channels)
        x = self.conv1(images)
        x = x if self.preactivation else nn.relu(self.bn1(x, train=train))
        x = yield "stem", x
        x = self.maxpool(x) if self.stem == "imagenet" else x
        for i in range(len(self.depths)):
            x = yield f"layer{i + 1}", getattr(self, f"layer{i + 1}")(x, train)
        x = nn.relu(self.norm(x, train=train)) if self.preactivation else x
        return x.mean(axis=(1, 2))

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        x = self.features(images, train=train, maps=maps)
        return self.fc(x).astype(jnp.float32) if self.num_classes and maps is None else x


BOTTLENECK_50 = dict(block="bottleneck", depths=(3, 4, 6, 3))
BOTTLENECK_101 = dict(block="bottleneck", depths=(3, 4, 23, 3))
CIFAR = dict(stem="cifar", width=16, shortcut="identity", image_size=32, num_classes=10)

VARIANTS = {
    "resnet18": (ResNet, dict(block="basic", depths=(2, 2, 2, 2))),
    "resnet34": (ResNet, dict(block="basic", depths=(3, 4, 6, 3))),
    "resnet50": (ResNet, BOTTLENECK_50),
    "resnet101": (ResNet, BOTTLENECK_101),
    "resnet152": (ResNet, dict(block="bottleneck", depths=(3, 8, 36, 3))),
    "wide_resnet50_2": (ResNet, dict(BOTTLENECK_50, width_factor=2.0)),
    "wide_resnet101_2": (ResNet, dict(BOTTLENECK_101, width_factor=2.0)),
    "resnext50_32x4d": (ResNet, dict(BOTTLENECK_50, width_factor=2.0, groups=32)),
    "resnext101_32x8d": (ResNet, dict(BOTTLENECK_101, width_factor=4.0, groups=32)),
    "resnext101_64x4d": (ResNet, dict(BOTTLENECK_101, width_factor=4.0, groups=64)),
    "resnet20": (ResNet, dict(CIFAR, depths=(3, 3, 3))),
    "resnet32": (ResNet, dict(CIFAR, depths=(5, 5, 5))),
    "resnet44": (ResNet, dict(CIFAR, depths=(7, 7, 7))),
    "resnet56": (ResNet, dict(CIFAR, depths=(9, 9, 9))),
    "resnet110": (ResNet, dict(CIFAR, depths=(18, 18, 18))),
}

register(VARIANTS)
