"""Swin V2's names: timm's and the authors'. torchvision's store queries', keys' and values' biases in one array."""

import numpy as np

from cvjax.interop.families.registry import register
from cvjax.interop.families.swin import authors_buffers, merged_at_the_end
from cvjax.interop.families.vit import TRANSFORMER
from cvjax.interop.naming import Family, Layout, Naming, Rule
from cvjax.models.swin_v2 import SwinTransformerV2
from cvjax.ops.windows import log_spaced_offsets

_FOR_SCORES = Layout(lambda array, model: array[:, None, None], lambda array, model: array[:, 0, 0])  # (heads, 1, 1)

NAMES = (Rule("(.+)/logit_scale", r"\1/logit_scale", _FOR_SCORES), *TRANSFORMER)


def _buffers(model: SwinTransformerV2) -> dict[str, np.ndarray]:
    """What the authors' code stores: as of the first version, and the offsets."""
    offsets = {}
    windows = zip(model.depths, model.windows, model.trained_windows, strict=True)
    for i, (depth, window, trained) in enumerate(windows):
        table = log_spaced_offsets(window, trained).reshape(1, *(2 * n - 1 for n in window), 2)
        offsets |= {f"layers.{i}.blocks.{j}.attn.relative_coords_table": table for j in range(depth)}
    return authors_buffers(model) | offsets


def swin_v2(model: SwinTransformerV2) -> Family:
    """The table of a Swin V2. The network that makes biases has no size of a window in it."""
    return Family(
        namings={"timm": Naming(NAMES, (("head/", "head/fc/"),)),
                 "official": Naming(NAMES, merged_at_the_end(model), _buffers)},
        fresh=r"head\..+",
        ignored=r"head\..+|.+\.(relative_position_index|relative_coords_table|attn_mask)",
    )


register(SwinTransformerV2, swin_v2)
