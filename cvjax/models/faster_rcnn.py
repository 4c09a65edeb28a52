"""Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks (Ren et al. 2015,
https://arxiv.org/abs/1506.01497), and on a feature pyramid (Lin et al. 2017, https://arxiv.org/abs/1612.03144).

At each pixel of a feature map, a region proposal network predicts which of the anchors hold an object and how they must
move to fit it. A second head classifies these regions and moves their boxes again. This file has only the network.
Matching, sampling, decoding and suppression, which connect the two heads, are in `cvjax.tasks.faster_rcnn`.

`faster_rcnn_vgg16` is the paper's, with fc6 and fc7 as the second head on regions pooled from conv5_3.
`faster_rcnn_resnet50` has stages 1 to 4 of a ResNet as the backbone and stage 5 as the second head (He et al. 2016,
app. A). `faster_rcnn_resnet50_fpn` is torchvision's, with its names and anchors; `faster_rcnn_resnet50_fpn_coco` is for
its published weights. `faster_rcnn` takes any model that names its maps.

Deviations: anchors are torchvision's (see `cvjax.ops.anchors`), an anchor has one logit where the paper has two, and
regions of ResNets are aligned (He et al. 2017, https://arxiv.org/abs/1703.06870) where the paper pools. Stage 5
takes regions of 14x14 and strides. `batch_statistics=False` fixes only the statistics of a norm. Its scale and bias
are trained, while torchvision fixes them as well.
"""

import contextlib
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.layers.conv import Conv
from cvjax.layers.dense import Dense
from cvjax.layers.initializers import linear_uniform, small_normal
from cvjax.layers.norm import frozen_statistics
from cvjax.models.backbone import OnBackbone
from cvjax.models.images import check_images, size_of
from cvjax.models.registry import register
from cvjax.models.resnet import ResNet
from cvjax.models.vgg import VGG
from cvjax.ops.anchors import ASPECT_RATIOS, SIZES, pyramid_anchors
from cvjax.ops.boxes import area
from cvjax.ops.roi import pyramid_roi_align, roi_pool

