"""timm's ViTs as data: `PYTHONPATH=. python tests/parity/timm_vits.py`, with timm, writes timm_vits.json.

Of each name that is registered here: timm's arguments in the words of `cvjax.models.vit`, what images become for its
default weights, and whether these have no head. Parameters and tags are in cvjax/timm_weights.json.
"""

import json
from pathlib import Path
from typing import Any

STORED = Path(__file__).with_suffix(".json")
FILES = ("vision_transformer", "deit", "eva")
# The first ViTs' arguments, and what most images become. The file has what is otherwise.
USUAL = {"pool": "token", "class_token": True, "distilled": False, "registers": 0, "prefix_positions": True,
         "pre_norm": False, "fc_norm": False, "position": "learned", "qk_norm": False, "qkv_bias": True,
         "activation": "gelu", "norm_epsilon": 1e-6, "layer_scale": None}
USUAL_IMAGES = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9, "crop_mode": "center",
                "interpolation": "bicubic"}


def read_stored() -> dict[str, Any]:
    """What the file holds: name -> arguments and images."""
    return json.loads(STORED.read_text(encoding="utf-8"))


def _layer_scale(block: Any) -> float | None:
    if hasattr(block, "init_values"):  # of EVA
        return block.init_values
    return getattr(block.ls1, "init_values", None)


def _activation(mlp: Any) -> str:
    form, word = type(mlp).__name__, type(mlp.act).__name__
    if form == "Mlp":
        return {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}[word]
    return {("GluMlp", "SiLU"): "swiglu", ("SwiGLU", "SiLU"): "swiglu_pair"}[form, word]


def _qkv_bias(attention: Any) -> bool | str:
    if getattr(attention, "q_bias", None) is not None:
        return "qv"
    return attention.qkv.bias is not None


def _position(model: Any) -> str:
    """"rotary" only for those of DINOv3."""
    rope = getattr(model, "rope", None)
    if rope is None:
        return "learned"
    assert model.pos_embed is None and type(rope).__name__ == "RotaryEmbeddingDinoV3" and rope.rotate_half
    assert (rope.temperature, rope.min_period, rope.normalize_coords, rope.grid_offset, rope.grid_indexing,
            rope.aug_active) == (100, None, "separate", 0, "ij", False)
    return "rotary"


def _arguments(model: Any) -> dict[str, Any]:
    """What a timm module is, in the words of our fields; `hidden` are the channels that `mlp_ratio` gives."""
    from torch import nn

    block, position = model.blocks[0], _position(model)
    first = block.mlp.fc1_x if hasattr(block.mlp, "fc1_x") else block.mlp.fc1
    return {
        "image_size": model.patch_embed.img_size[0], "patch_size": model.patch_embed.patch_size[0],
        "width": model.embed_dim, "depth": len(model.blocks), "heads": block.attn.num_heads,
        "hidden": first.out_features, "pool": model.global_pool, "class_token": model.cls_token is not None,
        "distilled": hasattr(model, "head_dist"),
        "registers": 0 if model.reg_token is None else model.reg_token.shape[1],
        "prefix_positions": position != "rotary" and not model.no_embed_class,
        "pre_norm": not isinstance(model.norm_pre, nn.Identity),
        "fc_norm": not isinstance(model.fc_norm, nn.Identity), "position": position,
        "qk_norm": not isinstance(block.attn.q_norm, nn.Identity), "qkv_bias": _qkv_bias(block.attn),
        "activation": _activation(block.mlp), "norm_epsilon": block.norm1.eps, "layer_scale": _layer_scale(block),
    }


def _otherwise(found: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in usual or value != usual[key]}


def _entry(name: str) -> dict[str, Any]:
    from make_timm_weights import built
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    entry, cfg = {"arguments": _otherwise(_arguments(built(name)), USUAL)}, get_pretrained_cfg(name)
    if cfg.hf_hub_id:
        images = resolve_data_config(pretrained_cfg=cfg.to_dict(), use_test_size=True)
        images = {key: list(value) if isinstance(value := images[key], tuple) else value for key in USUAL_IMAGES}
        entry |= {"images": _otherwise(images, USUAL_IMAGES), "headless": cfg.num_classes == 0}
    return entry


def text() -> str:
    """What the file is to hold, by the installed timm: JSON with a line for each model."""
    import torchvision_operators  # noqa: F401  before timm  # isort: skip
    import timm

    from cvjax.models import list_models

    names = {name for file in FILES for name in timm.list_models(module=file)} & set(list_models())
    return "{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(_entry(name))}" for name in sorted(names)) + "\n}\n"


if __name__ == "__main__":
    STORED.write_text(text(), encoding="utf-8")
