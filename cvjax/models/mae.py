"""MAE: Masked Autoencoders Are Scalable Vision Learners (He et al. 2022, https://arxiv.org/abs/2111.06377).

A ViT encoder sees the visible patches only; a narrow, shallow decoder sees their codes and a learned token for each
masked patch, and predicts the pixels. The encoder is `cvjax.models.vit`, so its parameters (`params["encoder"]`) are
those of a ViT. Deviations: visible patches are picked before they are embedded, which gives the same numbers for a
quarter of the work. Positions are constants, not parameters. `tiny` and `small` are not in the paper; their dimensions
are DeiT's.
"""

import math
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.dense import Dense
from cvjax.layers.initializers import normal, xavier_uniform
from cvjax.layers.remat import Remat
from cvjax.layers.transformer import Blocks
from cvjax.models.image_model import ImageModel
from cvjax.models.images import as_pair, check_image_size, check_images
from cvjax.models.registry import register
from cvjax.models.vit import BASE, HUGE, LARGE, SMALL, TINY, VisionTransformer
from cvjax.ops.attention import Implementation
from cvjax.ops.masking import Masking, gather_tokens, random_masking
from cvjax.ops.patches import patch_grid
from cvjax.ops.position import sincos_2d


class MAEOutput(NamedTuple):
    """The outputs of a forward pass, per patch in row-major order."""

    prediction: jax.Array  # float32 (B, L, p*p*C), in the space of the target
    mask: jax.Array  # float32 (B, L), 1 where the patch was hidden from the encoder


class Decoder(nn.Module):
    """Encoder tokens of the visible patches to a pixel prediction for every patch (sec. 3, "MAE decoder")."""

    grid: tuple[int, int]
    patch_dim: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    remat: Remat = "none"
    scan: bool = False
    dtype: Any = jnp.float32
    attention: Implementation = "auto"

    @nn.compact
    def __call__(self, latent: jax.Array, restore: jax.Array, *, train: bool = False) -> jax.Array:
        """latent `(B, 1 + K, D)` with the class token first, restore `(B, L)` -> `(B, L, patch_dim)`."""
        def linear(features: int, name: str) -> Dense:
            return Dense(features, kernel_init=xavier_uniform, dtype=self.dtype, name=name)

        batch, length = restore.shape
        x = linear(self.width, "embed")(latent)
        mask_token = self.param("mask_token", normal, (1, 1, self.width))
        hidden = jnp.broadcast_to(mask_token, (batch, length + 1 - x.shape[1], self.width)).astype(self.dtype)
        patches = gather_tokens(jnp.concatenate([x[:, 1:], hidden], axis=1), restore)
        patches = patches + sincos_2d(self.width, self.grid).astype(self.dtype)
        x = jnp.concatenate([x[:, :1], patches], axis=1)
        x = Blocks(self.depth, self.heads, self.mlp_ratio, remat=self.remat, scan=self.scan, dtype=self.dtype,
                   attention=self.attention, name="blocks")(x, train=train)[-1]
        x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        return linear(self.patch_dim, "pred")(x)[:, 1:].astype(jnp.float32)


class MaskedAutoencoder(ImageModel):
    """Images float `(B, H, W, C)` of `image_size`, already normalised, and noise `(B, L)` to `MAEOutput`.

    mask_ratio: share of the patches hidden from the encoder, `int(L * (1 - mask_ratio))` stay visible.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("pred",)

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    in_channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mask_ratio: float = 0.75
    remat: Remat = "none"
    scan: bool = False
    dtype: Any = jnp.float32
    attention: Implementation = "auto"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid(*as_pair(self.image_size), self.patch_size)

    @nn.nowrap
    def vit(self, **overrides: Any) -> VisionTransformer:
        """The encoder as a separate ViT, for probing and fine-tuning; `overrides` are ViT fields."""
        fields: dict[str, Any] = dict(
            image_size=self.image_size, patch_size=self.patch_size, in_channels=self.in_channels, width=self.width,
            depth=self.depth, heads=self.heads, mlp_ratio=self.mlp_ratio, num_classes=0, position="sincos2d",
            remat=self.remat, scan=self.scan, dtype=self.dtype, attention=self.attention)
        return VisionTransformer(**(fields | overrides))

    def setup(self) -> None:
        self.encoder = self.vit()
        self.decoder = Decoder(self.grid, self.patch_size**2 * self.in_channels, self.decoder_width,
                               self.decoder_depth, self.decoder_heads, self.mlp_ratio, self.remat, self.scan,
                               self.dtype, self.attention)

    def encode(self, images: jax.Array, noise: jax.Array, *, train: bool = False) -> tuple[jax.Array, Masking]:
        """Latent `(B, 1 + K, D)` of the class token and the visible patches, and the masking.

        Raises ValueError where images or noise do not fit the model's grid of patches.
        """
        check_images(images, self.in_channels)
        check_image_size(images, self.image_size)
        expected = images.shape[0], math.prod(self.grid)
        if noise.shape != expected:
            raise ValueError(f"noise has shape {noise.shape}: a number for each patch is {expected}")
        masking = random_masking(noise, self.mask_ratio)
        return self.encoder.tokens(images, masking.keep, train=train), masking

    def features(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Class-token features `(B, D)` of whole images of any size, nothing masked."""
        return self.encoder.features(images, train=train)

    def __call__(self, images: jax.Array, noise: jax.Array, *, train: bool = False) -> MAEOutput:
        latent, masking = self.encode(images, noise, train=train)
        return MAEOutput(self.decoder(latent, masking.restore, train=train), masking.mask)


VARIANTS = {
    "mae_vit_tiny_patch16": (MaskedAutoencoder, dict(TINY, patch_size=16)),
    "mae_vit_small_patch16": (MaskedAutoencoder, dict(SMALL, patch_size=16)),
    "mae_vit_base_patch16": (MaskedAutoencoder, dict(BASE, patch_size=16)),
    "mae_vit_large_patch16": (MaskedAutoencoder, dict(LARGE, patch_size=16)),
    "mae_vit_huge_patch14": (MaskedAutoencoder, dict(HUGE, patch_size=14)),
}

register(VARIANTS)
