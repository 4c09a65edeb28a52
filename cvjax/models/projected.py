"""A backbone with a linear projection of its features, for a loss that compares them with features of another width.

FitNets' regressor (Romero et al. 2015, sec. 2.2, https://arxiv.org/abs/1412.6550), of pooled features.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

from cvjax.layers.dense import Dense
from cvjax.models.image_model import ImageModel


class Projected(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to projected features float32 `(B, width)`.

    backbone: a model without a head (`num_classes=0`) whose output is `(B, D)`; what remains of it after the training.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("projection",)

    backbone: ImageModel
    width: int

    def setup(self) -> None:
        self.projection = Dense(self.width)

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        return self.projection(self.backbone(images, train=train).astype(jnp.float32))
