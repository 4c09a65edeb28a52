"""GoogLeNet: Going Deeper with Convolutions (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842).

Two networks, by the field `norm`. "lrn" is the paper's: table 1, with local response normalisation (its settings are
those of Caffe's GoogLeNet, the paper gives none). "batch" is torchvision's, which most published weights are for: batch
normalisation instead of biases and LRN, a 3x3 convolution where the third branch of the paper has a 5x5 (a known bug,
https://github.com/pytorch/vision/issues/906), and a 2x2 window in the last max pooling. Those weights expect images
normalised by mean 0.5 and deviation 0.5 in every channel (`transform_input` converts to that there).

Parameters start as there: kernels normal of deviation 0.01 in torchvision's; in Caffe's uniform by its "xavier", with
biases of 0.2 but for the classifiers'. `googlenet_lrn` wants images of levels 0 to 255 minus the mean, as Caffe's:
response normalisation does nothing to smaller numbers.

Deviations of both: the auxiliary heads average over a 4x4 grid of bins, as torchvision does, so that any image size
works; on the paper's 14x14 maps the bins are not its 5x5 windows with stride 3. Parameters carry torchvision's names.
"""

from collections.abc import Collection
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.conv import Conv
from cvjax.layers.dense import Dense
from cvjax.layers.feature_maps import NamedMaps, with_maps
from cvjax.layers.initializers import caffe_xavier, small_normal
from cvjax.layers.lrn import LocalResponseNorm
from cvjax.layers.norm import BatchNorm
from cvjax.layers.pool import MaxPool
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import check_images
from cvjax.models.registry import register
from cvjax.ops.pooling import adaptive_average_pool, max_pool

# Table 1: channels of the 1x1 convolution, of the 3x3's reduction and itself, of the 5x5's, and after the pooling.
INCEPTIONS = (
    ("3a", (64, 96, 128, 16, 32, 32)),
    ("3b", (128, 128, 192, 32, 96, 64)),
    ("4a", (192, 96, 208, 16, 48, 64)),
    ("4b", (160, 112, 224, 24, 64, 64)),
    ("4c", (128, 128, 256, 24, 64, 64)),
    ("4d", (112, 144, 288, 32, 64, 64)),
    ("4e", (256, 160, 320, 32, 128, 128)),
    ("5a", (256, 160, 320, 32, 128, 128)),
    ("5b", (384, 192, 384, 48, 128, 128)),
)
AUXILIARY = {"4a": "aux1", "4d": "aux2"}  # the module that each auxiliary head looks at


def starts(batch_norm: bool) -> tuple[Any, Any]:
    """How kernels and the biases of hidden layers start: as in torchvision's network, or in Caffe's."""
    return (small_normal, nn.initializers.zeros) if batch_norm else (caffe_xavier, nn.initializers.constant(0.2))


class ConvUnit(nn.Module):
    """Convolution that keeps the size at stride 1, batch norm (or a bias, where `norm` is None), ReLU."""

    features: int
    kernel_size: int
    strides: int = 1
    norm: Any | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kernel_init, bias_init = starts(self.norm is not None)
        x = Conv(self.features, self.kernel_size, self.strides, self.kernel_size // 2, use_bias=self.norm is None,
                 kernel_init=kernel_init, bias_init=bias_init, dtype=self.dtype, name="conv")(x)
        return nn.relu(x if self.norm is None else self.norm(name="bn")(x, train=train))


class Branch(nn.Module):
    """A chain of convolutions, (channels, size) each; `pooled`: after a 3x3 max pooling with stride 1."""

    convs: tuple[tuple[int, int], ...]
    unit: Any
    pooled: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = max_pool(x, 3, 1, 1) if self.pooled else x
        for i, (features, size) in enumerate(self.convs, start=int(self.pooled)):  # the pooling has number 0
            x = self.unit(features, size, name=str(i))(x, train)
        return x


class Inception(nn.Module):
    """1x1, 3x3 and larger convolutions and a pooling side by side, after 1x1 reductions (figure 2b).

    widths: as in `INCEPTIONS`. largest: size of the third branch's kernel. `(B, H, W, C)` to `(B, H, W, sum)`, the
    sum of widths 0, 2, 4 and 5.
    """

    widths: tuple[int, ...]
    largest: int
    unit: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        one, reduce3, three, reduce5, five, pooled = self.widths
        branches = (
            self.unit(one, 1, name="branch1"),
            Branch(((reduce3, 1), (three, 3)), self.unit, name="branch2"),
            Branch(((reduce5, 1), (five, self.largest)), self.unit, name="branch3"),
            Branch(((pooled, 1),), self.unit, pooled=True, name="branch4"),
        )
        return jnp.concatenate([branch(x, train) for branch in branches], axis=-1)


