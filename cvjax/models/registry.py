"""Models by name: `create_model("vit_small_patch16_224", num_classes=10)`, `list_models("mae_*")`."""

import dataclasses
import difflib
import fnmatch
from typing import Any, Literal, get_args, get_origin

import flax.linen as nn

from cvjax.models import (
    airbench,
    alexnet,
    baselines,
    densenet,
    fast_rcnn,
    faster_rcnn,
    fcn,
    googlenet,
    lenet,
    mae,
    rcnn,
    resnet,
    resnet9,
    sppnet,
    swin,
    vgg,
    vit,
    yolo,
)

_MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    **baselines.VARIANTS, **lenet.VARIANTS, **alexnet.VARIANTS, **vgg.VARIANTS,
    **googlenet.VARIANTS, **resnet.VARIANTS, **densenet.VARIANTS, **vit.VARIANTS, **mae.VARIANTS,
    **swin.VARIANTS, **resnet9.VARIANTS, **airbench.VARIANTS, **fcn.VARIANTS,
    **rcnn.VARIANTS, **sppnet.VARIANTS, **fast_rcnn.VARIANTS, **faster_rcnn.VARIANTS, **yolo.VARIANTS,
}


def list_models(pattern: str = "*") -> list[str]:
    """Sorted names of the models that match a shell pattern."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def create_model(name: str, /, **overrides: Any) -> nn.Module:
    """The module called `name` (see `list_models`), with any of its fields replaced.

    `num_classes`, `in_channels`, `image_size` and `dtype` are fields of most models. Nothing is allocated: call
    `init` for parameters. Raises ValueError on an unknown name (with near ones), field (with the known ones) or word.
    """
    if name not in _MODELS:
        near = difflib.get_close_matches(name, _MODELS, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "list_models() names all"
        raise ValueError(f"unknown model {name!r}: {hint}")
    module, fields = _MODELS[name]
    known = {f.name: f.type for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
    if unknown := sorted(overrides.keys() - known.keys()):
        raise ValueError(f"{name} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    for field, value in overrides.items():
        if get_origin(known[field]) is Literal and value not in get_args(known[field]):
            raise ValueError(f"{name} with {field}={value}: it must be one of "
                             f"{', '.join(map(str, get_args(known[field])))}")
    return module(**(fields | overrides))