_UNIT_FAN_IN = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")  # torchvision's pyramids start from it
_BOX_NORMAL = nn.initializers.normal(stddev=0.001)  # layers that give boxes (Girshick 2015, sec. 2.3)


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Maps `(B, h, w, C)` to `(B, *size, C)`: pixel i is the old floor(i h / size), as torch's `interpolate` has it."""
    for axis, length in zip((1, 2), size):
        own = x.shape[axis]
        if length in (2 * own, 2 * own - 1):  # as in a pyramid; its gradient is a sum, not a scatter
            x = jax.lax.slice_in_dim(jnp.repeat(x, 2, axis), 0, length, axis=axis)
        else:
            x = jnp.take(x, np.arange(length) * own // length, axis)
    return x


class FeaturePyramid(nn.Module):
    """Maps, the finest first, to the same number of maps of `width` channels, and one coarser map.

    Lin et al. 2017: the coarser result, resized, is added to a 1x1 convolution of each map, and a 3x3 convolution makes
    the result. The maps are the paper's P2 to P5. P6 takes every other pixel of the last.
    """

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        conv = partial(Conv, self.width, kernel_init=_UNIT_FAN_IN, dtype=self.dtype)
        results, above = [], None
        for i in reversed(range(len(maps))):
            x = conv(1, name=f"inner_blocks_{i}")(maps[i])
            above = x if above is None else x + resize_nearest(above, size_of(x))
            results.insert(0, conv(3, padding=1, name=f"layer_blocks_{i}")(above))
        return [*results, results[-1][:, ::2, ::2]]


class ProposalHead(nn.Module):
    """The region proposal network: a 3x3 convolution, and two 1x1 ones that classify and move A anchors.

    A map `(B, h, w, C)` -> logits `(B, h w A)` and codes `(B, h w A, 4)`, float32, in the order of `grid_anchors`.
    """

    width: int
    anchors: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        conv = partial(Conv, kernel_init=small_normal, dtype=self.dtype)
        x = nn.relu(conv(self.width, 3, padding=1, name="conv")(x))
        logits = conv(self.anchors, 1, name="cls_logits")(x).astype(jnp.float32)
        codes = conv(4 * self.anchors, 1, name="bbox_pred")(x).astype(jnp.float32)
        return logits.reshape(x.shape[0], -1), codes.reshape(x.shape[0], -1, 4)


class RegionMLP(nn.Module):
    """Features of regions `(N, h, w, C)`, flattened, through two fully connected layers: `(N, width)`."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = nn.relu(Dense(self.width, kernel_init=linear_uniform, dtype=self.dtype, name=name)(x))
        return x


class RegionPredictor(nn.Module):
    """Features `(N, D)` -> logits `(N, K + 1)`, background first, and codes `(N, K + 1, 4)` for each class; float32."""

    num_classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = self.num_classes + 1
        logits = Dense(outputs, kernel_init=small_normal, dtype=self.dtype, name="cls_score")(x)
        codes = Dense(4 * outputs, kernel_init=_BOX_NORMAL, dtype=self.dtype, name="bbox_pred")(x)
        return logits.astype(jnp.float32), codes.reshape(-1, outputs, 4).astype(jnp.float32)


class FasterRCNN(OnBackbone):
    """Images float `(B, H, W, C)`, already normalised, of any size that the backbone takes, to both heads' outputs.

    Boxes are x1, y1, x2, y2 in pixels of these images. A detector calls the methods `features`, `propose`,
    `anchors` and `classify` one by one. Calling the model runs all of it for given regions.

    backbone, backbone_fields: a model of `create_model` that names its maps, and its fields other than
    those that both models share. `features` computes no layer of it after the last map.
    maps: names of the backbone's maps, the finest first; more than one needs a pyramid.
    pyramid_width: channels of a feature pyramid on the maps, 0 for none.
    anchor_sizes: the anchors' sizes in pixels for each map, and for the one that a pyramid adds; each has all
    aspect_ratios. rpn_width: channels of the proposal network.
    region_size: side of the features of a region. region_pooling: "pool" (Girshick 2015) or torchvision's "align".
    With a pyramid, a region is seen in the map with a stride of 16 if it has sides of `canonical_size` (the root of its
    area), and in the one before or after for half or twice as much (Lin et al. 2017, eq. 1).
    head: "mlp" has two fully connected layers of `head_width`; "backbone" those parts of a VGG or a ResNet that come
    after the map.
    batch_statistics: whether the backbone's batch norms use the batch's statistics in training. False: they keep
    theirs, which suits small batches and a backbone that was trained before.
    candidates: how many boxes of each map enter suppression, in training and for detection. proposals: how many boxes
    of an image it leaves as regions, in training and for detection. sampled_anchors, sampled_regions: how many of them
    in an image each head learns from. crossing_anchors: whether the first head also learns from anchors that cross the
    picture's border.
    padding_proposes: whether anchors centred in a canvas's padding are moved to regions in detection, as torchvision
    does, whose padding is below 32 pixels; they never learn.
    smallest_proposal: boxes of the first head with a side of fewer pixels of the file are no regions; 0 for no limit.
    region_beta: where smooth L1 of the second head turns from a square into a line; in the first it is 1 / 9.
    image_size: the size the variant was made for. axis_name: see `BatchNorm`.
    """

    maps: tuple[str, ...] = ("layer3",)
    pyramid_width: int = 0
    anchor_sizes: tuple[tuple[float, ...], ...] = (SIZES,)
    aspect_ratios: tuple[float, ...] = ASPECT_RATIOS
    rpn_width: int = 256
    region_size: int = 7
    region_pooling: Literal["align", "pool"] = "align"
    canonical_size: float = 224.0
    head: Literal["mlp", "backbone"] = "mlp"
    head_width: int = 1024
    batch_statistics: bool = True
    candidates: tuple[int, int] = (2000, 1000)
    proposals: tuple[int, int] = (2000, 1000)
    sampled_anchors: int = 256
    sampled_regions: int = 512
    crossing_anchors: bool = True
    padding_proposes: bool = False
    smallest_proposal: float = 0.0
    region_beta: float = 1 / 9
    image_size: int | tuple[int, int] = 600
    in_channels: int = 3
    num_classes: int = 20
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if not self.maps or (len(self.maps) > 1 and not self.pyramid_width):
            raise ValueError(f"maps {self.maps}: it must be one, or more with a pyramid_width")
        levels = len(self.maps) + bool(self.pyramid_width)
        counts = {len(sizes) for sizes in self.anchor_sizes}
        if len(self.anchor_sizes) != levels or len(counts) != 1:
            raise ValueError(f"anchor_sizes {self.anchor_sizes}: there must be as many for each of {levels} maps")
        self.network = self.make_backbone().clone(parent=self, name="backbone")
        if self.head == "backbone" and (self.pyramid_width or not isinstance(self.network, VGG | ResNet)):
            raise ValueError(f"head 'backbone': it takes a VGG or a ResNet without a pyramid, received {self.backbone} "
                             f"with pyramid_width={self.pyramid_width}")
        if self.pyramid_width:
            self.fpn = FeaturePyramid(self.pyramid_width, self.dtype)
        self.rpn = ProposalHead(self.rpn_width, counts.pop() * len(self.aspect_ratios), self.dtype)
        if self.head == "mlp":
            self.box_head = RegionMLP(self.head_width, self.dtype)
        self.box_predictor = RegionPredictor(self.num_classes, self.dtype)

    def __call__(self, images: jax.Array, boxes: jax.Array | None = None, *, train: bool = False
                 ) -> dict[str, jax.Array]:
        """The outputs for all anchors and for the regions `boxes` `(B, R, 4)`; None: one region, the whole image.

        Returns `objectness` (B, N), `anchor_codes` (B, N, 4), `logits` (B, R, K + 1) and `codes` (B, R, K + 1, 4).
        """
        size = size_of(images)
        if boxes is None:
            boxes = jnp.broadcast_to(jnp.array([0.0, 0.0, *size[::-1]]), (images.shape[0], 1, 4))
        maps = self.features(images, train=train)
        objectness, anchor_codes = self.propose(maps)
        logits, codes = self.classify(maps, boxes, size, train=train)
        return {"objectness": objectness, "anchor_codes": anchor_codes, "logits": logits, "codes": codes}

    def features(self, images: jax.Array, *, train: bool = False) -> list[jax.Array]:
        """The maps `(B, h, w, C)` that both heads see, the finest first. Only the first sees a pyramid's last map."""
        check_images(images, self.in_channels)
        with self._norms():
            maps = self.network(images, train=train, maps=self.maps)
        maps = [maps[name] for name in self.maps]
        return self.fpn(maps) if self.pyramid_width else maps

    def propose(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        """The proposal network's outputs for `features`: logits `(B, N)` and codes `(B, N, 4)` of all anchors."""
        logits, codes = zip(*(self.rpn(x) for x in maps))
        return jnp.concatenate(logits, axis=1), jnp.concatenate(codes, axis=1)

    @nn.nowrap
    def anchors(self, maps: Sequence[jax.Array], image_size: tuple[int, int]) -> tuple[jax.Array, tuple[int, ...]]:
        """The anchors float32 `(N, 4)` of `features` of images of this height and width, and how many each map has.

        A map's stride is the whole number of pixels that go into the image's side, as in torchvision.
        """
        grids = [size_of(x) for x in maps]
        strides = [(image_size[0] // height, image_size[1] // width) for height, width in grids]
        per_pixel = len(self.anchor_sizes[0]) * len(self.aspect_ratios)
        return (pyramid_anchors(grids, strides, self.anchor_sizes, self.aspect_ratios),
                tuple(math.prod(grid) * per_pixel for grid in grids))

    def classify(self, maps: Sequence[jax.Array], boxes: jax.Array, image_size: tuple[int, int], *, train: bool = False
                 ) -> tuple[jax.Array, jax.Array]:
        """Logits `(B, R, K + 1)`, background first, and codes `(B, R, K + 1, 4)` of regions `(B, R, 4)`."""
        x = self.region_features(maps, boxes, image_size)
        x = self._describe(x.reshape(-1, *x.shape[2:]), train)
        logits, codes = (x.reshape(*boxes.shape[:2], *x.shape[1:]) for x in self.box_predictor(x))
        return logits, codes

    @nn.nowrap
    def region_features(self, maps: Sequence[jax.Array], boxes: jax.Array, image_size: tuple[int, int]) -> jax.Array:
        """Features of regions `(B, R, 4)`: `(B, R, region_size, region_size, C)`."""
        maps = maps[:len(self.maps)]
        # A map's stride is a power of two. Rounding removes the effect of pixels that were lost at the borders.
        levels = [round(math.log2(image_size[0] / x.shape[1])) for x in maps]
        wanted, size = region_levels(boxes, levels, self.canonical_size), (self.region_size, self.region_size)
        if self.region_pooling == "align":
            return pyramid_roi_align(maps, boxes, wanted - levels[0], size, [2.0**-level for level in levels],
                                     aligned=False)
        features = jnp.zeros(())
        for x, level in zip(maps, levels):
            regions = roi_pool(x, boxes, size, 2.0**-level)
            features = jnp.where((wanted == level)[..., None, None, None], regions, features)
        return features

    def _describe(self, x: jax.Array, train: bool) -> jax.Array:
        """Features of regions `(N, h, w, C)` -> `(N, D)`."""
        if self.head == "mlp":
            return self.box_head(x)
        if isinstance(self.network, VGG):
            return self.network.fully_connected(x, train=train)
        with self._norms():
            for i in range(int(self.maps[0].removeprefix("layer")) + 1, len(self.network.depths) + 1):
                x = getattr(self.network, f"layer{i}")(x, train)
        return x.mean(axis=(1, 2))

    @nn.nowrap
    def _norms(self) -> Any:
        return contextlib.nullcontext() if self.batch_statistics else frozen_statistics(lambda path: True)


def region_levels(boxes: jax.Array, levels: Sequence[int], canonical_size: float) -> jax.Array:
    """Which of the maps with strides 2**level sees each region `(..., 4)`: its level, int32 `(...)`.

    4 + log2(side / canonical_size), rounded down, and the nearest of consecutive `levels`; 1e-6 is torchvision's.
    """
    sides = jnp.sqrt(area(boxes))
    level = jnp.floor(4 + jnp.log2(sides / canonical_size) + 1e-6)  # without area: -inf, the finest
    return jnp.clip(level, min(levels), max(levels)).astype(jnp.int32)


# The numbers of sec. 3.3 and 4.1, and of the authors' code.
PAPER = dict(candidates=(12000, 6000), proposals=(2000, 300), sampled_regions=128, crossing_anchors=False,
             smallest_proposal=16.0, region_beta=1.0, rpn_width=512, head="backbone")

# torchvision's.
FPN = dict(backbone="resnet50", maps=("layer1", "layer2", "layer3", "layer4"), pyramid_width=256,
           anchor_sizes=((32,), (64,), (128,), (256,), (512,)), batch_statistics=False, image_size=800, num_classes=90)

VARIANTS = {
    "faster_rcnn": (FasterRCNN, {}),
    "faster_rcnn_vgg16": (FasterRCNN, dict(PAPER, backbone="vgg16", maps=("conv5_3",), region_pooling="pool")),
    "faster_rcnn_resnet50": (FasterRCNN, dict(PAPER, backbone="resnet50", region_size=14, batch_statistics=False)),
    "faster_rcnn_resnet50_fpn": (FasterRCNN, FPN),
    # For its weights of COCO, which were trained with norms that add nothing to the variance.
    "faster_rcnn_resnet50_fpn_coco": (FasterRCNN, dict(FPN, backbone_fields={"norm_epsilon": 0.0},
                                                       padding_proposes=True)),
}

register(VARIANTS)
