"""YOLO: You Only Look Once: Unified, Real-Time Object Detection (Redmon et al. 2016, https://arxiv.org/abs/1506.02640).

`yolov1` is the paper's network of 24 convolutions and two fully connected layers (fig. 3), `fast_yolov1` its fast one
of nine convolutions (sec. 4.1; widths and three fully connected layers as in the authors' first release).
`yolov1_classifier` is what the paper trains on ImageNet first (sec. 2.2): 20 convolutions, average pooling and a fully
connected layer. `yolo` is this project's: a fully convolutional head of the same output on any model that names maps.

All give `(B, R, C, 5 N + K)`: a grid of R x C cells. Each cell has x, y, w, h and confidence of N boxes, then K
classes, as `cvjax.losses.yolo` reads them. x and y count in cells from the cell's corner; w and h are square roots of
shares of the picture. The last layer is linear.

Deviations: weights start as He et al. (2015) say; the paper does not. Later releases of the authors' code have batch
normalisation, here an option, and a locally connected layer in the place of the first fully connected one.
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
from cvjax.layers.initializers import kaiming_normal_fan_in, linear_uniform
from cvjax.layers.norm import BatchNorm
from cvjax.layers.pool import MaxPool
from cvjax.models.backbone import OnBackbone
from cvjax.models.fcn import coarsest_maps, resize_bilinear
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import as_pair, check_image_size, check_images, size_of
from cvjax.models.registry import register

Convolution = tuple[int, int, int]  # channels, kernel size, strides
Layers = tuple[Convolution | None, ...]  # None: a pooling

leaky_relu = partial(nn.leaky_relu, negative_slope=0.1)


class LeakyConv(nn.Module):
    """A convolution, padded so that only its strides reduce the size, batch norm if wanted, and leaky ReLU."""

    features: int
    kernel_size: int
    strides: int
    batch_norm: bool
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = Conv(self.features, self.kernel_size, self.strides, self.kernel_size // 2, use_bias=not self.batch_norm,
                 kernel_init=kaiming_normal_fan_in, dtype=self.dtype, name="conv")(x)
        if self.batch_norm:
            x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="bn")(x, train=train)
        return leaky_relu(x)


class YOLOBackbone(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    layers: (channels, kernel size, strides) of each convolution, None for a 2x2 max pooling.
    batch_norm: after each convolution, which then has no bias (see `BatchNorm` for axis_name).
    image_size: the size the variant was made for; any works. num_classes: 0 drops the head.
    Named maps: `conv1`, `conv2`, ... after leaky ReLU.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("fc",)
    layer_decay: ClassVar[LayerOrder] = "modules"

    layers: Layers
    batch_norm: bool = False
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    num_classes: int = 1000
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.pool = MaxPool(2, 2)
        for i, layer in enumerate(filter(None, self.layers), start=1):
            setattr(self, f"conv{i}", LeakyConv(*layer, self.batch_norm, self.axis_name, self.dtype))
        if self.num_classes:
            self.fc = Dense(self.num_classes, kernel_init=linear_uniform, dtype=self.dtype)

    @property
    def map_names(self) -> tuple[str, ...]:
        return tuple(f"conv{i}" for i in range(1, 1 + len([*filter(None, self.layers)])))

    @with_maps
    def convolutions(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        """The last map `(B, h, w, D)`."""
        check_images(images, self.in_channels)
        x, number = images, 0
        for layer in self.layers:
            if layer is None:
                x = self.pool(x)
            else:
                number += 1
                x = yield f"conv{number}", getattr(self, f"conv{number}")(x, train)
        return x

    def features(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None) -> Any:
        """The input of the head: `(B, D)`."""
        x = self.convolutions(images, train=train, maps=maps)
        return x.mean(axis=(1, 2)) if maps is None else x

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        x = self.features(images, train=train, maps=maps)
        return self.fc(x).astype(jnp.float32) if self.num_classes and maps is None else x


class YOLOv1(ImageModel):
    """Images float `(B, H, W, C)` of `image_size`, already normalised, to float32 `(B, R, C, 5 num_boxes + K)`.

    layers: of the backbone (see `YOLOBackbone`). more_layers: further convolutions, which the paper adds after
    pretraining. fc_widths: of the fully connected layers before the output; dropout (stream `dropout`) follows the last
    one. image_size: the grid has as many cells as the last map has pixels. num_boxes: N of each cell.
    num_classes: K. batch_norm, axis_name: see `YOLOBackbone`.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("output",)

    layers: Layers
    more_layers: tuple[Convolution, ...] = ()
    fc_widths: tuple[int, ...] = (4096,)
    num_boxes: int = 2
    dropout: float = 0.5
    batch_norm: bool = False
    image_size: int | tuple[int, int] = 448
    in_channels: int = 3
    num_classes: int = 20
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.nowrap
    def make_backbone(self) -> YOLOBackbone:
        """The convolutions that are pretrained, without a head."""
        return YOLOBackbone(self.layers, self.batch_norm, self.image_size, self.in_channels, 0, self.axis_name,
                            self.dtype)

    def setup(self) -> None:
        self.backbone = self.make_backbone()
        self.more = [LeakyConv(*layer, self.batch_norm, self.axis_name, self.dtype, name=f"conv{i}")
                     for i, layer in enumerate(self.more_layers, start=1 + len([*filter(None, self.layers)]))]
        self.fully_connected = [Dense(width, kernel_init=kaiming_normal_fan_in, dtype=self.dtype, name=f"fc{i}")
                                for i, width in enumerate(self.fc_widths, start=1)]
        self.drop = nn.Dropout(self.dropout)
        height, width = as_pair(self.image_size)
        for layer in (*self.layers, *self.more_layers):
            # A convolution rounds up, a pooling down.
            height, width = ((s // 2 if layer is None else -(-s // layer[2])) for s in (height, width))
        if min(height, width) < 1:
            raise ValueError(f"image_size {self.image_size}: nothing is left of it after all poolings")
        self.cells = height, width, 5 * self.num_boxes + self.num_classes
        self.output = Dense(height * width * self.cells[2], kernel_init=linear_uniform, dtype=self.dtype)

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        check_image_size(images, self.image_size)
        x = self.backbone.convolutions(images, train=train)
        for layer in self.more:
            x = layer(x, train)
        x = x.reshape(x.shape[0], -1)
        for layer in self.fully_connected:
            x = leaky_relu(layer(x))
        x = self.output(self.drop(x, deterministic=not train))
        return x.astype(jnp.float32).reshape(-1, *self.cells)


class YOLO(OnBackbone):
    """Images float `(B, H, W, C)`, already normalised, to float32 `(B, R, C, 5 num_boxes + num_classes)`.

    backbone, backbone_fields: a model of `create_model` that names its maps, and its fields other than
    those that both models share.
    maps: names of the backbone's maps that the head sees, the finest first, whose pixels are the cells; the others are
    resized to it. A number n: the last map of each of the n smallest sizes. No layer of the backbone after the last of
    them is computed or made.
    head_width, head_depth: channels and number of the 3x3 convolutions, with batch norm and leaky ReLU, before the
    output; the backbone's maps are brought to this width by 1x1 convolutions. At first the boxes of a cell lie on its
    centre and have different sizes, so that each becomes responsible for objects of some size.
    image_size: the size the variant was made for; any that the backbone takes works. axis_name: see `BatchNorm`.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("output",)

    maps: int | tuple[str, ...] = 1
    head_width: int = 256
    head_depth: int = 2
    num_boxes: int = 2
    image_size: int | tuple[int, int] = 448
    in_channels: int = 3
    num_classes: int = 20
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        backbone = self.make_backbone()
        self.seen = coarsest_maps(backbone.clone(parent=None), self.maps) if isinstance(self.maps, int) else self.maps
        self.network = backbone.clone(parent=self, name="backbone")
        block = partial(LeakyConv, self.head_width, strides=1, batch_norm=True, axis_name=self.axis_name,
                        dtype=self.dtype)
        self.lateral = [block(kernel_size=1, name=f"lateral_{name.replace('/', '_')}") for name in self.seen]
        self.head = [block(kernel_size=3, name=f"head{i}") for i in range(1, self.head_depth + 1)]
        outputs = 5 * self.num_boxes + self.num_classes
        self.output = Conv(outputs, 1, kernel_init=linear_uniform, bias_init=self._spread, dtype=self.dtype)

    @nn.nowrap
    def _spread(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        """Boxes at the cells' centres with 1 / (N + 1), 2 / (N + 1), ... of the picture's sides; all else is 0."""
        roots = jnp.sqrt(jnp.arange(1, self.num_boxes + 1) / (self.num_boxes + 1))[:, None]
        boxes = jnp.concatenate([jnp.full((self.num_boxes, 2), 0.5), roots, roots, 0 * roots], axis=1).ravel()
        return jnp.pad(boxes, (0, shape[0] - len(boxes))).astype(dtype)

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        check_images(images, self.in_channels)
        maps = self.network(images, train=train, maps=self.seen)
        size = size_of(maps[self.seen[0]])
        x: Any = 0  # an array from the first map on
        for name, lateral in zip(self.seen, self.lateral):
            y = lateral(maps[name], train)
            x = x + (y if y.shape[1:3] == size else resize_bilinear(y, size))
        for layer in self.head:
            x = layer(x, train)
        return self.output(x).astype(jnp.float32)


def _alternating(narrow: int, wide: int, times: int) -> Layers:
    """1x1 convolutions that narrow what the 3x3 ones after them widen again."""
    return ((narrow, 1, 1), (wide, 3, 1)) * times


# The first 20 of fig. 3, and the four that follow pretraining.
EXTRACTION: Layers = ((64, 7, 2), None, (192, 3, 1), None, (128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1), None,
                      *_alternating(256, 512, 4), (512, 1, 1), (1024, 3, 1), None, *_alternating(512, 1024, 2))
ADDED: Layers = ((1024, 3, 1), (1024, 3, 2), (1024, 3, 1), (1024, 3, 1))
FAST: Layers = (*(layer for width in (16, 32, 64, 128, 256, 512) for layer in ((width, 3, 1), None)),
                *((1024, 3, 1),) * 3)

VARIANTS = {
    "yolov1": (YOLOv1, dict(layers=EXTRACTION, more_layers=ADDED)),
    "fast_yolov1": (YOLOv1, dict(layers=FAST, fc_widths=(256, 4096))),
    "yolov1_classifier": (YOLOBackbone, dict(layers=EXTRACTION)),
    "yolo": (YOLO, {}),
}

register(VARIANTS)
