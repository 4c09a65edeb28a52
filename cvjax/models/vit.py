"""ViT: An Image is Worth 16x16 Words (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929).

DeiT without distillation (Touvron et al. 2021, https://arxiv.org/abs/2012.12877) is the same network, trained by
another recipe.

Deviations: parameters carry timm's names (`blocks/0/attn/qkv`), so published weights map one to one. The patch
embedding is written as a linear map of flattened patches, the same numbers as a strided convolution, so that MAE can
embed visible patches only. Queries, keys and values start as one Xavier matrix of D x 3D, as in MAE's code, where the
official JAX code draws three of D x D, whose range is sqrt(2) larger. Average pooling follows timm: mean of the patch
tokens, then `fc_norm`, and no `norm`; without a class token it is Beyer et al.'s
(2022, https://arxiv.org/abs/2205.01580) and I-JEPA's: `norm`, then the mean.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.dense import Dense
from cvjax.layers.feature_maps import FeatureMaps
from cvjax.layers.initializers import head_normal, token_normal, xavier_uniform
from cvjax.layers.remat import Remat
from cvjax.layers.transformer import Blocks
from cvjax.models.images import as_pair, check_images
from cvjax.ops.attention import Implementation
from cvjax.ops.linear import add
from cvjax.ops.masking import gather_tokens
from cvjax.ops.patches import patch_grid, patchify
from cvjax.ops.position import resize_positions, sincos_2d


class PatchEmbed(nn.Module):
    """Linear embedding of flattened patches `(B, L, p*p*C) -> (B, L, D)` (eq. 1)."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, patches: jax.Array) -> jax.Array:
        return Dense(self.width, kernel_init=xavier_uniform, dtype=self.dtype, name="proj")(patches)


