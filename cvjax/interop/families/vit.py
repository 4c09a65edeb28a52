"""ViT's names: timm's, which the authors of DeiT and MAE use too, torchvision's, and those of transformers."""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from cvjax.interop.families.registry import register
from cvjax.interop.families.vit_transformers import vit_transformers
from cvjax.interop.naming import PATCHES, TORCH, Family, Naming, Rule, linear
from cvjax.models.images import as_pair
from cvjax.models.vit import VisionTransformer
from cvjax.ops.patches import patch_grid
from cvjax.ops.position import resize_positions, sincos_2d

TRANSFORMER = (Rule(r"patch_embed/proj/kernel", "patch_embed/proj/weight", PATCHES), *TORCH)


def stored_positions(width: int, grid: tuple[int, int], prefix: int = 1, moco: bool = False) -> np.ndarray:
    """Fixed positions as files hold them, with zeros for the tokens before the patches: `(1, prefix + L, width)`."""
    return np.concatenate([np.zeros((prefix, width), np.float32), sincos_2d(width, grid, moco=moco)])[None]


def _grid(model: VisionTransformer) -> tuple[int, int]:
    return patch_grid(*as_pair(model.image_size), model.patch_size)


def _constants(name: str) -> Callable[[VisionTransformer], dict[str, np.ndarray]]:
    """Fixed positions, stored under the `name` that a publisher gives to learned positions."""
    return lambda model: {} if model.position in ("learned", "rotary") else {
        name: stored_positions(model.width, _grid(model), model.placed_prefix, model.position == "sincos2d_moco")}


def _fit_positions(positions: np.ndarray, shape: tuple[int, ...], model: VisionTransformer,
                   trained: tuple[int, int] | None) -> np.ndarray:
    """Resize positions `(1, placed_prefix + L, D)` to the model's grid.

    trained: height and width of the images that they were learnt from. None for squares; grids that cannot be that are
    returned as they are.
    """
    prefix = model.placed_prefix
    side = math.isqrt(positions.shape[1] - prefix)
    grid = (side, side) if trained is None else patch_grid(*trained, model.patch_size)
    if math.prod(grid) != positions.shape[1] - prefix:
        return positions
    patches = resize_positions(jnp.asarray(positions[0, prefix:]), grid, _grid(model), model.position_resize or "timm")
    return np.concatenate([positions[:, :prefix], np.asarray(patches)[None]], axis=1)


# timm's other ViT, of EVA (`timm.models.eva.Eva`), which has rotary positions and biases of only queries and values.
_EVA = Naming((Rule(r"(blocks/\d+)/ls([12])/gamma", r"\1/gamma_\2"),
               Rule(r"(blocks/\d+/attn)/qkv/([qv]_bias)", r"\1/\2"), *TRANSFORMER), constants=_constants("pos_embed"))


def _torchvision(first: str, second: str) -> Naming:
    """torchvision's names, where the layers of an MLP are called `first` and `second`."""
    block = r"encoder/layers/encoder_layer_\1"
    rules = (
        Rule("patch_embed/proj/kernel", "conv_proj/weight", PATCHES),
        Rule("patch_embed/proj/bias", "conv_proj/bias"),
        Rule("cls_token", "class_token"),
        Rule("pos_embed", "encoder/pos_embedding"),
        *linear(r"blocks/(\d+)/attn/qkv", f"{block}/self_attention/in_proj", "_weight", "_bias"),
        *linear(r"blocks/(\d+)/attn/proj", f"{block}/self_attention/out_proj"),
        *linear(r"blocks/(\d+)/mlp/fc1", f"{block}/mlp/{first}"),
        *linear(r"blocks/(\d+)/mlp/fc2", f"{block}/mlp/{second}"),
        Rule(r"blocks/(\d+)/norm([12])/scale", rf"{block}/ln_\2/weight"),
        Rule(r"blocks/(\d+)/norm([12])/bias", rf"{block}/ln_\2/bias"),
        *TORCH,
    )
    renames = ((r"norm/", "encoder/ln/"), (r"head/", "heads/head/"))
    return Naming(rules, renames, _constants("encoder.pos_embedding"))


def _fit_matrix(positions: np.ndarray, shape: tuple[int, ...], model: VisionTransformer,
                trained: tuple[int, int] | None) -> np.ndarray:
    """The same for positions `(placed_prefix + L, D)`."""
    return _fit_positions(positions[None], (1, *shape), model, trained)[0] if positions.ndim == 2 else positions


# The heads and their norm belong to a task, so another task starts them fresh. Who takes the mean of the patches has no
# use for attention pooling, and nobody for an MAE's decoder. torchvision's published files have the names that it used
# before version 0.14. transformers' have a pooler that classifiers do not look at, and beside CLIP's tower another.
_TIMM = Family(
    namings={"timm": Naming(TRANSFORMER, constants=_constants("pos_embed"))},
    fresh=r"(head|head_dist|fc_norm|heads\.head|(cls_|distillation_)?classifier|visual_projection)\.(weight|bias)",
    ignored=r"(head|head_dist|fc_norm|norm|attn_pool|heads|encoder\.ln)\..+|decoder_.+|mask_token"
            r"|((cls_|distillation_)?classifier|visual_projection|text_projection|pooler|decoder|text_model)\..+"
            r"|logit_(scale|bias)|embeddings\.(mask_token|position_ids)",
    resized={r"pos_embed|encoder\.pos_embedding|embeddings\.position_embeddings": _fit_positions,
             r"embeddings\.position_embedding\.weight": _fit_matrix},
)

_TORCHVISIONS = {"torchvision": _torchvision("0", "3"), "torchvision-0.13": _torchvision("linear_1", "linear_2")}
# torchvision's ViT has none of what these fields can change.
_LATER = ("class_token", "distilled", "registers", "prefix_positions", "pre_norm", "fc_norm", "qk_norm", "qkv_bias",
          "activation", "norm_epsilon", "layer_scale")


def _vit(model: VisionTransformer) -> Family:
    if model.position == "rotary" or model.qkv_bias == "qv":
        there = vit_transformers(model, lambda model: {}) if model.position == "rotary" else {}
        return dataclasses.replace(_TIMM, namings={"timm": _EVA, **there})
    usual = {field.name: field.default for field in dataclasses.fields(model)}
    later = model.pool in ("map", "token+avg") or any(getattr(model, name) != usual[name] for name in _LATER)
    return dataclasses.replace(_TIMM, namings={
        **_TIMM.namings, **({} if later else _TORCHVISIONS),
        **vit_transformers(model, _constants("embeddings.position_embeddings"))})


register(VisionTransformer, _vit)
