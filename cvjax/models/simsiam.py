"""SimSiam: Exploring Simple Siamese Representation Learning (Chen and He 2021, https://arxiv.org/abs/2011.10566).

A backbone, a projector and a predictor (sec. 3). Parameters carry the places of the layers in the authors' code, for
example `projector/3` for their `encoder.fc.3`.
Deviation: the projector's last layer has no bias. The authors' code has a bias there that does not learn, and the batch
norm after it removes it.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.dense import Dense
from cvjax.layers.initializers import linear_uniform
from cvjax.layers.norm import BatchNorm
from cvjax.models.image_model import ImageModel


class NormedMlp(nn.Module):
    """Linear layers `(B, D) -> (B, widths[-1])`, each with batch norm and ReLU but for the last one.

    normed_output: the last layer has a batch norm without scale and shift; otherwise it has a bias and no norm.
    """

    widths: tuple[int, ...]
    normed_output: bool
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i, width in enumerate(self.widths):
            is_last = i == len(self.widths) - 1
            normed = not is_last or self.normed_output
            x = Dense(width, not normed, linear_uniform, dtype=self.dtype, name=str(3 * i))(x)
            if normed:
                x = BatchNorm(affine=not is_last, axis_name=self.axis_name, dtype=self.dtype,
                              name=str(3 * i + 1))(x, train=train)
            if not is_last:
                x = nn.relu(x)
        return x


class SimSiam(ImageModel):
    """Views float `(B, V, H, W, C)`, already normalised, to predictions and projections, both float32 `(B, V, dim)`.

    backbone: a model without a head (`num_classes=0`) whose output is `(B, D)`.
    dim: width of both outputs. projector_layers, projector_hidden: number of the projector's layers, and the width of
    all but the last. predictor_hidden: width of the predictor's one hidden layer.
    Each view goes through the network by itself, so batch norms see one view of every image at a time, as in the
    authors' code; their running statistics move once for each view.
    dtype: compute type of the two MLPs; the backbone has its own.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("projector", "predictor")

    backbone: ImageModel
    dim: int = 2048
    projector_layers: int = 3
    projector_hidden: int = 2048
    predictor_hidden: int = 512
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        widths = (self.projector_hidden,) * (self.projector_layers - 1) + (self.dim,)
        self.projector = NormedMlp(widths, True, self.axis_name, self.dtype)
        self.predictor = NormedMlp((self.predictor_hidden, self.dim), False, self.axis_name, self.dtype)

    def features(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """The backbone's features `(B, D)` of images `(B, H, W, C)`."""
        return self.backbone(images, train=train)

    def __call__(self, views: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        predictions, projections = [], []
        for view in range(views.shape[1]):
            projection = self.projector(self.features(views[:, view], train=train), train=train)
            projections.append(projection.astype(jnp.float32))
            predictions.append(self.predictor(projection, train=train).astype(jnp.float32))
        return jnp.stack(predictions, axis=1), jnp.stack(projections, axis=1)
