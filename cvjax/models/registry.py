"""Models by name: `create_model("vit_small_patch16_224", num_classes=10)`, `list_models("mae_*")`."""

import dataclasses
import difflib
import fnmatch
from typing import Any

import flax.linen as nn

from cvjax.models import mae, vit

_MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {**vit.VARIANTS, **mae.VARIANTS}


def list_models(pattern: str = "*") -> list[str]:
    """Sorted names of the models that match a shell pattern."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def create_model(name: str, **overrides: Any) -> nn.Module:
    """The module called `name` (see `list_models`), with any of its fields replaced.

    `num_classes`, `in_channels`, `image_size` and `dtype` are fields of most models. Nothing is allocated: call
    `init` for parameters. Raises ValueError on an unknown name (with near ones) or field (with the known ones).
    """
    if name not in _MODELS:
        near = difflib.get_close_matches(name, _MODELS, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "list_models() names all"
        raise ValueError(f"unknown model {name!r}: {hint}")
    module, fields = _MODELS[name]
    known = {f.name for f in dataclasses.fields(module)} - {"parent", "name"}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"{name} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return module(**(fields | overrides))
