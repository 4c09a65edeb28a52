"""Baselines that a network has to beat: a linear classifier of the pixels, and a multilayer perceptron.

Both see an image as one long vector in (row, column, channel) order, and do not know which pixels are neighbours. The
perceptron has ReLUs (Nair and Hinton 2010) and dropout (Srivastava et al. 2014,
https://jmlr.org/papers/v15/srivastava14a.html). Weights start uniform in +-1 / sqrt(fan in), biases at zero. Neither
has named maps.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.dense import Dense
from cvjax.layers.initializers import linear_uniform
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import check_image_size, check_images
from cvjax.models.registry import register


class Linear(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)` by one linear layer.

    A class's logit is the inner product of the image and the class's template: the templates are
    `params["fc"]["kernel"].reshape(H, W, C, num_classes)`.
    image_size: the size that images must have. num_classes: 0 drops the layer, the output is then the pixels.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("fc",)
    layer_decay: ClassVar[LayerOrder] = "modules"

    image_size: int | tuple[int, int] = 32
    in_channels: int = 3
    num_classes: int = 10
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if self.num_classes:
            self.fc = Dense(self.num_classes, kernel_init=linear_uniform, dtype=self.dtype)

    def features(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """The input of the head: the pixels `(B, H*W*C)`."""
        check_images(images, self.in_channels)
        check_image_size(images, self.image_size)
        return images.reshape(images.shape[0], -1)

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        x = self.features(images, train=train)
        return self.fc(x).astype(jnp.float32) if self.num_classes else x


class MultilayerPerceptron(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    hidden: widths of the layers before the head, each with ReLU and dropout.
    dropout: rate, active with `train=True` (stream `dropout`).
    image_size: the size that images must have. num_classes: 0 drops the head.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("fc",)
    layer_decay: ClassVar[LayerOrder] = "modules"

    hidden: tuple[int, ...] = (512, 512)
    dropout: float = 0.0
    image_size: int | tuple[int, int] = 32
    in_channels: int = 3
    num_classes: int = 10
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.layers = [Dense(width, kernel_init=linear_uniform, dtype=self.dtype) for width in self.hidden]
        self.drop = nn.Dropout(self.dropout)
        if self.num_classes:
            self.fc = Dense(self.num_classes, kernel_init=linear_uniform, dtype=self.dtype)

    def features(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """The input of the head: `(B, hidden[-1])`."""
        check_images(images, self.in_channels)
        check_image_size(images, self.image_size)
        x = images.reshape(images.shape[0], -1)
        for layer in self.layers:
            x = self.drop(nn.relu(layer(x)), deterministic=not train)
        return x

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        x = self.features(images, train=train)
        return self.fc(x).astype(jnp.float32) if self.num_classes else x


VARIANTS = {"linear": (Linear, {}), "mlp": (MultilayerPerceptron, {})}

register(VARIANTS)
