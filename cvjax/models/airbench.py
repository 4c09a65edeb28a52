"""The networks of airbench, which learn CIFAR-10 to 94 % and to 96 % in seconds.

Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (https://arxiv.org/abs/2404.00498), and its code
(https://github.com/KellerJordan/cifar10-airbench, legacy/airbench94.py and legacy/airbench96.py).

The kernel of the first layer is not learnt: `whitening_kernel` makes it from training images, and it stays fixed.

Deviations: the authors compute in float16 and keep all parameters except the norms' in it; here `dtype` is only the
compute type. They take the last maximum over windows of 3x3, which is the whole map of an image of 32 pixels;
here it is over the whole map of any image.
"""

from collections.abc import Collection
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.layers.conv import Conv
from cvjax.layers.dense import Dense
from cvjax.layers.feature_maps import NamedMaps, with_maps
from cvjax.layers.initializers import linear_uniform
from cvjax.layers.norm import BatchNorm
from cvjax.layers.pool import MaxPool
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import check_images
from cvjax.models.registry import register
from cvjax.ops.gelu import gelu
from cvjax.ops.pooling import global_max_pool

LOGIT_SCALE = 1 / 9
PATCH = 2  # side of the patches that the first layer sees


def partial_identity(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A kernel `(h, w, in, out)` whose first outputs are the inputs; the others are uniform in +-1 / sqrt(fan in)."""
    kernel = linear_uniform(key, shape, dtype)
    kept = min(shape[2:])
    return kernel.at[..., :kept].set(0.0).at[shape[0] // 2, shape[1] // 2, jnp.arange(kept), jnp.arange(kept)].set(1.0)


def whitening_kernel(images: np.ndarray, epsilon: float = 5e-4) -> np.ndarray:
    """Kernel float32 `(2, 2, C, 8 C)` whose outputs on these images have mean square one and are uncorrelated.

    images: float `(N, H, W, C)`, normalised. The first half are the eigenvectors of the second moments of all patches,
    the largest first, each over the root of its eigenvalue plus `epsilon`; the second half are their negatives.
    """
    channels = images.shape[-1]
    moments, count = np.zeros((PATCH * PATCH * channels,) * 2), 0
    for some in np.array_split(images, -(-len(images) // 250)):  # a few at a time stay in the cache
        rows, columns = (n - PATCH + 1 for n in some.shape[1:3])
        patches = np.concatenate([some[:, i:i + rows, j:j + columns] for i in range(PATCH) for j in range(PATCH)], -1)
        patches = patches.reshape(-1, len(moments))
        moments += patches.T @ patches
        count += len(patches)
    values, vectors = np.linalg.eigh(moments / count)
    half = (vectors / np.sqrt(values + epsilon))[:, ::-1].reshape(PATCH, PATCH, channels, -1)
    return np.concatenate([half, -half], axis=-1).astype(np.float32)


class ConvNorm(nn.Module):
    """A 3x3 convolution, 2x2 maxima where `pool` is set, and a batch norm without scale."""

    features: int
    momentum: float
    pool: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = Conv(self.features, 3, 1, 1, use_bias=False, kernel_init=partial_identity, dtype=self.dtype, name="conv")(x)
        x = MaxPool(2, 2)(x) if self.pool else x
        return BatchNorm(momentum=self.momentum, epsilon=1e-12, affine="bias", axis_name=self.axis_name,
                         dtype=self.dtype, name="bn")(x, train=train)


class Group(nn.Module):
    """`convs` layers, GELU after each, the first of which halves the map; with three, the last two have a residual."""

    convs: int
    conv: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = first = gelu(self.conv(pool=True, name="conv1")(x, train))
        x = self.conv(name="conv2")(x, train)
        return gelu(x if self.convs == 2 else first + self.conv(name="conv3")(gelu(x), train))


class Airbench(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    widths: channels of the three groups. convs: layers of each, 2, or 3 with a residual. momentum: see `BatchNorm`.
    image_size: the size it was made for; any from 9 pixels on works. num_classes: 0 drops the head. axis_name: see
    `BatchNorm`. Named maps: `whiten`, `group1` to `group3`.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("fc",)
    layer_decay: ClassVar[LayerOrder] = "modules"

    frozen: ClassVar[tuple[str, ...]] = ("whiten/kernel",)  # parameters that are never trained
    examples: ClassVar[int] = 5000  # training images that `from_images` is meant to get

    widths: tuple[int, int, int] = (64, 256, 256)
    convs: int = 2
    momentum: float = 0.6
    image_size: int | tuple[int, int] = 32
    in_channels: int = 3
    num_classes: int = 10
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if self.convs not in (2, 3):
            raise ValueError(f"convs {self.convs}: a group has 2 or 3")
        self.whiten = Conv(2 * PATCH**2 * self.in_channels, PATCH, kernel_init=partial_identity, dtype=self.dtype)
        conv = partial(ConvNorm, momentum=self.momentum, axis_name=self.axis_name, dtype=self.dtype)
        self.group1, self.group2, self.group3 = (Group(self.convs, partial(conv, width)) for width in self.widths)
        if self.num_classes:
            self.fc = Dense(self.num_classes, use_bias=False, kernel_init=linear_uniform, dtype=self.dtype)

    @property
    def map_names(self) -> tuple[str, ...]:
        return "whiten", "group1", "group2", "group3"

    @with_maps
    def features(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        """The input of the head, the largest value of each channel: `(B, D)`."""
        check_images(images, self.in_channels, at_least=9)
        x = yield "whiten", gelu(self.whiten(images))
        for name in ("group1", "group2", "group3"):
            x = yield name, getattr(self, name)(x, train)
        return global_max_pool(x)

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        x = self.features(images, train=train, maps=maps)
        return self.fc(x).astype(jnp.float32) * LOGIT_SCALE if self.num_classes and maps is None else x

    def from_images(self, images: jax.Array) -> dict[str, Any]:
        """The frozen parameters, made from normalised training images `(N, H, W, C)`: a part of the tree."""
        return {"whiten": {"kernel": whitening_kernel(np.asarray(images))}}


VARIANTS = {
    "airbench94": (Airbench, dict()),
    "airbench96": (Airbench, dict(widths=(128, 384, 512), convs=3, momentum=0.9)),
}

register(VARIANTS)
