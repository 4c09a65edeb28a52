"""AlexNet: ImageNet Classification with Deep Convolutional Neural Networks (Krizhevsky et al. 2012,
https://papers.nips.cc/paper/4824), and its form on one device (Krizhevsky 2014, https://arxiv.org/abs/1404.5997).

`alexnet_grouped` is the network of 2012, whose halves lived on two GPUs and met only in conv3 and in the fully
connected layers: convolutions in two groups, local response normalisation, the paper's initialisation. It wants images
of levels 0 to 255 minus the mean (sec. 2): response normalisation does nothing to smaller numbers.
`alexnet` is the network of 2014 as torchvision has it: other widths, neither groups nor normalisation, torchvision's
initialisation but for biases, which start at zero.

Deviations: the network of 2012 takes 227x227 pixels, which fit its sizes; the paper says 224. Its response
normalisation sees the neighbouring channels across the border of the halves, as in Caffe. Maps of other images are
averaged to the 6x6 that the first fully connected layer takes, as torchvision does. Dropout follows the first two
fully connected layers (2012, sec. 4.2); torchvision has it before each of them.
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
from cvjax.layers.initializers import linear_uniform, small_normal
from cvjax.layers.lrn import LocalResponseNorm
from cvjax.layers.pool import MaxPool
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import check_images
from cvjax.models.registry import register
from cvjax.ops.pooling import adaptive_average_pool


class AlexNet(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    widths: channels of the five convolutions. fc_width: of the two fully connected layers.
    padding: of conv1. groups: of conv2, conv4 and conv5. lrn: response normalisation before the first two poolings.
    kernel_init, bias: how weights start, and the biases of conv2, conv4, conv5, fc6 and fc7 (the paper's 1 puts their
    ReLUs where they have a slope).
    dropout: rate, active with `train=True` (stream `dropout`).
    image_size: the size the variant was made for; any of at least `67 - 2 padding` pixels works.
    num_classes: 0 drops the head.
    Named maps: `conv1` to `conv5`, after ReLU, and `pool1`, `pool2`, `pool5`.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("fc8",)
    layer_decay: ClassVar[LayerOrder] = "modules"

    widths: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256)
    fc_width: int = 4096
    padding: int = 2
    groups: int = 1
    lrn: bool = False
    kernel_init: Any = linear_uniform
    bias: float = 0.0
    dropout: float = 0.5
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    num_classes: int = 1000
    dtype: Any = jnp.float32

    def setup(self) -> None:
        conv = partial(Conv, kernel_init=self.kernel_init, dtype=self.dtype)
        dense = partial(Dense, kernel_init=self.kernel_init, dtype=self.dtype)
        bias = nn.initializers.constant(self.bias)
        first, second, third, fourth, fifth = self.widths
        self.conv1 = conv(first, 11, 4, self.padding)
        self.conv2 = conv(second, 5, padding=2, groups=self.groups, bias_init=bias)
        self.conv3 = conv(third, 3, padding=1)
        self.conv4 = conv(fourth, 3, padding=1, groups=self.groups, bias_init=bias)
        self.conv5 = conv(fifth, 3, padding=1, groups=self.groups, bias_init=bias)
        self.norm = LocalResponseNorm()
        self.pool = MaxPool(3, 2)
        self.fc6 = dense(self.fc_width, bias_init=bias)
        self.fc7 = dense(self.fc_width, bias_init=bias)
        self.drop = nn.Dropout(self.dropout)
        if self.num_classes:
            self.fc8 = dense(self.num_classes)

    @property
    def raw_pixels(self) -> bool:
        return self.lrn

    @property
    def map_names(self) -> tuple[str, ...]:
        return "conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"

    @with_maps
    def convolutions(self, images: jax.Array) -> NamedMaps:
        """The last map, pool5: `(B, 6, 6, widths[-1])` for images of `image_size`."""
        check_images(images, self.in_channels, at_least=67 - 2 * self.padding)
        x = images
        for i in range(1, 6):
            x = yield f"conv{i}", nn.relu(getattr(self, f"conv{i}")(x))
            if i in (1, 2) and self.lrn:
                x = self.norm(x)
            if i in (1, 2, 5):
                x = yield f"pool{i}", self.pool(x)
        return x

    def fully_connected(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Any map `(B, h, w, widths[-1])`, averaged to 6x6, through fc6 and fc7: `(B, fc_width)`."""
        x = adaptive_average_pool(x, 6)
        x = x.reshape(x.shape[0], -1)
        for layer in (self.fc6, self.fc7):
            x = self.drop(nn.relu(layer(x)), deterministic=not train)
        return x

    def features(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None) -> Any:
        """The input of the head: `(B, fc_width)`."""
        x = self.convolutions(images, maps=maps)
        return self.fully_connected(x, train=train) if maps is None else x

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        x = self.features(images, train=train, maps=maps)
        return self.fc8(x).astype(jnp.float32) if self.num_classes and maps is None else x


VARIANTS = {
    "alexnet": (AlexNet, {}),
    "alexnet_grouped": (AlexNet, dict(widths=(96, 256, 384, 384, 256), padding=0, groups=2, lrn=True, image_size=227,
                                      kernel_init=small_normal, bias=1.0)),
}

register(VARIANTS)
