"""Swin's names: timm's, torchvision's, and the authors', which are also those of timm's first versions."""

import math

import numpy as np

from cvjax.interop.families.vit import PATCHES, TRANSFORMER, linear
from cvjax.interop.naming import TORCH, Family, Naming, Rule
from cvjax.models.swin import SwinTransformer
from cvjax.ops.windows import relative_position_index, resize_relative_positions

TORCHVISION = (
    Rule("patch_embed/proj/kernel", "features/0/0/weight", PATCHES),
    Rule("patch_embed/proj/bias", "features/0/0/bias"),
    *linear("(.+)/mlp/fc1", r"\1/mlp/0"),
    *linear("(.+)/mlp/fc2", r"\1/mlp/3"),
    *TORCH,
)


def _index_tables(model: SwinTransformer) -> dict[str, np.ndarray]:
    """What torchvision stores next to every table of biases."""
    return {f"features.{2 * i + 1}.{j}.attn.relative_position_index": relative_position_index(window).reshape(-1)
            for i, (depth, window) in enumerate(zip(model.depths, model.windows, strict=True)) for j in range(depth)}


def _fit_table(table: np.ndarray, shape: tuple[int, ...], model: SwinTransformer) -> np.ndarray:
    """A table of biases of a square window for the model's; one that is not square, or of other heads, stays."""
    side = math.isqrt(len(table))
    if side * side != len(table) or side % 2 == 0 or table.shape[1:] != shape[1:]:
        return table
    # Windows shrink from stage to stage, so the number of offsets tells which one it is.
    window = next(window for window in model.windows if math.prod(2 * n - 1 for n in window) == shape[0])
    return resize_relative_positions(table, ((side + 1) // 2,) * 2, window)


def swin(model: SwinTransformer) -> Family:
    """The table; torchvision's parts and merges have one number after the other, and the authors merge at the end."""
    stages = range(len(model.depths))
    merged_at_the_end = tuple((f"layers/{i + 1}/downsample/", f"layers/{i}/downsample/") for i in stages)
    features = (("patch_embed/norm/", "features/0/2/"),
                *((f"layers/{i}/blocks/", f"features/{2 * i + 1}/") for i in stages),
                *((f"layers/{i}/downsample/", f"features/{2 * i}/") for i in stages))
    return Family(
        namings={"timm": Naming(TRANSFORMER, (("head/", "head/fc/"),)),
                 "torchvision": Naming(TORCHVISION, features, _index_tables),
                 "official": Naming(TRANSFORMER, merged_at_the_end)},
        fresh=r"head\..+",
        ignored=r"head\..+|.+\.(relative_position_index|attn_mask)",
        resized={r".+\.relative_position_bias_table": _fit_table},
    )
