"""Write cvjax/timm_weights.json from the installed timm: `PYTHONPATH=. python tests/parity/make_timm_weights.py`.

Parameters and fingerprints are of the files of timm that have families which are here, or which come near them.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

import torchvision_operators  # noqa: F401  before timm  # isort: skip
import timm
from timm.models import get_pretrained_cfg, list_modules, list_pretrained

from cvjax.interop.coverage import fingerprint
from cvjax.interop.published import QUICK_GELU

PATH = Path(__file__).parents[2] / "cvjax/timm_weights.json"
FAMILIES = ("convnext", "deit", "densenet", "eva", "resnet", "resnetv2", "swin_transformer", "swin_transformer_v2",
            "vgg", "vision_transformer")


@cache
def built(name: str) -> Any:
    """timm's module, on torch's device without numbers."""
    with torch.device("meta"):
        return timm.create_model(name, num_classes=1000)


def row(name: str, tags: list[str], described: bool) -> list[Any]:
    """What is stored of a name: the fields of `cvjax.timm_weights.Listed` after its file."""
    cfg = get_pretrained_cfg(name)
    at = name.replace(*QUICK_GELU)
    default = cfg.tag if cfg.hf_hub_id in ("timm/", f"timm/{at}.{cfg.tag}") and cfg.tag in tags else ""
    if not described:
        return [default, " ".join(tags)]
    shapes = {key: tuple(value.shape) for key, value in built(name).state_dict().items()
              if not key.endswith("num_batches_tracked")}
    return [default, " ".join(tags), sum(p.numel() for p in built(name).parameters()), fingerprint(shapes)]


def text() -> str:
    """All of the file: JSON with a line for each name."""
    tags: dict[str, list[str]] = {name: [] for name in timm.list_models()}
    for tagged in list_pretrained():
        name, _, tag = tagged.partition(".")
        tags[name].append(tag)
    files = []
    for module in list_modules():
        rows = [f"  {json.dumps(name)}: {json.dumps(row(name, tags[name], module in FAMILIES))}"
                for name in sorted(timm.list_models(module=module))]
        if rows:
            files.append(f" {json.dumps(module)}: {{\n" + ",\n".join(rows) + "}")
    return f'{{"timm": {json.dumps(timm.__version__)}, "files": {{\n' + ",\n".join(files) + "}}\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
