"""FCN: Fully Convolutional Networks for Semantic Segmentation (Long, Shelhamer and Darrell 2015,
https://arxiv.org/abs/1411.4038; in full Shelhamer, Long and Darrell 2017, https://arxiv.org/abs/1605.06211).

`FCNVGG` is the paper's: FCN-32s, FCN-16s and FCN-8s on VGG-16, whose fully connected layers become convolutions
(`convolutionalized` turns a classifier's variables into an FCN's). Layers carry the names of the authors' Caffe code.
All streams are learnt at once: the inputs of the skips' score layers are scaled by the constants of that code's
"at-once" FCN-8s. `FCN` puts torchvision's head on any model that names its maps; `fcn_resnet50` and `fcn_resnet101`
are torchvision's networks, with their names, and skips in the paper's manner are an option.

Deviations of FCNVGG: the Caffe code pads images by 100 pixels, so that scores exist everywhere, and crops. Here zeros
fill images up to whole strides at the right and below, fc6 pads its map by 3 and keeps its size, and the map's edge is
repeated before bilinear upsampling. So pixel centres coincide at all strides, no offset depends on the image's size,
and logits have the image's size. The final upsampling is fixed and the one before is learnt, as in sec. 4.3 of the
first paper; the Caffe code came to fix them all. Skips of `FCN` are resized bilinearly, as its logits are, without
learning.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from cvjax.layers.conv import Conv
from cvjax.layers.feature_maps import NamedMaps, with_maps
from cvjax.layers.initializers import linear_uniform, small_normal
from cvjax.layers.norm import BatchNorm
from cvjax.models.backbone import OnBackbone
from cvjax.models.image_model import ImageModel
from cvjax.models.images import as_pair, check_images, size_of
from cvjax.models.registry import register
from cvjax.models.vgg import VGG


def resize_bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Maps `(B, h, w, C)` to `(B, *size, C)`, bilinear between pixel centres; outside these the edge is repeated.

    It is torch's `interpolate` with `align_corners=False`, and does not smooth where it shrinks.
    """
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "linear", antialias=False)