class VisionTransformer(nn.Module):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    image_size: the size positions are made for; another input size interpolates them.
    pool: "token" reads the class token, "avg" the mean of the patch tokens.
    class_token: False for patch tokens alone, with pool "avg".
    position: "learned", or "sincos2d" (fixed, no parameters).
    num_classes: 0 drops the head, the output is then `features`.
    layer_scale: start value of the per-channel residual scale, None for none.
    drop_path: stochastic-depth rate of the last block, active with `train=True` (stream `dropout`).
    remat, scan: see `cvjax.layers.transformer.Blocks`. attention: see `cvjax.ops.attention.attend`.
    Named maps, to read only: the patch tokens after each block, `blocks/0` and so on.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    in_channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    pool: Literal["token", "avg"] = "token"
    class_token: bool = True
    position: Literal["learned", "sincos2d"] = "learned"
    qk_norm: bool = False
    layer_scale: float | None = None
    drop_path: float = 0.0
    remat: Remat = "none"
    scan: bool = False
    dtype: Any = jnp.float32
    attention: Implementation = "auto"

    def setup(self) -> None:
        if self.pool == "token" and not self.class_token:
            raise ValueError("pool 'token': it must be 'avg' without a class token")
        self.grid = patch_grid(*as_pair(self.image_size), self.patch_size)
        self.maps = FeatureMaps()
        self.patch_embed = PatchEmbed(self.width, self.dtype)
        if self.class_token:
            self.cls_token = self.param("cls_token", token_normal, (1, 1, self.width))
        if self.position == "learned":
            length = self.prefix + self.grid[0] * self.grid[1]
            self.pos_embed = self.param("pos_embed", token_normal, (1, length, self.width))
        self.blocks = Blocks(self.depth, self.heads, self.mlp_ratio, self.qk_norm, self.layer_scale, self.drop_path,
                             self.remat, self.scan, self.dtype, self.attention)
        norm_name = "norm" if self.normed_tokens else "fc_norm"
        self.final_norm = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=norm_name)
        if self.num_classes:
            self.head = Dense(self.num_classes, kernel_init=head_normal, dtype=self.dtype)

    @property
    def prefix(self) -> int:
        """How many tokens come before those of the patches: the class token, or none."""
        return int(self.class_token)

    @property
    def normed_tokens(self) -> bool:
        """Whether the last norm is of the tokens, not of their mean."""
        return self.pool == "token" or not self.class_token

    def positions(self, grid: tuple[int, int]) -> jax.Array:
        """Position embedding `(1, prefix + L, D)` of the class token, if any, and of a grid of patches."""
        if self.position == "sincos2d":
            patches = sincos_2d(self.width, grid, trained_grid=self.grid)
            return jnp.concatenate([jnp.zeros((self.prefix, self.width)), patches])[None]
        patches = resize_positions(self.pos_embed[0, self.prefix:], self.grid, grid)
        return jnp.concatenate([self.pos_embed[:, :self.prefix], patches[None]], axis=1)

    def tokens(self, images: jax.Array, keep: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """All tokens after the last block `(B, prefix + L, D)`, class token first; normalised if `normed_tokens`.

        keep: int `(B, K)`, positions of the only patches to look at; the others are never embedded.
        """
        return self.block_tokens(images, keep, train=train)[-1]

    def block_tokens(self, images: jax.Array, keep: jax.Array | None = None, *, train: bool = False) -> list[jax.Array]:
        """What `tokens` gives, after every block; under jit only what is used is computed."""
        check_images(images, self.in_channels)
        positions = self.positions(patch_grid(*images.shape[1:3], self.patch_size))
        patches, patch_positions = patchify(images, self.patch_size), positions[:, self.prefix:]
        if keep is not None:
            patches = gather_tokens(patches, keep)
            patch_positions = patch_positions[0][keep]  # (B, K, D)
        x = add(self.patch_embed(patches), patch_positions)
        if self.class_token:
            cls = jnp.broadcast_to(self.cls_token + positions[:, :1], (x.shape[0], 1, self.width)).astype(self.dtype)
            x = jnp.concatenate([cls, x], axis=1)
        outputs = self.blocks(x, train=train)
        if keep is None:  # some of the patches are no map
            grid = patch_grid(*images.shape[1:3], self.patch_size)
            for i, tokens in enumerate(outputs):
                self.maps(f"blocks/{i}", tokens[:, self.prefix:].reshape(-1, *grid, self.width))
        return [self.final_norm(x) for x in outputs] if self.normed_tokens else outputs

    def features(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """What comes before the head: `(B, D)`."""
        x = self.tokens(images, train=train)
        if self.pool == "token":
            return x[:, 0]
        mean = x[:, self.prefix:].mean(axis=1)
        return mean if self.normed_tokens else self.final_norm(mean)

    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        x = self.features(images, train=train)
        return self.head(x).astype(jnp.float32) if self.num_classes else x


TINY = dict(width=192, depth=12, heads=3)
SMALL = dict(width=384, depth=12, heads=6)
BASE = dict(width=768, depth=12, heads=12)
LARGE = dict(width=1024, depth=24, heads=16)
HUGE = dict(width=1280, depth=32, heads=16)

VARIANTS = {
    f"vit_{size}_patch{patch}_{image}": (VisionTransformer, dict(dims, patch_size=patch, image_size=image))
    for size, dims, patch, image in (
        ("tiny", TINY, 16, 224), ("tiny", TINY, 16, 384),
        ("small", SMALL, 8, 224), ("small", SMALL, 16, 224), ("small", SMALL, 16, 384),
        ("small", SMALL, 32, 224), ("small", SMALL, 32, 384),
        ("base", BASE, 8, 224), ("base", BASE, 16, 224), ("base", BASE, 16, 384),
        ("base", BASE, 32, 224), ("base", BASE, 32, 384),
        ("large", LARGE, 14, 224), ("large", LARGE, 16, 224), ("large", LARGE, 16, 384),
        ("large", LARGE, 32, 224), ("large", LARGE, 32, 384),
        ("huge", HUGE, 14, 224),
    )
}
VARIANTS |= {
    f"deit_{size}_patch16_{image}": (VisionTransformer, dict(dims, patch_size=16, image_size=image))
    for size, dims, image in (("tiny", TINY, 224), ("small", SMALL, 224), ("base", BASE, 224), ("base", BASE, 384))
}
# Without a class token; timm's base has 16 heads here. Huge is I-JEPA's (Assran et al. 2023,
# https://arxiv.org/abs/2301.08243).
VARIANTS |= {
    f"vit_{size}_patch{patch}_gap_224": (VisionTransformer, dict(dims, patch_size=patch, pool="avg", class_token=False))
    for size, dims, patch in (("base", BASE | dict(heads=16), 16), ("huge", HUGE, 14))
}
