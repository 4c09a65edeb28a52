"""LeNet-5: Gradient-Based Learning Applied to Document Recognition (LeCun et al. 1998,
http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf), section II.B.

Deviations from 1998: subsampling (S2, S4) is plain pooling, where the paper scales each mean by a trained coefficient,
adds a trained bias and squashes the sum. The output is a linear layer for cross-entropy, not Euclidean distances to
fixed bitmaps (RBF). The squashing is tanh as it is, not 1.7159 tanh(2x / 3). Weights start uniform in
+-1 / sqrt(fan in) and biases at zero; the paper takes +-2.4 / fan in. C3 is fully connected (61,706 parameters)
unless `partial_c3` (60,806: the paper's 60,000 less 44 of the subsampling plus 850 of the output).
"""

from collections.abc import Collection
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.layers.conv import Conv
from cvjax.layers.dense import Dense
from cvjax.layers.feature_maps import NamedMaps, with_maps
from cvjax.layers.initializers import linear_uniform
from cvjax.layers.pool import AveragePool, MaxPool
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import as_pair, check_image_size, check_images
from cvjax.models.registry import register
from cvjax.ops.convolution import conv2d
from cvjax.ops.linear import add

# Table I of the paper: which of the six maps of S2 each of the sixteen maps of C3 sees.
TABLE_I = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)


class PartialConv(nn.Module):
    """5x5 convolution `(B, H, W, 6) -> (B, H-4, W-4, 16)` over only the connections of table I.

    The parameter `kernel` `(5, 5, 1, 60)` holds one 5x5 kernel per connection, map after map of C3. Absent connections
    have no parameters: there are 60 * 25 + 16 = 1,516, as the paper counts.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        sources = np.concatenate(TABLE_I)
        fan_in = np.array([len(row) for row in TABLE_I])
        targets = np.repeat(np.arange(len(TABLE_I)), fan_in)

        def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-1, maxval=1) / np.sqrt(25 * fan_in[targets], dtype=np.float32)

        connected = self.param("kernel", uniform, (5, 5, 1, len(sources)))
        bias = self.param("bias", nn.initializers.zeros, (len(TABLE_I),))
        kernel = jnp.zeros((5, 5, 6, len(TABLE_I))).at[:, :, sources, targets].set(connected[:, :, 0])
        return add(conv2d(x.astype(self.dtype), kernel.astype(self.dtype)), bias)


class LeNet(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    activation: after C1, C3, C5 and F6. pooling: of S2 and S4; "average" is nearer to 1998.
    partial_c3: connect C3 by table I (1,516 parameters) instead of fully (2,416).
    image_size: C5 spans all of S4's map, so images must have this size, at least 16; the paper puts the 28x28 digits
    of MNIST into 32x32. num_classes: 0 drops the head, the output is then F6. Named maps: `c1`, `s2`, `c3`, `s4`, `c5`.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("output",)
    layer_decay: ClassVar[LayerOrder] = "modules"

    activation: Literal["tanh", "relu"] = "tanh"
    pooling: Literal["average", "max"] = "average"
    partial_c3: bool = False
    image_size: int | tuple[int, int] = 32
    in_channels: int = 1
    num_classes: int = 10
    dtype: Any = jnp.float32

    def setup(self) -> None:
        def conv(features: int, size: int | tuple[int, int]) -> Conv:
            return Conv(features, size, kernel_init=linear_uniform, dtype=self.dtype)

        def dense(features: int) -> Dense:
            return Dense(features, kernel_init=linear_uniform, dtype=self.dtype)

        self.squash = {"tanh": nn.tanh, "relu": nn.relu}[self.activation]
        self.pool = {"average": AveragePool, "max": MaxPool}[self.pooling](2, 2)
        self.c1 = conv(6, 5)
        self.c3 = PartialConv(self.dtype) if self.partial_c3 else conv(16, 5)
        height, width = (((side - 4) // 2 - 4) // 2 for side in as_pair(self.image_size))  # of S4
        self.c5 = conv(120, (height, width))
        self.f6 = dense(84)
        if self.num_classes:
            self.output = dense(self.num_classes)

    @property
    def map_names(self) -> tuple[str, ...]:
        return "c1", "s2", "c3", "s4", "c5"

    @with_maps
    def features(self, images: jax.Array, *, train: bool = False) -> NamedMaps:
        """The input of the head, F6: `(B, 84)`."""
        check_images(images, self.in_channels, at_least=16)
        check_image_size(images, self.image_size)
        x = yield "c1", self.squash(self.c1(images))
        x = yield "s2", self.pool(x)
        x = yield "c3", self.squash(self.c3(x))
        x = yield "s4", self.pool(x)
        x = yield "c5", self.squash(self.c5(x))  # (B, 1, 1, 120)
        return self.squash(self.f6(x[:, 0, 0]))

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        x = self.features(images, train=train, maps=maps)
        return self.output(x).astype(jnp.float32) if self.num_classes and maps is None else x


VARIANTS = {"lenet5": (LeNet, {})}

register(VARIANTS)
