"""Which table of published names belongs to which model."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from cvjax.interop.naming import Family

# A table, or the function that makes one from a model's fields.
_FAMILIES: dict[type[nn.Module], Family | Callable[[Any], Family]] = {}


def register(module: type[nn.Module], family: Family | Callable[[Any], Family]) -> None:
    """Make the table of a kind of model known: the table itself, or a function from a model to it.

    Raises ValueError for a kind of model that has a table.
    """
    if module in _FAMILIES:
        raise ValueError(f"{module.__name__} is registered twice: each kind of model must have one weight table")
    _FAMILIES[module] = family


def family_of(model: nn.Module) -> Family:
    """The table of a model's family. Raises ValueError for a model without one."""
    if type(model) not in _FAMILIES:
        raise ValueError(f"no weight table for {type(model).__name__}; there are tables for "
                         f"{', '.join(sorted(module.__name__ for module in _FAMILIES))}")
    family = _FAMILIES[type(model)]
    return family if isinstance(family, Family) else family(model)