def bilinear_kernel(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Initialiser `(2s, 2s, K, K)` by which a convolution transposed with stride s interpolates each channel."""
    size, _, inputs, outputs = shape
    factor = size // 2
    tent = 1 - np.abs(np.arange(2 * factor) - factor + 0.5) / factor
    return jnp.asarray(tent[:, None, None, None] * tent[:, None, None] * np.eye(inputs, outputs), dtype)


class Upsample(nn.Module):
    """A learnt transposed convolution, bilinear at first: `(B, h, w, K)` to `(B, factor h, factor w, K)`.

    factor: even. The map's edge is repeated outside it.
    """

    factor: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, size = x.shape[-1], 2 * self.factor
        kernel = self.param("kernel", bilinear_kernel, (size, size, channels, channels))
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        # A kernel's centre lies between its taps: these zeros leave `factor` outputs for every pixel but the two added.
        zeros = (self.factor // 2 - 1, self.factor // 2 - 1)
        return jax.lax.conv_general_dilated(x, kernel.astype(self.dtype), (1, 1), (zeros, zeros), (self.factor,) * 2,
                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))


class FCNVGG(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, of any size, to logits float32 `(B, H, W, num_classes)`.

    skips: how many pooled maps before the last one are scored as well: 0 is FCN-32s, 1 FCN-16s, 2 FCN-8s.
    skip_scales: what these maps are multiplied by, the last first. The reference's constants are for VGG's weights in
    Caffe, which takes pixels of 0 to 255. With images normalised to a deviation of one, maps are smaller.
    depths, width, fc_width, batch_norm, axis_name: VGG's. dropout: rate after fc6 and fc7, with `train=True` (stream
    `dropout`). image_size: the size the variant was made for.
    Named maps: `fc6` and `fc7`, after ReLU; VGG's are those of `backbone`.
    """

    skips: int = 0
    skip_scales: tuple[float, ...] = (0.01, 0.0001)
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    width: int = 64
    fc_width: int = 4096
    batch_norm: bool = False
    dropout: float = 0.5
    image_size: int | tuple[int, int] = 500
    in_channels: int = 3
    num_classes: int = 21
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.nowrap
    def make_backbone(self) -> VGG:
        """The VGG by itself, without a head."""
        return VGG(self.depths, self.width, self.fc_width, self.batch_norm, image_size=self.image_size,
                   in_channels=self.in_channels, num_classes=0, axis_name=self.axis_name, dtype=self.dtype)

    def setup(self) -> None:
        stages = len(self.depths)
        if not 0 <= self.skips <= stages - 2:  # the fixed upsampling is at least by 4
            raise ValueError(f"skips {self.skips}: it must be 0 to {stages - 2}, for VGG has {stages} poolings")
        if len(self.skip_scales) < self.skips:
            raise ValueError(f"skip_scales {self.skip_scales}: there must be one for each of the {self.skips} skips")
        self.backbone = self.make_backbone()
        conv = partial(Conv, kernel_init=small_normal, dtype=self.dtype)
        self.fc6, self.fc7 = conv(self.fc_width, 7, padding=3), conv(self.fc_width, 1)
        self.drop = nn.Dropout(self.dropout)
        score = partial(Conv, self.num_classes, 1, kernel_init=nn.initializers.zeros, dtype=self.dtype)
        self.score_fr = score()
        for i, stage in enumerate(self._skipped):
            setattr(self, f"score_pool{stage}", score())
            setattr(self, f"upscore_pool{stage + 1}" if i else "upscore2", Upsample(2, self.dtype))

    @property
    def _skipped(self) -> range:
        """The stages whose poolings are scored, the last first."""
        return range(len(self.depths) - 1, len(self.depths) - 1 - self.skips, -1)

    @property
    def map_names(self) -> tuple[str, ...]:
        return "fc6", "fc7"

    @with_maps
    def __call__(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        check_images(images, self.in_channels)
        height, width = images.shape[1:3]
        stride = 2 ** len(self.depths)
        x = jnp.pad(images, ((0, 0), (0, -height % stride), (0, -width % stride), (0, 0)))
        size = size_of(x)
        pools = [f"pool{stage}" for stage in range(1, len(self.depths) + 1)]
        maps = self.backbone(x, train=train, maps=pools)
        x = maps[pools[-1]]
        for name in ("fc6", "fc7"):
            x = yield name, nn.relu(getattr(self, name)(x))
            x = self.drop(x, deterministic=not train)
        x = self.score_fr(x)
        for i, stage in enumerate(self._skipped):
            x = getattr(self, f"upscore_pool{stage + 1}" if i else "upscore2")(x)
            x = x + getattr(self, f"score_pool{stage}")(self.skip_scales[i] * maps[f"pool{stage}"])
        return resize_bilinear(x.astype(jnp.float32), size)[:, :height, :width]


def convolutionalized(classifier: Mapping[str, Any], fcn: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of an `FCNVGG` with a `VGG` classifier's layers in the place of its own.

    fc6, a matrix for flattened 7x7 maps, becomes a 7x7 convolution with the same numbers, and fc7 a 1x1 convolution.
    fc8 is dropped, and the score layers stay as they are. ValueError if widths or depths differ.
    """
    params, stats = dict(classifier["params"]), classifier.get("batch_stats", {})
    if missing := [name for name in ("fc6", "fc7") if name not in params]:
        raise ValueError(f"the classifier has no {', '.join(missing)}: it must be a VGG; it has {', '.join(params)}")
    params.pop("fc8", None)
    new = dict(fcn["params"])
    for name in ("fc6", "fc7"):
        layer = params.pop(name)
        side = 7 if name == "fc6" else 1
        new[name] = {**layer, "kernel": layer["kernel"].reshape(side, side, -1, layer["kernel"].shape[-1])}
    new["backbone"] = params
    result = {**fcn, "params": new} | ({"batch_stats": {"backbone": stats}} if stats else {})
    shapes = [{jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
              for tree in (result, fcn)]
    if different := sorted(name for name in shapes[0].keys() | shapes[1].keys()
                           if shapes[0].get(name) != shapes[1].get(name)):
        raise ValueError(f"the classifier does not fit the FCN: {', '.join(different)} differ")
    return result


class FCNHead(nn.Module):
    """torchvision's head: a 3x3 convolution to a quarter of the channels, norm, ReLU, dropout, a 1x1 convolution."""

    num_classes: int
    dropout: float
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = Conv(max(x.shape[-1] // 4, 1), 3, padding=1, use_bias=False, dtype=self.dtype, name="0")(x)
        x = nn.relu(BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="1")(x, train=train))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return Conv(self.num_classes, 1, kernel_init=linear_uniform, dtype=self.dtype, name="4")(x)


@lru_cache
def coarsest_maps(backbone: nn.Module, count: int) -> tuple[str, ...]:
    """Names of a model's last map of each of the `count` smallest sizes, the finest first; nothing is computed.

    Sizes are those for an image of the model's `image_size`. ValueError if the model names maps of fewer sizes.
    """
    names = backbone.map_names
    images = jnp.zeros((1, *as_pair(backbone.image_size), backbone.in_channels))
    maps, _ = jax.eval_shape(partial(backbone.init_with_output, maps=names), jax.random.key(0), images)
    last = {maps[name].shape[1:3]: name for name in names}  # each size at its first map's place, with its last name
    if not 1 <= count <= len(last):
        raise ValueError(f"maps={count}: {type(backbone).__name__} names maps of {len(last)} sizes")
    return tuple(last.values())[-count:]


class FCN(OnBackbone):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, H, W, num_classes)`.

    backbone, backbone_fields: a model of `create_model` that names its maps, and its fields other than
    those that both models share. Images may have any size that it takes.
    maps: names of the backbone's maps that are scored, in its order. The head looks at the last one; the others are
    skips, each scored by a 1x1 convolution that starts at zero and added to the resized scores of the map after it. A
    number n: the last map of each of the n smallest sizes (1 is FCN-32s of a network with stride 32, 3 its FCN-8s). No
    layer of the backbone after the last of them is computed or made.
    auxiliary_map: with `train=True` a second head scores this map, "" for none; its logits, of the images' size, are
    sown as `auxiliary` in the collection `intermediates`, a tuple of one, and the training loss adds theirs, weighted
    by `auxiliary_weight`.
    dropout: rate in the heads, with `train=True` (stream `dropout`). axis_name: see `BatchNorm`.
    image_size: the size the variant was made for.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("classifier",)
    auxiliary_heads: ClassVar[bool] = True

    maps: int | tuple[str, ...] = 1
    auxiliary_map: str = ""
    auxiliary_weight: float = 0.5
    dropout: float = 0.1
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    num_classes: int = 21
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        backbone = self.make_backbone()
        self.scored = coarsest_maps(backbone.clone(parent=None), self.maps) if isinstance(self.maps, int) else self.maps
        self.network = backbone.clone(parent=self, name="backbone")
        head = partial(FCNHead, self.num_classes, self.dropout, self.axis_name, self.dtype)
        self.classifier = head()
        if self.auxiliary_map:
            self.aux_classifier = head()
        self.skip_scores = [Conv(self.num_classes, 1, kernel_init=nn.initializers.zeros, dtype=self.dtype,
                                 name=f"score_{name.replace('/', '_')}") for name in self.scored[:-1]]

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        check_images(images, self.in_channels)
        size = size_of(images)
        heads = train or self.is_initializing()
        wanted = {*self.scored, self.auxiliary_map} if self.auxiliary_map and heads else set(self.scored)
        maps = self.network(images, train=train, maps=wanted)
        x = self.classifier(maps[self.scored[-1]], train)
        for name, score in reversed(list(zip(self.scored, self.skip_scores))):
            skip = score(maps[name])
            x = resize_bilinear(x, size_of(skip)) + skip
        if self.auxiliary_map and heads:
            auxiliary = self.aux_classifier(maps[self.auxiliary_map], train)
            self.sow("intermediates", "auxiliary", resize_bilinear(auxiliary.astype(jnp.float32), size))
        return resize_bilinear(x.astype(jnp.float32), size)


TORCHVISION = dict(backbone_fields=FrozenDict(output_stride=8), maps=("layer4",), auxiliary_map="layer3",
                   image_size=480)

VARIANTS = {
    "fcn": (FCN, {}),
    "fcn_resnet50": (FCN, dict(TORCHVISION, backbone="resnet50")),
    "fcn_resnet101": (FCN, dict(TORCHVISION, backbone="resnet101")),
    "fcn32s_vgg16": (FCNVGG, dict(skips=0)),
    "fcn16s_vgg16": (FCNVGG, dict(skips=1)),
    "fcn8s_vgg16": (FCNVGG, dict(skips=2)),
}

register(VARIANTS)
