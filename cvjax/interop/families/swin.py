"""Swin's names: timm's, torchvision's, the authors', which timm had at first, too, and those of transformers."""

import math

import numpy as np

from cvjax.interop.families.registry import register
from cvjax.interop.families.transformers import transformers
from cvjax.interop.families.vit import TRANSFORMER
from cvjax.interop.naming import PATCHES, TORCH, Family, Naming, Rule, linear
from cvjax.models.images import as_pair
from cvjax.models.swin import SwinTransformer
from cvjax.ops.windows import Size, relative_position_index, resize_relative_positions, shifted_window_mask

TORCHVISION = (
    Rule("patch_embed/proj/kernel", "features/0/0/weight", PATCHES),
    Rule("patch_embed/proj/bias", "features/0/0/bias"),
    *linear("(.+)/mlp/fc1", r"\1/mlp/0"),
    *linear("(.+)/mlp/fc2", r"\1/mlp/3"),
    *TORCH,
)
_PARTS = (
    Rule("patch_embed/proj/kernel", "embeddings/patch_embeddings/projection/weight", PATCHES),
    Rule("patch_embed/proj/bias", "embeddings/patch_embeddings/projection/bias"),
    *linear("(.+)/attn/qkv", r"encoder/\1/attention/self/{query,key,value}"),
    *linear("(.+)/attn/proj", r"encoder/\1/attention/output/dense"),
    Rule("(.+)/attn/relative_position_bias_table", r"encoder/\1/attention/self/relative_position_bias_table"),
    *linear("(.+)/mlp/fc1", r"encoder/\1/intermediate/dense"),
    *linear("(.+)/mlp/fc2", r"encoder/\1/output/dense"),
    *TORCH,
)


def _transformers(model: SwinTransformer) -> Naming:
    norms = tuple((rf"(layers/\d+/blocks/\d+)/norm{i}/", rf"encoder/\1/layernorm_{where}/")
                  for i, where in ((1, "before"), (2, "after")))
    merges = tuple((f"layers/{i + 1}/downsample/", f"encoder/layers/{i}/downsample/") for i in range(len(model.depths)))
    renames = (*norms, *merges, ("patch_embed/norm/", "embeddings/norm/"), ("norm/", "layernorm/"),
               ("head/", "classifier/"))
    return transformers("swin", _PARTS, renames, head=r"classifier\..+")


def _index_tables(model: SwinTransformer) -> dict[str, np.ndarray]:
    """The index tables that torchvision stores next to every table of biases."""
    return {f"features.{2 * i + 1}.{j}.attn.relative_position_index": relative_position_index(window).reshape(-1)
            for i, (depth, window) in enumerate(zip(model.depths, model.windows, strict=True)) for j in range(depth)}


def authors_buffers(model: SwinTransformer) -> dict[str, np.ndarray]:
    """What the authors' code stores, and asks for when it loads strictly: index tables, and masks of shifted windows.

    Their masks are 0 where a token may look and -100 where not. A map that one window covers is not shifted.
    """
    buffers = {}
    height, width = (side // model.patch_size for side in as_pair(model.image_size))
    for i, (depth, window) in enumerate(zip(model.depths, model.windows, strict=True)):
        for j in range(depth):
            name = f"layers.{i}.blocks.{j}.attn"
            buffers[f"{name}.relative_position_index"] = relative_position_index(window)
            if j % 2 and height > window[0] and width > window[1]:
                padded = -(-height // window[0]) * window[0], -(-width // window[1]) * window[1]
                seen = shifted_window_mask(padded, window, (window[0] // 2, window[1] // 2))
                buffers[f"layers.{i}.blocks.{j}.attn_mask"] = np.where(seen, 0, -100).astype(np.float32)
        height, width = -(-height // 2), -(-width // 2)
    return buffers


def _fit_table(table: np.ndarray, shape: tuple[int, ...], model: SwinTransformer, trained: Size | None) -> np.ndarray:
    """Resize a square window's table of biases to the model's window.

    A table of a window that is not square, or with another number of heads, is returned as it is.
    """
    side = math.isqrt(len(table))
    if side * side != len(table) or side % 2 == 0 or table.shape[1:] != shape[1:]:
        return table
    # Windows shrink from stage to stage, so the number of offsets identifies the window.
    window = next(window for window in model.windows if math.prod(2 * n - 1 for n in window) == shape[0])
    learnt = (side + 1) // 2
    return resize_relative_positions(table, (learnt, learnt), window)


def merged_at_the_end(model: SwinTransformer) -> tuple[tuple[str, str], ...]:
    """Renames to the authors' places of patch merging, which ends a stage there."""
    return tuple((f"layers/{i + 1}/downsample/", f"layers/{i}/downsample/") for i in range(len(model.depths)))


def swin(model: SwinTransformer) -> Family:
    """The table of a Swin: torchvision numbers stages and merges in one row, the authors merge at a stage's end."""
    stages = range(len(model.depths))
    features = (("patch_embed/norm/", "features/0/2/"),
                *((f"layers/{i}/blocks/", f"features/{2 * i + 1}/") for i in stages),
                *((f"layers/{i}/downsample/", f"features/{2 * i}/") for i in stages))
    return Family(
        namings={"timm": Naming(TRANSFORMER, (("head/", "head/fc/"),)),
                 "torchvision": Naming(TORCHVISION, features, _index_tables),
                 "official": Naming(TRANSFORMER, merged_at_the_end(model), authors_buffers),
                 "transformers": _transformers(model)},
        fresh=r"(head|classifier)\..+",
        ignored=r"(head|classifier)\..+|.+\.(relative_position_index|attn_mask)",
        resized={r".+\.relative_position_bias_table": _fit_table},
    )


register(SwinTransformer, swin)
