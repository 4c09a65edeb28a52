"""A model as JSON, and back: a registered name, and the fields in which the model differs from it."""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from cvjax.models.image_model import ImageModel
from cvjax.models.registry import changed_fields, create_model, name_of


def described(model: ImageModel, name: str | None = None, *, without: Collection[str] = ()) -> dict[str, Any]:
    """The model as `{"name": ..., "fields": {...}}`, which `rebuilt` reads.

    name: a registered one of the model's class; None for the closest. without: fields that are left out. TypeError for
    a field whose value JSON cannot hold.
    """
    name = name_of(model) if name is None else name
    changed = changed_fields(model, name)
    return {"name": name, "fields": {field: _as_json(field, value) for field, value in changed.items()
                                     if field not in without}}


def rebuilt(description: Mapping[str, Any]) -> ImageModel:
    """The model that `described` wrote; ValueError for a name, a field or a word that is not known."""
    return create_model(description["name"], **fields_of(description))


def fields_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that `described` wrote, as `create_model` takes them."""
    return {name: jnp.dtype(value) if name.endswith("dtype") else _as_field(value)
            for name, value in description["fields"].items()}


def _as_json(name: str, value: Any) -> Any:
    if name.endswith("dtype"):
        return np.dtype(value).name
    if isinstance(value, Mapping):
        return {key: _as_json(key, each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_as_json("", each) for each in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"field {name} = {value!r} of a model cannot be written as JSON")


def _as_field(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_field(each) for key, each in value.items()}
    return tuple(map(_as_field, value)) if isinstance(value, list) else value
