"""timm's ViTs as data: `PYTHONPATH=. python tests/parity/timm_vits.py`, with timm, writes timm_vits.json.

Of each name that is registered here: timm's arguments in the words of `cvjax.models.vit`, the number of parameters with
1000 classes, a fingerprint of the state dict's names and shapes, its published tags with their classes, and which of
them is the default, with what images become for it. Of the other names of timm's two files: the tags.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.interop.timm_convnets import fingerprint

STORED = Path(__file__).with_suffix(".json")
Shapes = Mapping[str, tuple[int, ...]]
# The first ViTs' arguments, and what most images become. The file has what is otherwise.
USUAL = {"pool": "token", "class_token": True, "distilled": False, "registers": 0, "prefix_positions": True,
         "pre_norm": False, "fc_norm": False, "qk_norm": False, "qkv_bias": True, "activation": "gelu",
         "norm_epsilon": 1e-6, "layer_scale": None}
USUAL_IMAGES = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9, "crop_mode": "center",
                "interpolation": "bicubic"}


def read_stored() -> dict[str, Any]:
    """What the file holds."""
    return json.loads(STORED.read_text(encoding="utf-8"))


def of_one_block(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """A state dict's shapes without those of the blocks after the first, which must be the same."""
    blocks: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if match := re.match(r"blocks\.(\d+)\.", name):
            blocks.setdefault(match[1], {})[name[match.end():]] = shape
    assert all(block == blocks["0"] for block in blocks.values())
    return {name: shape for name, shape in shapes.items() if not re.match(r"blocks\.[1-9]", name)}


def _arguments(model: Any) -> dict[str, Any]:
    """What a timm module is, in the words of our fields; `hidden` are the channels that `mlp_ratio` gives."""
    from torch import nn

    block = model.blocks[0]
    gated = type(block.mlp).__name__ == "GluMlp"
    word = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "swiglu"}
    return {
        "image_size": model.patch_embed.img_size[0], "patch_size": model.patch_embed.patch_size[0],
        "width": model.embed_dim, "depth": len(model.blocks), "heads": block.attn.num_heads,
        "hidden": block.mlp.fc1.out_features, "pool": model.global_pool, "class_token": model.cls_token is not None,
        "distilled": hasattr(model, "head_dist"), "registers": model.num_reg_tokens,
        "prefix_positions": not model.no_embed_class, "pre_norm": not isinstance(model.norm_pre, nn.Identity),
        "fc_norm": not isinstance(model.fc_norm, nn.Identity),
        "qk_norm": not isinstance(block.attn.q_norm, nn.Identity), "qkv_bias": block.attn.qkv.bias is not None,
        "activation": word[type(block.mlp.act).__name__] if gated == (type(block.mlp.act).__name__ == "SiLU") else "?",
        "norm_epsilon": block.norm1.eps, "layer_scale": getattr(block.ls1, "init_values", None),
    }


def _otherwise(found: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in usual or value != usual[key]}


def _entry(name: str, tags: dict[str, int]) -> dict[str, Any]:
    import timm
    import torch
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    with torch.device("meta"):
        model = timm.create_model(name, num_classes=1000)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    entry = {"arguments": _otherwise(_arguments(model), USUAL),
             "parameters": sum(p.numel() for p in model.parameters()),
             "fingerprint": fingerprint(of_one_block(shapes)), "tags": tags}
    cfg = get_pretrained_cfg(name)
    if tags and cfg.hf_hub_id:
        images = resolve_data_config(pretrained_cfg=cfg.to_dict(), use_test_size=True)
        entry["default"] = cfg.hf_hub_id
        images = {key: list(value) if isinstance(value := images[key], tuple) else value for key in USUAL_IMAGES}
        entry["images"] = _otherwise(images, USUAL_IMAGES)
    return entry


def make() -> dict[str, Any]:
    """What the file is to hold, by the installed timm."""
    import torchvision_operators  # noqa: F401  before timm  # isort: skip
    import timm
    from timm.models import get_pretrained_cfg

    from cvjax.models import list_models

    theirs = {name for module in ("vision_transformer", "deit") for name in timm.list_models(module=module)}
    tags: dict[str, dict[str, int]] = {}
    for tag in timm.list_pretrained():
        if (name := tag.split(".")[0]) in theirs:
            tags.setdefault(name, {})[tag.split(".")[1]] = get_pretrained_cfg(tag).num_classes
    ours = theirs & set(list_models())
    return {"timm": timm.__version__, "models": {name: _entry(name, tags.get(name, {})) for name in sorted(ours)},
            "others": {name: list(tags[name]) for name in sorted(tags.keys() - ours)}}


def text_of(content: dict[str, Any]) -> str:
    """JSON with a line for each model."""
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in content["models"].items()]
    others = ",\n".join(f"  {json.dumps(name)}: {json.dumps(tags)}" for name, tags in content["others"].items())
    return (f'{{"timm": {json.dumps(content["timm"])}, "models": {{\n' + ",\n".join(lines)
            + f'\n}}, "others": {{\n{others}\n}}}}\n')


if __name__ == "__main__":
    STORED.write_text(text_of(make()), encoding="utf-8")