class AuxiliaryHead(nn.Module):
    """A classifier of a map in the middle of the network, `(B, H, W, C)` to float32 `(B, num_classes)` (sec. 5)."""

    num_classes: int
    dropout: float
    unit: Any
    batch_norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kernel_init, bias_init = starts(self.batch_norm)
        dense = partial(Dense, kernel_init=kernel_init, dtype=self.dtype)
        x = self.unit(128, 1, name="conv")(adaptive_average_pool(x, 4), train)
        x = nn.relu(dense(1024, bias_init=bias_init, name="fc1")(x.reshape(x.shape[0], -1)))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return dense(self.num_classes, name="fc2")(x).astype(jnp.float32)


class GoogLeNet(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    With `train=True` the logits of both auxiliary heads are sown as `auxiliary` in the collection `intermediates`, a
    tuple `(aux1, aux2)`; the training loss adds theirs, weighted by `auxiliary_weight`. In evaluation the heads are not
    computed. aux_heads: False leaves them out, parameters and all.

    norm: "batch" is torchvision's network, "lrn" the paper's (see above). inceptions: the modules, by name and widths;
    a max pooling stands before the first one of stages 4 and 5, and the auxiliary heads look at 4a and 4d.
    image_size: the size the variant was made for; any from 15 pixels ("lrn": 31) on works.
    dropout, auxiliary_dropout: of the features before each head's last layer, with `train=True` (stream `dropout`).
    num_classes: 0 drops all heads. axis_name: see `BatchNorm`.
    Named maps: `conv1`, `conv2`, `conv3`, `inception3a` to `inception5b`.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("fc", "aux1", "aux2")
    layer_decay: ClassVar[LayerOrder] = "modules"
    auxiliary_heads: ClassVar[bool] = True

    norm: Literal["batch", "lrn"] = "batch"
    inceptions: tuple[tuple[str, tuple[int, ...]], ...] = INCEPTIONS
    aux_heads: bool = True
    auxiliary_weight: float = 0.3
    dropout: float = 0.2
    auxiliary_dropout: float = 0.7
    image_size: int | tuple[int, int] = 224
    in_channels: int = 3
    num_classes: int = 1000
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        batch_norm = partial(BatchNorm, epsilon=1e-3, axis_name=self.axis_name, dtype=self.dtype)
        unit = partial(ConvUnit, norm=batch_norm if self.norm == "batch" else None, dtype=self.dtype)
        self.lrn = LocalResponseNorm(5, alpha=1e-4 / 5, k=1.0) if self.norm == "lrn" else None
        self.maxpool = MaxPool(3, 2, ceil_mode=True)
        self.maxpool4 = MaxPool(2 if self.norm == "batch" else 3, 2, ceil_mode=True)
        self.conv1 = unit(64, 7, 2)
        self.conv2 = unit(64, 1)
        self.conv3 = unit(192, 3)
        for name, widths in self.inceptions:
            setattr(self, f"inception{name}", Inception(widths, 3 if self.norm == "batch" else 5, unit))
            if name in AUXILIARY and self.aux_heads and self.num_classes:
                head = AuxiliaryHead(self.num_classes, self.auxiliary_dropout, unit, self.norm == "batch", self.dtype)
                setattr(self, AUXILIARY[name], head)
        if self.num_classes:
            self.drop = nn.Dropout(self.dropout)
            self.fc = Dense(self.num_classes, kernel_init=starts(self.norm == "batch")[0], dtype=self.dtype)

    @property
    def raw_pixels(self) -> bool:
        return self.norm == "lrn"

    @property
    def map_names(self) -> tuple[str, ...]:
        return "conv1", "conv2", "conv3", *(f"inception{name}" for name, _ in self.inceptions)

    def _normalized(self, x: jax.Array) -> jax.Array:
        return x if self.lrn is None else self.lrn(x)

    @with_maps
    def features(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        """The input of the head: `(B, D)`."""
        # At these sizes the poolings leave at least one pixel.
        check_images(images, self.in_channels, at_least=15 if self.norm == "batch" else 31)
        x = yield "conv1", self.conv1(images, train)
        x = self._normalized(self.maxpool(x))
        x = yield "conv2", self.conv2(x, train)
        x = yield "conv3", self.conv3(x, train)
        x = self.maxpool(self._normalized(x))
        stage = "3"
        for name, _ in self.inceptions:
            if name[0] != stage:
                stage = name[0]
                x = self.maxpool(x) if stage == "4" else self.maxpool4(x)
            x = yield f"inception{name}", getattr(self, f"inception{name}")(x, train)
            if name in AUXILIARY and self.aux_heads and self.num_classes and (train or self.is_initializing()):
                self.sow("intermediates", "auxiliary", getattr(self, AUXILIARY[name])(x, train))
        return x.mean(axis=(1, 2))

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        x = self.features(images, train=train, maps=maps)
        if not self.num_classes or maps is not None:
            return x
        return self.fc(self.drop(x, deterministic=not train)).astype(jnp.float32)


VARIANTS = {
    "googlenet": (GoogLeNet, {}),
    "googlenet_lrn": (GoogLeNet, dict(norm="lrn", dropout=0.4)),
}

register(VARIANTS)
