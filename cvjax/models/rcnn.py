"""R-CNN: Rich feature hierarchies for accurate object detection and semantic segmentation (Girshick et al. 2014,
https://arxiv.org/abs/1311.2524).

Each region is warped to the size that a classifier takes. The input of the classifier's head is the region's feature
vector. Linear models on these vectors tell classes and move boxes: see `cvjax.evaluate.region_classifiers`.

`rcnn_alexnet` has `alexnet_grouped`, Krizhevsky's network of 2012 at 227 x 227 pixels, `rcnn_vgg16` VGG-16 at 224.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from cvjax.models.image_model import ImageModel
from cvjax.models.images import check_images
from cvjax.models.registry import create_model, register
from cvjax.ops.warp import warp_regions


class RCNN(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, and regions `(B, R, 4)` in their pixels to `(B, R, D)`.

    All regions go through the network at once. 2,000 regions take more memory than most devices have, so call it with
    a few at a time (`cvjax.evaluate.region_features`). Without regions, the whole image is the only region.

    backbone, backbone_fields: a classifier of `create_model` with the method `features`, and fields of it other than
    `num_classes`, `image_size`, `in_channels` and `dtype`. crop_size: side of a warped region. context: how many
    of these pixels lie around the region on each side.
    image_size: of whole images; any size works.
    """

    backbone: str = "alexnet_grouped"
    backbone_fields: Mapping[str, Any] = FrozenDict()
    crop_size: int = 227
    context: int = 16
    image_size: int | tuple[int, int] = 500
    in_channels: int = 3
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        object.__setattr__(self, "backbone_fields", FrozenDict(self.backbone_fields))  # modules are hashed by fields
        super().__post_init__()

    def setup(self) -> None:
        self.network = create_model(self.backbone, num_classes=0, image_size=self.crop_size,
                                    in_channels=self.in_channels, dtype=self.dtype, **self.backbone_fields).clone(
                                        parent=self, name="backbone")

    def warp(self, images: jax.Array, boxes: jax.Array, extent: jax.Array | None = None) -> jax.Array:
        """The network's input for boxes `(B, R, 4)`: `(B, R, crop_size, crop_size, C)`; extent `(B, 2)`."""
        warp = partial(warp_regions, size=self.crop_size, context=self.context)
        if extent is None:
            return jax.vmap(warp)(images, boxes)
        return jax.vmap(lambda image, boxes, extent: warp(image, boxes, extent=extent))(images, boxes, extent)

    def region_features(self, images: jax.Array, boxes: jax.Array, extent: jax.Array | None = None) -> jax.Array:
        """Feature vectors of regions `(B, R, 4)`: `(B, R, D)`; extent `(B, 2)`: see `warp_regions`."""
        check_images(images, self.in_channels)
        crops = self.warp(images, boxes, extent)
        features = self.network.features(crops.reshape(-1, *crops.shape[2:]), train=False)
        return features.reshape(*crops.shape[:2], -1)

    def __call__(self, images: jax.Array, boxes: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        if boxes is None:
            check_images(images, self.in_channels)
            height, width = images.shape[1:3]
            boxes = jnp.broadcast_to(jnp.float32([0, 0, width, height]), (images.shape[0], 1, 4))
        return self.region_features(images, boxes)


VARIANTS = {
    "rcnn_alexnet": (RCNN, {}),
    "rcnn_vgg16": (RCNN, dict(backbone="vgg16", crop_size=224)),
}

register(VARIANTS)
