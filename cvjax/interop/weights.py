"""Published weights into a model's variables, and back."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from cvjax.interop.families import family_of
from cvjax.interop.hub import HUB, download
from cvjax.interop.naming import Family, Layout, Naming
from cvjax.interop.state_dict import read_state_dict
from cvjax.models.dino import DINO
from cvjax.models.faster_rcnn import FasterRCNN
from cvjax.models.fcn import FCN

_log = logging.getLogger(__name__)

# Far above the rounding of half precision, far below the distance between two positions.
_CONSTANT_TOLERANCE = 5e-3


class _Slot(NamedTuple):
    """Where one of their arrays goes."""

    path: tuple[str, ...]  # in the model's variables
    layout: Layout
    shape: tuple[int, ...]  # in their layout


def _slots(model: nn.Module, shapes: Mapping[tuple[str, ...], Any], naming: Naming) -> dict[str, _Slot]:
    """The model's parameters and statistics, path -> shape, by the names that files give them."""
    slots = {}
    for path, leaf in shapes.items():
        name, layout = naming.lookup("/".join(path[1:]))
        stand_in = np.broadcast_to(np.float32(0), leaf.shape)
        slots[name] = _Slot(path, layout, layout.to_theirs(stand_in, model).shape)
    return slots


def _start(model: nn.Module, family: Family, paths: list[tuple[str, ...]], rng: jax.Array) -> dict:
    """Freshly initialised variables of some paths; the compiler drops the work for all others."""
    @jax.jit
    def start(rng: jax.Array) -> dict:
        inputs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), family.inputs(model))
        variables = flatten_dict(model.init(rng, *inputs))
        return {path: variables[path] for path in paths}

    return start(rng)


def _describe(lists: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in lists.items() if names)


def load_weights(model: nn.Module, weights: str | Path | Mapping[str, Any], *, part: str | None = None,
                 rng: jax.Array | None = None) -> dict[str, Any]:
    """The model's variables, float32, from a published weight file or from its names and arrays.

    weights: a file for `read_state_dict`, `hf-hub:OWNER/NAME` (see `cvjax.interop.hub`), or name -> array, in the
    names and layout of any publisher that the family's table knows: timm, torchvision, the authors. A ViT also takes
    an MAE's file (and leaves the decoder). Learned positions and relative-position tables of another resolution are
    resized as timm does, and a head that is missing or has other classes starts fresh.
    Of a DINO checkpoint a backbone takes its own part and leaves the head.
    part: which of the networks in a file, see `read_state_dict`; ValueError beside arrays, which have no parts.
    rng: key of the parameters that start fresh, `jax.random.key(0)` when None.
    What is fresh, ignored or resized is logged, in one line. Any other difference between file and model is a
    ValueError with every name that is missing, unexpected, of another shape, or (positions) of other values.
    """
    family = family_of(model)
    if part is not None and isinstance(weights, Mapping):
        raise ValueError(f"part {part!r} with names and arrays: it is for files, which may hold several networks")
    if isinstance(weights, str) and weights.startswith(HUB):
        weights = download(weights)
    content = read_state_dict(weights, part) if isinstance(weights, str | Path) else weights
    if not isinstance(model, DINO | FasterRCNN | FCN) and any(name.startswith("backbone.") for name in content):
        content = {name.removeprefix("backbone."): array for name, array in content.items()
                   if name.startswith("backbone.")}
    # A counter that torch's batch norm keeps for a mode nobody uses here.
    given = {name: np.asarray(array, np.float32) for name, array in content.items()
             if not name.endswith("num_batches_tracked")}
    variables = flatten_dict(jax.eval_shape(model.init, jax.random.key(0), *family.inputs(model)))
    tables = [(_slots(model, variables, naming), naming) for naming in family.namings.values()]
    slots, naming = max(tables, key=lambda table: len(table[0].keys() & given.keys()))
    constants = naming.constants(model)
    shapes = {name: value.shape for name, value in (slots | constants).items()}

    resized = []
    for pattern, fit in family.resized.items():
        for name in slots:
            if re.fullmatch(pattern, name) and name in given and given[name].shape != shapes[name]:
                given[name] = fit(given[name], shapes[name], model)
                resized.append(name)
    fits = [name for name in shapes if name in given and given[name].shape == shapes[name]]
    same = [name for name in constants if name in fits
            and np.allclose(given[name], constants[name], rtol=0, atol=_CONSTANT_TOLERANCE)]
    fresh = [name for name in slots if name not in fits and re.fullmatch(family.fresh, name)]
    ignored = [name for name in given if name not in slots and name not in same and re.fullmatch(family.ignored, name)]

    if faults := _describe({
        "missing": [name for name in slots if name not in given and name not in fresh],
        "unexpected": [name for name in given if name not in shapes and name not in ignored],
        "of another shape": [f"{name} {given[name].shape} (the model has {shapes[name]})" for name in shapes
                             if name in given and name not in fits + fresh + ignored],
        "of other values than the model computes": [name for name in constants
                                                    if name in fits and name not in same + ignored],
    }):
        raise ValueError(f"the weights do not fit {type(model).__name__}: {faults}")
    if notes := _describe({"fresh": fresh, "ignored": ignored, "resized": resized}):
        _log.warning("weights of %s: %s", type(model).__name__, notes)

    loaded = {slot.path: jnp.asarray(slot.layout.to_ours(given[name], model))
              for name, slot in slots.items() if name not in fresh}
    if fresh:
        key = jax.random.key(0) if rng is None else rng
        loaded |= _start(model, family, [slots[name].path for name in fresh], key)
    return unflatten_dict(loaded)


def to_state_dict(variables: Mapping[str, Any], model: nn.Module, layout: str | None = None) -> dict[str, np.ndarray]:
    """The variables in the names and the layout of a publisher, with any fixed positions and index tables it stores.

    variables: `{"params": ...}` with any `batch_stats`, or whatever has the same structure: gradients, for example.
    layout: "timm", "torchvision" or "official", where the family's table has it; None takes its first.
    """
    family = family_of(model)
    layout = next(iter(family.namings)) if layout is None else layout
    if layout not in family.namings:
        raise ValueError(f"no layout {layout!r} for {type(model).__name__}: there is {', '.join(family.namings)}")
    naming = family.namings[layout]
    theirs = {}
    for path, array in flatten_dict(dict(variables)).items():
        name, axes = naming.lookup("/".join(path[1:]))
        theirs[name] = axes.to_theirs(np.asarray(array), model)
    return theirs | naming.constants(model)


def save_weights(variables: Mapping[str, Any], model: nn.Module, path: str | Path, layout: str | None = None) -> None:
    """Write `to_state_dict(variables, model, layout)` as `.safetensors`, which torch loads with `strict=True`.

    `load_weights` of the file gives the same variables bit for bit.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights can be saved as .safetensors, not as {path.suffix!r}")
    arrays = to_state_dict(variables, model, layout)
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
