"""VGG: Very Deep Convolutional Networks for Large-Scale Image Recognition (Simonyan and Zisserman 2015,
https://arxiv.org/abs/1409.1556): its configurations A, B, D and E.

Deviations: the `_bn` forms, which are torchvision's, have batch normalisation (Ioffe and Szegedy 2015) between each
convolution, which keeps its bias, and its ReLU. Weights start as torchvision's: convolutions as He et al. (2015),
linear layers normal with deviation 0.01, biases at zero; the paper starts from a trained shallower network. Maps of
images other than 224x224 are averaged to the 7x7 that the first fully connected layer takes, as torchvision does.
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
from cvjax.layers.initializers import small_normal
from cvjax.layers.norm import BatchNorm
from cvjax.layers.pool import MaxPool
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import check_images
from cvjax.models.registry import register
from cvjax.ops.pooling import adaptive_average_pool


class VGG(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    depths: 3x3 convolutions of each stage; a 2x2 max pooling ends it.
    width: channels of the first stage; each stage doubles them, up to eight times. fc_width: of the two fully connected
    layers. batch_norm: after each convolution (see `BatchNorm` for axis_name).
    dropout: rate after each fully connected layer, active with `train=True` (stream `dropout`).
    image_size: the size the variant was made for; any of at least `2**len(depths)` pixels (32) works.
    num_classes: 0 drops the head.
    Named maps: `conv1_1`, `conv1_2`, ... after ReLU, and `pool1`, `pool2`, ...
    """

    output_modules: ClassVar[tuple[str, ...]] = ("fc8",)
    layer_decay: ClassVar[LayerOrder] = "modules"

    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    width: int = 64
    fc_width: int = 4096
    batch_norm: bool = False
    dropout: float = 0.5
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    num_classes: int = 1000
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        for stage, depth in enumerate(self.depths, start=1):
            channels = self.width * min(2 ** (stage - 1), 8)
            for i in range(1, depth + 1):
                setattr(self, f"conv{stage}_{i}", Conv(channels, 3, padding=1, dtype=self.dtype))
                if self.batch_norm:
                    setattr(self, f"bn{stage}_{i}", BatchNorm(axis_name=self.axis_name, dtype=self.dtype))
        self.pool = MaxPool(2, 2)
        dense = partial(Dense, kernel_init=small_normal, dtype=self.dtype)
        self.fc6, self.fc7 = dense(self.fc_width), dense(self.fc_width)
        self.drop = nn.Dropout(self.dropout)
        if self.num_classes:
            self.fc8 = dense(self.num_classes)

    @property
    def map_names(self) -> tuple[str, ...]:
        return tuple(name for stage, depth in enumerate(self.depths, start=1)
                     for name in (*(f"conv{stage}_{i}" for i in range(1, depth + 1)), f"pool{stage}"))

    @with_maps
    def convolutions(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        """The last map, pool5: `(B, 7, 7, 8 width)` for images of `image_size`."""
        check_images(images, self.in_channels, at_least=2 ** len(self.depths))
        x = images
        for stage, depth in enumerate(self.depths, start=1):
            for layer in (f"{stage}_{i}" for i in range(1, depth + 1)):
                x = getattr(self, f"conv{layer}")(x)
                if self.batch_norm:
                    x = getattr(self, f"bn{layer}")(x, train=train)
                x = yield f"conv{layer}", nn.relu(x)
            x = yield f"pool{stage}", self.pool(x)
        return x

    def fully_connected(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Any map `(B, h, w, 8 width)`, averaged to 7x7, through fc6 and fc7: `(B, fc_width)`."""
        x = adaptive_average_pool(x, 7)
        x = x.reshape(x.shape[0], -1)
        for layer in (self.fc6, self.fc7):
            x = self.drop(nn.relu(layer(x)), deterministic=not train)
        return x

    def features(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None) -> Any:
        """The input of the head: `(B, fc_width)`."""
        x = self.convolutions(images, train=train, maps=maps)
        return self.fully_connected(x, train=train) if maps is None else x

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        x = self.features(images, train=train, maps=maps)
        return self.fc8(x).astype(jnp.float32) if self.num_classes and maps is None else x


DEPTHS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}

VARIANTS = {
    f"{name}{suffix}": (VGG, dict(depths=depths, batch_norm=batch_norm))
    for name, depths in DEPTHS.items() for suffix, batch_norm in (("", False), ("_bn", True))
}

register(VARIANTS)
