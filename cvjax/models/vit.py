"""ViT: An Image is Worth 16x16 Words (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929).

DeiT (Touvron et al. 2021, https://arxiv.org/abs/2012.12877) is the same network, trained by another recipe; when it is
distilled, it has a second token with a head of its own. What later papers changed is a field each; their names are in
`cvjax.models.vit_names`.

Deviations: parameters carry timm's names (`blocks/0/attn/qkv`), so published weights map one to one. The patch
embedding is written as a linear map of flattened patches, the same numbers as a strided convolution, so that MAE can
embed visible patches only. Average pooling follows timm: mean of the patch tokens, then `fc_norm`, and no `norm`;
without a class token it is Beyer et al.'s (2022, https://arxiv.org/abs/2205.01580) and I-JEPA's: `norm`, then the mean.
"""

from collections.abc import Collection
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.attention import QKVBias
from cvjax.layers.attention_pool import AttentionPool
from cvjax.layers.dense import Dense
from cvjax.layers.feature_maps import check_names
from cvjax.layers.initializers import TRANSFORMER_INITS, WeightInit, normal, xavier_uniform
from cvjax.layers.mlp import Activation
from cvjax.layers.remat import Remat
from cvjax.layers.transformer import Blocks
from cvjax.models.image_model import ImageModel, LayerOrder
from cvjax.models.images import as_pair, check_images, size_of
from cvjax.models.registry import register
from cvjax.ops.attention import Implementation
from cvjax.ops.linear import add
from cvjax.ops.masking import gather_tokens
from cvjax.ops.patches import patch_grid, patchify
from cvjax.ops.position import PositionResize, resize_positions, rotary_angles, sincos_2d


class PatchEmbed(nn.Module):
    """Linear embedding of flattened patches `(B, L, p*p*C) -> (B, L, D)` (eq. 1)."""

    width: int
    dtype: Any = jnp.float32
    kernel_init: Any = xavier_uniform
    use_bias: bool = True

    @nn.compact
    def __call__(self, patches: jax.Array) -> jax.Array:
        return Dense(self.width, self.use_bias, kernel_init=self.kernel_init, dtype=self.dtype, name="proj")(patches)


