"""DINO: Emerging Properties in Self-Supervised Vision Transformers (Caron et al. 2021, https://arxiv.org/abs/2104.14294).

A backbone and a projection head; the student and its teacher are two sets of parameters of this one network.
Parameters carry the authors' names (`backbone/...`, `head/mlp/0`, `head/last_layer/weight_v`).
For the authors' network a ViT has `position_resize="dino"` and `weight_init="timm"`.
"""

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.dense import Dense
from cvjax.layers.initializers import linear_uniform, normal
from cvjax.layers.norm import BatchNorm
from cvjax.models.image_model import ImageModel
from cvjax.ops.gelu import gelu
from cvjax.ops.unit import unit_vectors


class ProjectionMlp(nn.Module):
    """Linear layers, with GELU between them, after batch norm if wanted. They are named by their place."""

    widths: tuple[int, ...]
    batch_norm: bool
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        place = 0
        for i, width in enumerate(self.widths):
            x = Dense(width, kernel_init=normal, dtype=self.dtype, name=str(place))(x)
            if i == len(self.widths) - 1:
                break
            if self.batch_norm:
                place += 1
                x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=str(place))(x, train=train)
            x = gelu(x)
            place += 2
        return x


class PrototypeLayer(nn.Module):
    """Cosines with `out_dim` prototypes `(B, D) -> (B, out_dim)`: a linear layer without bias, its weight normalised.

    norm_last_layer: every prototype has length 1; otherwise each has a learnt one (Salimans and Kingma 2016,
    https://arxiv.org/abs/1602.07868).
    """

    out_dim: int
    norm_last_layer: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        v = self.param("weight_v", linear_uniform, (x.shape[-1], self.out_dim))
        weight = unit_vectors(v, axis=0)
        if not self.norm_last_layer:
            weight = weight * self.param("weight_g", nn.initializers.ones, (1, self.out_dim))
        return x.astype(self.dtype) @ weight.astype(self.dtype)


class DINOHead(nn.Module):
    """Features `(B, D)` to logits float32 `(B, out_dim)`: an MLP, L2 normalisation, prototypes (sec. 3.1 and app. C).

    layers, hidden, bottleneck: number and widths of the MLP's layers, the last of which is the bottleneck. batch_norm:
    whether the MLP has it.
    """

    out_dim: int = 65536
    layers: int = 3
    hidden: int = 2048
    bottleneck: int = 256
    batch_norm: bool = False
    norm_last_layer: bool = True
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        widths = (self.hidden,) * (self.layers - 1) + (self.bottleneck,)
        x = ProjectionMlp(widths, self.batch_norm, self.axis_name, self.dtype, name="mlp")(x, train=train)
        x = unit_vectors(x.astype(jnp.float32), axis=-1)
        return PrototypeLayer(self.out_dim, self.norm_last_layer, self.dtype, name="last_layer")(x).astype(jnp.float32)


class DINO(ImageModel):
    """Views of one or several sizes, each float `(B, V, H, W, C)` and normalised, to logits float32 `(B, all V, K)`.

    backbone: a model without a head (`num_classes=0`) whose output is `(B, D)`. Neighbours of one size go through it
    together, so batch norms see each size by itself, as in the authors' code.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("head",)

    backbone: ImageModel
    head: DINOHead

    def features(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """The backbone's features `(B, D)` of images `(B, H, W, C)`."""
        return self.backbone(images, train=train)

    def __call__(self, views: Sequence[jax.Array], *, train: bool = False) -> jax.Array:
        features = []
        for _, alike in itertools.groupby(views, key=lambda x: x.shape[2:]):
            x = jnp.concatenate(list(alike), axis=1)
            y = self.features(x.reshape(-1, *x.shape[2:]), train=train).astype(jnp.float32)  # (B * V, D)
            features.append(y.reshape(*x.shape[:2], -1))
        features = jnp.concatenate(features, axis=1)  # (B, all V, D); images stay on the device that has them
        logits = self.head(features.reshape(-1, features.shape[-1]), train=train)
        return logits.reshape(*features.shape[:2], -1)
