"""Fast R-CNN (Girshick 2015, https://arxiv.org/abs/1504.08083): its network.

The backbone computes one map of the whole image. RoI pooling cuts each region into 7 x 7 bins. Two fully connected
layers, which all regions share, then tell the region's class and move its box, for each class in its own way.
`cvjax.tasks.fast_rcnn` trains it and decodes its detections.

`fast_rcnn_vgg16` is the paper's largest, on conv5_3 of VGG-16; layers carry the names of the authors' Caffe code. As
there, the background has codes as well, which are neither trained nor read. `fast_rcnn` takes any model that names its
maps.
`from_classifier` starts either from a trained classifier.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.dense import Dense
from cvjax.layers.initializers import kaiming_normal_fan_in
from cvjax.models.backbone import OnBackbone
from cvjax.models.faster_rcnn import RegionPredictor
from cvjax.models.images import check_images
from cvjax.models.registry import register
from cvjax.models.sppnet import map_stride
from cvjax.ops.roi import roi_pool


class RegionOutputs(NamedTuple):
    """A network's outputs for R regions of each image."""

    logits: jax.Array  # float32 (B, R, K + 1), the background first
    codes: jax.Array  # float32 (B, R, K + 1, 4): how each class moves the region, see `cvjax.ops.boxes.encode_boxes`


class FastRCNN(OnBackbone):
    """Images float `(B, H, W, C)`, already normalised, and regions `(B, R, 4)` in their pixels to `RegionOutputs`.

    Images may have any size. Without regions, the whole image is the only region.

    backbone, backbone_fields: a model of `create_model` that names its maps, and its fields other than
    those that both models share. map: the map that regions are cut from; no layer after it is computed or made.
    bins: of the pooling, along a side. fc_width: of the two fully connected layers.
    dropout: rate after each of them, with `train=True` (stream `dropout`). axis_name: see `BatchNorm`.
    image_size: the size the variant was made for. num_classes: K, without the background.
    """

    map: str = "layer3"
    bins: int = 7
    fc_width: int = 1024
    dropout: float = 0.5
    image_size: int | tuple[int, int] = 600
    in_channels: int = 3
    num_classes: int = 20
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes {self.num_classes}: there must be a class besides the background")
        backbone = self.make_backbone()
        self.stride = map_stride(backbone.clone(parent=None), self.map)
        self.network = backbone.clone(parent=self, name="backbone")
        # For 4096 inputs and more this is close to the papers' deviation of 0.01. With 0.01, narrow layers would give
        # outputs close to zero.
        dense = partial(Dense, kernel_init=kaiming_normal_fan_in, dtype=self.dtype)
        self.fc6, self.fc7 = dense(self.fc_width), dense(self.fc_width)
        self.drop = nn.Dropout(self.dropout)
        self.box_predictor = RegionPredictor(self.num_classes, self.dtype)

    def convolutions(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """The map that regions are cut from, `(B, h, w, D)`."""
        check_images(images, self.in_channels)
        return self.network(images, train=train, maps=[self.map])[self.map]

    def judge(self, x: jax.Array, boxes: jax.Array, *, train: bool = False) -> RegionOutputs:
        """Classes and moves regions `(B, R, 4)`, in pixels of the images, by a map `(B, h, w, D)`."""
        x = roi_pool(x, boxes, (self.bins, self.bins), 1 / self.stride)
        x = x.reshape(-1, self.bins * self.bins * x.shape[-1])
        for layer in (self.fc6, self.fc7):
            x = self.drop(nn.relu(layer(x)), deterministic=not train)
        return RegionOutputs(*(x.reshape(*boxes.shape[:2], *x.shape[1:]) for x in self.box_predictor(x)))

    def __call__(self, images: jax.Array, boxes: jax.Array | None = None, *, train: bool = False) -> RegionOutputs:
        x = self.convolutions(images, train=train)
        if boxes is None:
            height, width = images.shape[1:3]
            boxes = jnp.broadcast_to(jnp.float32([0, 0, width, height]), (images.shape[0], 1, 4))
        return self.judge(x, boxes, train=train)


def from_classifier(classifier: Mapping[str, Any], detector: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a `FastRCNN` or `SPPNet` with a classifier's layers in the place of its backbone's own.

    fc6 and fc7 are taken as well if the classifier has them with these shapes, as VGG does with 7 x 7 bins. All other
    layers stay as they are. ValueError if a layer of the backbone is missing or has another shape.
    """
    result = {collection: dict(tree) for collection, tree in detector.items()}
    for collection, tree in result.items():
        known = classifier.get(collection, {})
        if "backbone" not in tree:
            continue
        wrong = [f"{collection}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
                 for path, leaf in jax.tree_util.tree_leaves_with_path(tree["backbone"])
                 if getattr(_at(known, path), "shape", None) != leaf.shape]
        if wrong:
            raise ValueError(f"the classifier does not fit the backbone: {', '.join(wrong[:3])} "
                             f"({len(wrong)} arrays) missing or of another shape")
        tree["backbone"] = jax.tree_util.tree_map_with_path(lambda path, _, known=known: _at(known, path),
                                                            tree["backbone"])
    params, known = result["params"], classifier["params"]
    for name in ("fc6", "fc7"):
        if name in params and jax.tree.map(jnp.shape, params[name]) == jax.tree.map(jnp.shape, known.get(name)):
            params[name] = known[name]
    return result


def _at(tree: Any, path: Any) -> Any:
    """The entry of a nested mapping at the path of `jax.tree_util`, None where there is none."""
    for key in path:
        tree = tree.get(key.key) if isinstance(tree, Mapping) else None
    return tree


VARIANTS = {
    "fast_rcnn": (FastRCNN, {}),
    "fast_rcnn_vgg16": (FastRCNN, dict(backbone="vgg16", map="conv5_3", fc_width=4096)),
}

register(VARIANTS)
