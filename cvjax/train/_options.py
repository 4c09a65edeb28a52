"""Choosing a builder by name, with the options that this one reads and no others."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def options_of(builder: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only arguments of a builder with their defaults."""
    return {p.name: p.default for p in inspect.signature(builder).parameters.values() if p.kind is p.KEYWORD_ONLY}


def choose(kind: str, builders: Mapping[str, Callable[..., Any]], name: str,
           given: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The builder called `name`, and all its options: those `given`, the others (None or absent) at their defaults.

    ValueError for an unknown name, and for an option that this builder does not read: a value without effect would
    only look as if it had one.
    """
    if name not in builders:
        raise ValueError(f"unknown {kind} {name!r}: it must be one of {', '.join(builders)}")
    known = options_of(builders[name])
    given = {option: value for option, value in given.items() if value is not None}
    if unread := [option for option in given if option not in known]:
        raise ValueError(f"{kind} {name!r} does not read {', '.join(unread)}: it reads {', '.join(known) or 'nothing'}")
    return builders[name], known | given
