"""What timm publishes, as data: the names of its models, the tags of their weights, and their parameters' fingerprint.

`timm_weights.json` has every name that timm lists. `tests/parity/make_timm_weights.py` writes it from an
installed timm, and a test compares the two. Nothing here needs timm.
"""

import json
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from cvjax.spelling import did_you_mean


class Listed(NamedTuple):
    """What timm lists under a name.

    file: the one of `timm.models` that it is from. default: the tag that timm takes for the bare name, "" where those
    weights do not lie at `timm/NAME.TAG` on the hub. tags: of all its weights, () where it has none. parameters: how
    many, with 1000 classes. fingerprint: of the names and shapes of its state dict, see
    `cvjax.interop.coverage.fingerprint`. The last two are 0 and "" in files of timm that have no family of those here.
    """

    file: str
    default: str
    tags: tuple[str, ...]
    parameters: int = 0
    fingerprint: str = ""


@cache
def _content() -> Mapping[str, Any]:
    return json.loads(pkgutil.get_data("cvjax", "timm_weights.json") or b"")


def timm_version() -> str:
    """The timm whose list it is."""
    return _content()["timm"]


@cache
def timm_weights() -> Mapping[str, Listed]:
    """Name -> what timm lists under it."""
    return {name: Listed(file, default, tuple(tags.split()), *rest)
            for file, names in _content()["files"].items() for name, (default, tags, *rest) in names.items()}


def about_name(name: str) -> str:
    """Whether timm has a model that is not here, as a part of a sentence."""
    return f"timm has {'it' if name.split('.')[0] in timm_weights() else 'none of that name'}"


def about_weights(name: str) -> str:
    """What is wrong with `NAME.TAG` by timm's list, with near ones; "" for what it lists."""
    name, _, tag = name.partition(".")
    listed = {known: entry.tags for known, entry in timm_weights().items() if entry.tags}
    if name not in listed:
        return f"timm lists no weights of {name}: {did_you_mean(name, listed, 'none has a similar name')}"
    if tag in listed[name]:
        return ""
    hint = did_you_mean(tag, listed[name], f"its tags are {', '.join(listed[name])}")
    return f"timm lists no {name}{'.' + tag if tag else ' without a tag'}: {hint}"
