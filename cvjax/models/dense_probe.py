"""A dense linear probe: what the features of a frozen network tell of each pixel (Oquab et al. 2023, DINOv2,
https://arxiv.org/abs/2304.07193, its evaluation "linear" of semantic segmentation).

As in the authors' code: batch norm and one linear layer at each position of the last map, whose scores are resized to
the image. A ViT's map is its patch tokens, after the last norm where it has one there. Deviation: images whose sides
the patches do not fill get zeros at the right and below, not on all sides.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cvjax.layers.conv import Conv
from cvjax.layers.initializers import small_normal
from cvjax.layers.norm import BatchNorm
from cvjax.models.backbone import OnBackbone
from cvjax.models.fcn import resize_bilinear
from cvjax.models.images import check_images, size_of
from cvjax.models.registry import register
from cvjax.models.vit import VisionTransformer
from cvjax.ops.patches import patch_grid


class DenseProbe(OnBackbone):
    """Images float `(B, H, W, C)` of any size, already normalised, to logits float32 `(B, H, W, num_classes)`.

    The backbone is in evaluation mode also in training, and no gradient reaches it.

    map: name of the backbone's map that is judged; "" for a ViT's last tokens, and for another network's last map.
    image_size: the backbone's own, which its learned positions are for.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("score",)

    map: str = ""
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    num_classes: int = 21
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.network = self.make_backbone().clone(parent=self, name="backbone")
        self.norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype)
        self.score = Conv(self.num_classes, 1, kernel_init=small_normal, dtype=self.dtype)

    def features(self, images: jax.Array) -> jax.Array:
        """The judged map `(B, h, w, D)` of images whose sides a ViT's patches fill."""
        network: Any = self.network
        if isinstance(network, VisionTransformer) and not self.map:
            patches = network.tokens(images)[:, network.prefix:]
            return patches.reshape(images.shape[0], *patch_grid(*size_of(images), network.patch_size), -1)
        if not network.map_names:
            raise ValueError(f"{self.backbone} names no maps: it must be a ViT or a network that does")
        name = self.map or network.map_names[-1]
        return network(images, maps=[name])[name]

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        check_images(images, self.in_channels)
        height, width = size_of(images)
        patch = getattr(self.network, "patch_size", 1)
        images = jnp.pad(images, ((0, 0), (0, -height % patch), (0, -width % patch), (0, 0)))
        features = jax.lax.stop_gradient(self.features(images))
        scores = self.score(self.norm(features, train=train))
        return resize_bilinear(scores.astype(jnp.float32), size_of(images))[:, :height, :width]


VARIANTS = {"dense_probe": (DenseProbe, {})}

register(VARIANTS)
