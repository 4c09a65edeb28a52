"""Write tests/interop/timm_convnets.json from timm: `PYTHONPATH=. python tests/parity/make_timm_convnets.py`.

For each architecture of the files of timm's in `FILES` that cvjax has under the same name: the tags under which timm
publishes weights, the number of parameters, and a fingerprint of the names and shapes of its state dict, with 1000
classes. `left_out` has the others with their tags.
"""

import json
from typing import Any

import torch
import torchvision_operators  # noqa: F401  before timm
from timm import __version__, create_model, list_pretrained
from timm import list_models as timm_models

from cvjax.models import list_models
from tests.interop.timm_convnets import PATH, fingerprint

FILES = ("resnet", "resnetv2", "convnext", "swin_transformer", "swin_transformer_v2")


def described(name: str, tags: list[str]) -> dict[str, Any]:
    """What is stored of an architecture; on torch's device without numbers."""
    with torch.device("meta"):
        model = create_model(name, num_classes=1000)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()
              if not key.endswith("num_batches_tracked")}
    return {"tags": tags, "parameters": sum(p.numel() for p in model.parameters()), "fingerprint": fingerprint(shapes)}


def content() -> dict[str, Any]:
    """All of the file."""
    tags: dict[str, list[str]] = {name: [] for module in FILES for name in timm_models(module=module)}
    for tagged in list_pretrained():
        name, _, tag = tagged.partition(".")
        if name in tags:
            tags[name].append(tag)
    known = set(list_models())
    return {"timm": __version__,
            "architectures": {name: described(name, tags[name]) for name in sorted(tags) if name in known},
            "left_out": {name: tags[name] for name in sorted(tags) if name not in known}}


if __name__ == "__main__":
    PATH.write_text(json.dumps(content(), indent=1) + "\n", encoding="utf-8")
