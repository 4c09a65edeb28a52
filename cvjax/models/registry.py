"""Models by name: `create_model("vit_small_patch16_224", num_classes=10)`, `list_models("mae_*")`."""

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from cvjax.models.image_model import ImageModel
from cvjax.spelling import did_you_mean
from cvjax.timm_weights import about_name, about_weights

_MODELS: dict[str, tuple[type[ImageModel], Mapping[str, Any]]] = {}


def register(variants: Mapping[str, tuple[type[ImageModel], Mapping[str, Any]]]) -> None:
    """Make a family's models known by name: each is a module class and the fields that differ from its defaults.

    Raises ValueError if a name is taken.
    """
    if taken := sorted(variants.keys() & _MODELS.keys()):
        raise ValueError(f"models {', '.join(taken)} are registered twice: each name must belong to one family")
    _MODELS.update(variants)


def list_models(pattern: str = "*") -> list[str]:
    """Sorted names of the models that match a shell pattern."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def create_model(name: str, /, **overrides: Any) -> ImageModel:
    """The module called `name` (see `list_models`), with any of its fields replaced.

    `num_classes`, `in_channels`, `image_size` and `dtype` are fields of most models. Nothing is allocated: call
    `init` for parameters. Raises ValueError for an unknown name (and suggests similar ones), an
    unknown field (and lists the known ones), or a word that a field does not allow.
    """
    if name not in _MODELS:
        raise ValueError(f"unknown model {name!r}: {_about(name)}")
    if "pretrained" in overrides:
        raise ValueError(f"create_model makes a module without parameters; cvjax.interop.create_pretrained({name!r}) "
                         "gives the module and published weights")
    module, fields = _MODELS[name]
    known = {f.name: f.type for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
    if unknown := sorted(overrides.keys() - known.keys()):
        raise ValueError(f"{name} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    for field, value in overrides.items():
        if get_origin(known[field]) is Literal and value not in get_args(known[field]):
            raise ValueError(f"{name} with {field}={value}: it must be one of "
                             f"{', '.join(map(str, get_args(known[field])))}")
    return module(**{**fields, **overrides})


def _about(name: str) -> str:
    """What is known of a name that is none of a model here."""
    name = name.removeprefix("hf-hub:timm/")
    bare, _, tag = name.partition(".")
    if tag and bare in _MODELS:
        wrong = about_weights(name)
        return f"the model is {bare}, and " + (wrong or f"hf-hub:timm/{name} are weights of it")
    return f"{did_you_mean(bare, _MODELS, 'list_models() names all')} ({about_name(bare)})"


def name_of(model: ImageModel) -> str:
    """The registered name closest to a model: among those of its class, the one with the fewest different fields.

    ValueError if the class has no registered name.
    """
    names = [name for name, (module, _) in _MODELS.items() if module is type(model)]
    if not names:
        raise ValueError(f"{type(model).__name__} has no registered name")
    return min(names, key=lambda name: (len(changed_fields(model, name)), name))


def changed_fields(model: ImageModel, name: str) -> dict[str, Any]:
    """The fields in which a model differs from the registered one of its class called `name`."""
    base = create_model(name)
    return {field.name: getattr(model, field.name) for field in dataclasses.fields(model)
            if field.name not in ("parent", "name") and getattr(model, field.name) != getattr(base, field.name)}
