"""SPP-net: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition (He et al. 2014,
https://arxiv.org/abs/1406.4729).

A pyramid of bins stands between the last convolution and the first fully connected layer. It turns a map of any size
into a vector of fixed length: the map of a whole image, to classify it, or each of many regions of a map that is
computed once.

`sppnet_alexnet` has the convolutions of our `alexnet` (Krizhevsky 2014), not the paper's ZF-5, which has smaller
strides at first; `sppnet` takes any model that names its maps.

Deviations: the paper pads each layer so that pixel i of the last map looks at the image around 16 i, and places regions
by that (appendix A). AlexNet's poolings do not pad, so regions are moved by `offset` before they are placed. There is
only one scale, that of the given images. The paper's detector chooses among five the scale at which a region is nearest
to 224 x 224 pixels.
"""

from functools import lru_cache, partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.dense import Dense
from cvjax.layers.initializers import kaiming_normal_fan_in, small_normal
from cvjax.models.backbone import OnBackbone
from cvjax.models.images import as_pair, check_images
from cvjax.models.registry import register
from cvjax.ops.pyramid import LEVELS, pyramid_pool, region_pyramid_pool

_LONGER = 512  # a multiple of all strides


@lru_cache
def map_stride(backbone: nn.Module, name: str) -> int:
    """Pixels of the image per pixel of a model's map `name`; nothing is computed.

    It is measured by how much the map grows with the image. ValueError if the model has no such map, or if the map
    has no single stride.
    """
    def shape(longer: int) -> tuple[int, ...]:
        size = tuple(side + longer for side in as_pair(backbone.image_size))
        model = backbone.clone(parent=None, image_size=size)
        images = jnp.zeros((1, *size, model.in_channels))
        maps, _ = jax.eval_shape(partial(model.init_with_output, maps=[name]), jax.random.key(0), images)
        return maps[name].shape[1:3]

    grown = [after - before for before, after in zip(shape(0), shape(_LONGER))]
    if grown[0] != grown[1] or not grown[0] or _LONGER % grown[0]:
        raise ValueError(f"map {name} of {type(backbone).__name__} grows by {grown[0]} and {grown[1]} pixels where the "
                         f"image does by {_LONGER}: it has no stride")
    return _LONGER // grown[0]


class SPPNet(OnBackbone):
    """Images float `(B, H, W, C)`, already normalised, of any size, to logits float32 `(B, num_classes)`.

    backbone, backbone_fields: a model of `create_model` that names its maps, and its fields other than
    those that both models share. map: the map that is pooled; no layer after it is computed or made.
    offset: pixel of the image, in continuous coordinates, that pixel 0 of the map is centred at.
    levels: bins along a side of each level of the pyramid. fc_width: of the two fully connected layers.
    dropout: rate after each of them, with `train=True` (stream `dropout`). axis_name: see `BatchNorm`.
    image_size: the size the variant was made for. num_classes: 0 drops the head.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("fc8",)

    map: str = "layer4"
    offset: float = 0.0
    levels: tuple[int, ...] = LEVELS
    fc_width: int = 4096
    dropout: float = 0.5
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    num_classes: int = 1000
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        backbone = self.make_backbone()
        self.stride = map_stride(backbone.clone(parent=None), self.map)
        self.network = backbone.clone(parent=self, name="backbone")
        # For 4096 inputs and more this is close to the papers' deviation of 0.01. With 0.01, narrow layers would give
        # outputs close to zero.
        dense = partial(Dense, kernel_init=kaiming_normal_fan_in, dtype=self.dtype)
        self.fc6, self.fc7 = dense(self.fc_width), dense(self.fc_width)
        self.drop = nn.Dropout(self.dropout)
        if self.num_classes:
            self.fc8 = dense(self.num_classes, kernel_init=small_normal)

    def convolutions(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """The map that is pooled, `(B, h, w, D)`."""
        check_images(images, self.in_channels)
        return self.network(images, train=train, maps=[self.map])[self.map]

    def fully_connected(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Pyramids `(..., bins, D)` through fc6 and fc7: `(..., fc_width)`."""
        x = x.reshape(*x.shape[:-2], -1)
        for layer in (self.fc6, self.fc7):
            x = self.drop(nn.relu(layer(x)), deterministic=not train)
        return x

    def features(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """The input of the head for whole images: `(B, fc_width)`."""
        return self.fully_connected(pyramid_pool(self.convolutions(images, train=train), self.levels), train=train)

    def region_features(self, images: jax.Array, boxes: jax.Array) -> jax.Array:
        """The input of the head for regions `(B, R, 4)` in pixels of the images: `(B, R, fc_width)`."""
        return self.fully_connected(self.pool_regions(self.convolutions(images), boxes))

    def pool_regions(self, x: jax.Array, boxes: jax.Array) -> jax.Array:
        """Pyramids `(B, R, bins, D)` of regions `(B, R, 4)` in pixels of the images that the map `x` is of."""
        return region_pyramid_pool(x, boxes - self.offset, 1 / self.stride, self.levels)

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        x = self.features(images, train=train)
        return self.fc8(x).astype(jnp.float32) if self.num_classes else x


VARIANTS = {
    "sppnet": (SPPNet, {}),
    # conv1 with 2 pixels of padding: centres at 3.5 + 4 i; each pooling of 3 with stride 2 adds a pixel of its input.
    "sppnet_alexnet": (SPPNet, dict(backbone="alexnet", map="conv5", offset=15.5)),
}

register(VARIANTS)