class VisionTransformer(ImageModel):
    """Images float `(B, H, W, C)`, already normalised, to logits float32 `(B, num_classes)`.

    image_size: the size that positions are made for; they are interpolated for other sizes.
    pool: "token" reads the class token, "avg" the mean of the patch tokens, "map" what one learned query finds in them
        (Zhai et al. 2022, https://arxiv.org/abs/2106.04560; SigLIP), "token+avg" the class token and that mean, side by
        side (the linear classifiers of DINOv2).
    class_token: False for only patch tokens and registers, with pool "avg" or "map".
    distilled: a second token with a head of its own, as DeiT has it for a teacher's answers; the logits are the mean of
        both heads'.
    registers: so many more tokens, which nothing reads (Darcet et al. 2024, https://arxiv.org/abs/2309.16588). They
        stand between the other tokens and the patches.
    prefix_positions: whether the tokens before the patches have positions, too; not in DeiT III.
    pre_norm: a norm before the first block, and patches embedded without a bias, as in CLIP.
    fc_norm: whether the last norm comes after pooling, not before; None: with pool "avg" and a class token.
    position: "learned"; or fixed, without parameters: "sincos2d" as in MAE, "sincos2d_moco" as in MoCo v3 and
        big_vision (see `cvjax.ops.position.sincos_2d`); or "rotary" as in DINOv3: nothing is added to the patches, but
        their queries and keys are turned in every block (see `cvjax.ops.position.rotary_angles`).
    representation_size: width of a linear layer with tanh between the features and the head, which are then `features`
        (the head of pre-training, sec. 3.2); 0 for none.
    weight_init: how the kernels start, as in the code of MAE, timm (DeiT, DINO) or the official JAX one; see
        `cvjax.layers.initializers`.
    position_resize: how learned positions are interpolated, see `cvjax.ops.position.resize_positions`; None: as timm.
    num_classes: 0 drops the head, the output is then `features`.
    layer_scale: start value of the per-channel residual scale; None: no scale.
    qkv_bias, activation, norm_epsilon: see `cvjax.layers.transformer.Block`.
    drop_path: stochastic-depth rate of the last block, active with `train=True` (stream `dropout`).
    remat, scan: see `cvjax.layers.transformer.Blocks`. attention: see `cvjax.ops.attention.attend`.
    Named maps, to read only: the patch tokens after each block, `blocks/0` and so on.
    """

    output_modules: ClassVar[tuple[str, ...]] = ("head", "head_dist")
    layer_decay: ClassVar[LayerOrder] = "blocks"

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    in_channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    pool: Literal["token", "avg", "map", "token+avg"] = "token"
    class_token: bool = True
    distilled: bool = False
    registers: int = 0
    prefix_positions: bool = True
    pre_norm: bool = False
    fc_norm: bool | None = None
    position: Literal["learned", "sincos2d", "sincos2d_moco", "rotary"] = "learned"
    representation_size: int = 0
    weight_init: WeightInit = "mae"
    position_resize: PositionResize | None = None
    qk_norm: bool = False
    qkv_bias: QKVBias = True
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-6
    layer_scale: float | None = None
    drop_path: float = 0.0
    remat: Remat = "none"
    scan: bool = False
    dtype: Any = jnp.float32
    attention: Implementation = "auto"

    def setup(self) -> None:
        if self.pool.startswith("token") and not self.class_token:
            raise ValueError(f"pool {self.pool!r}: it must be 'avg' or 'map' without a class token")
        if self.distilled and (self.pool != "token" or self.representation_size or self.fc_norm):
            raise ValueError(f"distilled with pool {self.pool!r}, representation_size {self.representation_size} and "
                             f"fc_norm {self.fc_norm}: they must be 'token', 0 and None")
        self.grid = patch_grid(*as_pair(self.image_size), self.patch_size)
        init = TRANSFORMER_INITS[self.weight_init]
        self.patch_embed = PatchEmbed(self.width, self.dtype, init.patches, use_bias=not self.pre_norm)
        counts = {"cls_token": int(self.class_token), "dist_token": int(self.distilled), "reg_token": self.registers}
        self.prefix_tokens = [self.param(name, normal, (1, count, self.width))
                              for name, count in counts.items() if count]
        if self.position == "learned":
            length = self.placed_prefix + self.grid[0] * self.grid[1]
            self.pos_embed = self.param("pos_embed", normal, (1, length, self.width))
        if self.pre_norm:
            self.norm_pre = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype)
        self.blocks = Blocks(self.depth, self.heads, self.mlp_ratio, self.qk_norm, self.layer_scale, self.drop_path,
                             self.remat, self.scan, self.dtype, self.attention, init, self.qkv_bias, self.activation,
                             self.norm_epsilon)
        norm_name = "norm" if self.normed_tokens else "fc_norm"
        self.final_norm = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name=norm_name)
        if self.pool == "map":
            self.attn_pool = AttentionPool(self.heads, self.mlp_ratio, self.dtype, init, self.activation,
                                           self.norm_epsilon)
        if self.representation_size:
            self.pre_logits = Dense(self.representation_size, dtype=self.dtype)
        if self.num_classes:
            self.head = Dense(self.num_classes, kernel_init=init.head, dtype=self.dtype)
            if self.distilled:
                self.head_dist = Dense(self.num_classes, kernel_init=init.head, dtype=self.dtype)

    @property
    def prefix(self) -> int:
        """The number of tokens before those of the patches: the class token, if any, is the first."""
        return self.class_token + self.distilled + self.registers

    @property
    def placed_prefix(self) -> int:
        """How many of these have positions: all or none."""
        return self.prefix if self.prefix_positions else 0

    @property
    def map_names(self) -> tuple[str, ...]:
        return tuple(f"blocks/{i}" for i in range(self.depth))

    @property
    def normed_tokens(self) -> bool:
        """Whether the last norm is applied to the tokens, not to their mean."""
        return not (self.pool == "avg" and self.class_token) if self.fc_norm is None else not self.fc_norm

    def positions(self, grid: tuple[int, int]) -> jax.Array:
        """Position embedding `(1, placed_prefix + L, D)` of the tokens before the patches and of a grid of patches."""
        first = self.placed_prefix
        if self.position == "rotary":
            return jnp.zeros((1, first + grid[0] * grid[1], self.width))
        if self.position != "learned":
            patches = sincos_2d(self.width, grid, trained_grid=self.grid, moco=self.position == "sincos2d_moco")
            return jnp.concatenate([jnp.zeros((first, self.width)), patches])[None]
        patches = resize_positions(self.pos_embed[0, first:], self.grid, grid, self.position_resize or "timm")
        return jnp.concatenate([self.pos_embed[:, :first], patches[None]], axis=1)

    def angles(self, images: jax.Array, keep: jax.Array | None = None) -> jax.Array | None:
        """What turns queries and keys, `(1 or B, prefix + L, D / heads / 2)`; None unless positions are rotary.

        The tokens before the patches are not turned. keep: see `tokens`.
        """
        if self.position != "rotary":
            return None
        patches = jnp.asarray(rotary_angles(self.width // self.heads, patch_grid(*size_of(images), self.patch_size)))
        patches = patches[None] if keep is None else patches[keep]
        return jnp.pad(patches, ((0, 0), (self.prefix, 0), (0, 0)))

    def tokens(self, images: jax.Array, keep: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """All tokens after the last block `(B, prefix + L, D)`, class token first; normalised if `normed_tokens`.

        keep: int `(B, K)`, positions of the only patches to look at; the others are never embedded.
        """
        return self.block_tokens(images, keep, train=train)[-1]

    def block_tokens(self, images: jax.Array, keep: jax.Array | None = None, *, train: bool = False) -> list[jax.Array]:
        """The result of `tokens` after every block; under jit, only the used ones are computed."""
        outputs = self.blocks(self.embed(images, keep), train=train, angles=self.angles(images, keep))
        return [self.final_norm(x) for x in outputs] if self.normed_tokens else outputs

    def embed(self, images: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """The input of the first block (eq. 1), `(B, prefix + L, D)`; keep: see `tokens`."""
        check_images(images, self.in_channels)
        positions = self.positions(patch_grid(*size_of(images), self.patch_size))
        patches, patch_positions = patchify(images, self.patch_size), positions[:, self.placed_prefix:]
        if keep is not None:
            patches = gather_tokens(patches, keep)
            patch_positions = patch_positions[0][keep]  # (B, K, D)
        x = add(self.patch_embed(patches), patch_positions)
        if self.prefix:
            first = jnp.concatenate(self.prefix_tokens, axis=1)
            first = first + positions[:, :self.prefix] if self.prefix_positions else first
            first = jnp.broadcast_to(first, (x.shape[0], self.prefix, self.width)).astype(self.dtype)
            x = jnp.concatenate([first, x], axis=1)
        return self.norm_pre(x) if self.pre_norm else x

    def patch_maps(self, images: jax.Array, names: Collection[str], *, train: bool = False) -> dict[str, jax.Array]:
        """The named maps; no block after the last of them is computed or made."""
        check_names(self, names)
        wanted = [(i, name) for i, name in enumerate(self.map_names) if name in names]
        outputs = self.blocks(self.embed(images), train=train, count=wanted[-1][0] + 1,
                              angles=self.angles(images)) if wanted else []
        grid = patch_grid(*size_of(images), self.patch_size)
        return {name: outputs[i][:, self.prefix:].reshape(-1, *grid, self.width) for i, name in wanted}

    def features(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """The input of the head: `(B, D)`, or `(B, 2D)` of pool "token+avg"; of two heads, the mean of their inputs."""
        x = self.tokens(images, train=train)
        if self.pool == "token":
            x = x[:, :2].mean(axis=1) if self.distilled else x[:, 0]
        elif self.pool == "map":
            x = self.attn_pool(x[:, self.prefix:])
        else:
            first, mean = x[:, 0], x[:, self.prefix:].mean(axis=1)
            x = mean if self.pool == "avg" else jnp.concatenate([first, mean], axis=-1)
        x = x if self.normed_tokens else self.final_norm(x)
        return jnp.tanh(self.pre_logits(x)) if self.representation_size else x

    def both_logits(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Logits float32 `(B, num_classes)` of both heads of a distilled network: that of the class token, which learns
        the true labels, and that of the distillation token, which learns a teacher's (DeiT, sec. 4)."""
        x = self.tokens(images, train=train)
        return self.head(x[:, 0]).astype(jnp.float32), self.head_dist(x[:, 1]).astype(jnp.float32)

    def __call__(self, images: jax.Array, *, train: bool = False, maps: Collection[str] | None = None
                 ) -> jax.Array | dict[str, jax.Array]:
        if maps is not None:
            return self.patch_maps(images, maps, train=train)
        if self.distilled and self.num_classes:
            by_class, by_teacher = self.both_logits(images, train=train)
            return (by_class + by_teacher) / 2
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
    f"deit_{size}_patch16_{image}": (VisionTransformer, dict(dims, patch_size=16, image_size=image, weight_init="timm"))
    for size, dims, image in (("tiny", TINY, 224), ("small", SMALL, 224), ("base", BASE, 224), ("base", BASE, 384))
}
# Without a class token; timm's base has 16 heads here. Huge is I-JEPA's (Assran et al. 2023,
# https://arxiv.org/abs/2301.08243).
VARIANTS |= {
    f"vit_{size}_patch{patch}_gap_224": (VisionTransformer, dict(dims, patch_size=patch, pool="avg", class_token=False))
    for size, dims, patch in (("base", BASE | dict(heads=16), 16), ("huge", HUGE, 14))
}

register(VARIANTS)
