"""Published weights into a model's variables, and back."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from cvjax.data.preprocessing import Preprocessing
from cvjax.durable import whole
from cvjax.interop.families import family_of
from cvjax.interop.naming import Family, Layout, Naming
from cvjax.interop.published import (
    POSITION_RESIZE,
    TRAINED,
    open_published,
    position_resize_of,
    resizing_as,
)
from cvjax.interop.timm_config import write_config
from cvjax.models.dino import DINO
from cvjax.models.faster_rcnn import FasterRCNN
from cvjax.models.fcn import FCN
from cvjax.models.image_model import ImageModel
from cvjax.models.images import as_pair
from cvjax.text import printable

_log = logging.getLogger(__name__)

# Far above half precision's rounding errors, and far below the distance between two positions.
_CONSTANT_TOLERANCE = 5e-3


class _Slot(NamedTuple):
    """Where one of their arrays goes. Several that go to one path follow each other."""

    path: tuple[str, ...]  # in the model's variables
    layout: Layout
    shape: tuple[int, ...]  # in their layout


def _slots(model: nn.Module, shapes: Mapping[tuple[str, ...], Any], naming: Naming) -> dict[str, _Slot]:
    """The model's parameters and statistics, path -> shape, by the names that files give them."""
    slots = {}
    for path, leaf in shapes.items():
        names, layout = naming.lookup("/".join(path[1:]))
        stand_in = np.broadcast_to(np.float32(0), leaf.shape)
        shape = layout.to_theirs(stand_in, model).shape
        shape = shape if len(names) == 1 else (shape[0] // len(names), *shape[1:])
        slots |= {name: _Slot(path, layout, shape) for name in names}
    return slots


def _shapes(model: nn.Module, family: Family, arrays: int) -> dict[str, Any]:
    """The model's variables without numbers; ValueError if its fields, which a file may state, make no network.

    arrays: how many there are to fill them. More blocks than that are not even built, which takes time.
    """
    try:
        blocks = getattr(model, "depths", getattr(model, "depth", 0))
        blocks = blocks if isinstance(blocks, int) else sum(blocks)
        if blocks <= arrays:
            return jax.eval_shape(model.init, jax.random.key(0), *family.inputs(model))
    except ValueError:
        raise
    except Exception as error:  # fields can be wrong in any way
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"the fields of this {type(model).__name__} make no network: {reason}") from error
    raise ValueError(f"{type(model).__name__} has {blocks} blocks, the weights have {arrays} arrays")


def _start(model: nn.Module, family: Family, paths: list[tuple[str, ...]], rng: jax.Array) -> dict:
    """Freshly initialised variables at `paths`. The compiler removes the work for all other paths."""
    @jax.jit
    def start(rng: jax.Array) -> dict:
        inputs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), family.inputs(model))
        variables = flatten_dict(model.init(rng, *inputs))
        return {path: variables[path] for path in paths}

    return start(rng)


def _describe(lists: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in lists.items() if names)


def load_weights(model: nn.Module, weights: str | Path | Mapping[str, Any], *, part: str | None = None,
                 rng: jax.Array | None = None, whole: bool = False,
                 trained: tuple[int, int] | None = None) -> dict[str, Any]:
    """The model's variables, float32, from a published weight file or from its names and arrays.

    weights: a file for `read_state_dict`, `hf-hub:OWNER/NAME` (see `cvjax.interop.hub`), or name -> array, in the
    names and layout of any publisher that the family's table knows: timm, torchvision, transformers, the authors. A ViT
    also takes an MAE's file and ignores its decoder. Learned positions of another resolution are resized as the model's
    `position_resize` says, or where that is None as the weights' publisher does (see `position_resize_of`);
    relative-position tables as timm does. A head that is missing or has other classes starts fresh.
    A backbone takes its own part of a DINO checkpoint and ignores the head. For images of other than three channels,
    the first kernel of weights for colours is adapted as timm does it (see `adapted_to_channels`).
    part: which of the networks in a file, see `read_state_dict`; ValueError beside arrays, which have no parts.
    rng: key of the parameters that start fresh, `jax.random.key(0)` when None.
    whole: nothing may start fresh: for answers, which a fresh head would make at random.
    trained: height and width of the images that the weights learnt from, which learned positions need if they are not
        squares: 6x10 positions are as many as 10x6. None for what the file says of itself, and for squares.
    One line in the log lists what is fresh, ignored or resized. Any other difference between file and model is a
    ValueError with every name that is missing, unexpected, of another shape, or (positions) of other values.
    """
    return load_partly(model, weights, part=part, rng=rng, whole=whole, trained=trained)[0]


def load_partly(model: nn.Module, weights: str | Path | Mapping[str, Any], *, part: str | None = None,
                rng: jax.Array | None = None, whole: bool = False, trained: tuple[int, int] | None = None
                ) -> tuple[dict[str, Any], list[str]]:
    """What `load_weights` gives, and the paths of the parameters that start fresh, such as `head/kernel`."""
    family = family_of(model)
    if part is not None and isinstance(weights, Mapping):
        raise ValueError(f"part {part!r} with names and arrays: it is for files, which may hold several networks")
    if isinstance(weights, Mapping):
        content, resize = weights, position_resize_of(weights)
    else:
        published = open_published(weights, part)
        content, trained, resize = published.arrays, trained or published.trained, published.position_resize
    if not isinstance(model, DINO | FasterRCNN | FCN) and any(name.startswith("backbone.") for name in content):
        content = {name.removeprefix("backbone."): array for name, array in content.items()
                   if name.startswith("backbone.")}
    # Torch's batch norm counts its batches for a mode that cvjax does not have.
    given = {name: np.asarray(array, np.float32) for name, array in content.items()
             if not name.endswith("num_batches_tracked")}
    variables = flatten_dict(_shapes(model, family, len(given)))
    tables = [(_slots(model, variables, naming), naming, dict(naming.read(given, model)))
              for naming in family.namings.values()]
    slots, naming, given = max(tables, key=lambda table: len(table[0].keys() & table[2].keys()))
    constants = naming.constants(model)
    shapes = {name: value.shape for name, value in (slots | constants).items()}

    size = getattr(model, "image_size", None)  # a DINO has none of its own
    same_size = trained is None or size is None or trained == as_pair(size)
    resized, resizing = [], resizing_as(model, resize)
    for pattern, fit in family.resized.items():
        for name in slots:
            if not re.fullmatch(pattern, name) or name not in given:
                continue
            if given[name].shape != shapes[name] or not same_size:
                before, given[name] = given[name], fit(given[name], shapes[name], resizing, trained)
                if given[name] is not before:
                    resized.append(name)
    adapted = [name for name, shape in shapes.items() if name in given and given[name].ndim == 4 == len(shape)
               and given[name].shape[1] == 3 != shape[1] == getattr(model, "in_channels", 3)
               and given[name].shape[::2] == shape[::2] and given[name].shape[3] == shape[3]]
    given |= {name: adapted_to_channels(given[name], shapes[name][1]) for name in adapted}
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
    if whole and fresh:
        raise ValueError(f"the weights lack what {type(model).__name__} answers by: " + "; ".join(
            f"{name} is {given[name].shape}, not {shapes[name]}" if name in given else f"no {name}" for name in fresh))
    if notes := _describe({"fresh": fresh, "ignored": ignored, "resized": resized,
                           "adapted to other channels": adapted}):
        _log.warning("weights of %s: %s", type(model).__name__, printable(notes))

    parts: dict[tuple[str, ...], list[str]] = {}
    for name, slot in slots.items():
        if name not in fresh:
            parts.setdefault(slot.path, []).append(name)
    loaded = {}
    for path, names in parts.items():
        array = given[names[0]] if len(names) == 1 else np.concatenate([given[name] for name in names])
        loaded[path] = jnp.asarray(slots[names[0]].layout.to_ours(array, model))
    started = list(dict.fromkeys(slots[name].path for name in fresh))
    if started:
        key = jax.random.key(0) if rng is None else rng
        loaded |= _start(model, family, started, key)
    return unflatten_dict(loaded), ["/".join(path[1:]) for path in started if path[0] == "params"]


def adapted_to_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A kernel `(O, 3, h, w)` for colours as one `(O, channels, h, w)`, as timm's `adapt_input_conv` has it.

    For one channel the three are summed, so that grey repeated in three gives the same. Otherwise they are repeated as
    often as needed, and scaled by 3 / channels to keep the size of what comes out.
    """
    if channels == 1:
        return kernel.sum(axis=1, keepdims=True)
    return np.take(kernel, np.arange(channels) % 3, axis=1) * np.float32(3 / channels)


def to_state_dict(variables: Mapping[str, Any], model: nn.Module, layout: str | None = None, *,
                  constants: bool = True) -> dict[str, np.ndarray]:
    """The variables in the names and the layout of a publisher, with any fixed positions and index tables it stores.

    variables: `{"params": ...}` with any `batch_stats`, or whatever has the same structure.
    layout: "timm", "torchvision", "transformers" or "official", where the family's table has it; None takes its first.
    constants: False without fixed positions and tables, which have no gradients: for a tree of these.
    """
    family = family_of(model)
    layout = next(iter(family.namings)) if layout is None else layout
    if layout not in family.namings:
        raise ValueError(f"no layout {layout!r} for {type(model).__name__}: there is {', '.join(family.namings)}")
    naming = family.namings[layout]
    theirs = {}
    for path, array in flatten_dict(dict(variables)).items():
        names, axes = naming.lookup("/".join(path[1:]))
        array = axes.to_theirs(np.asarray(array), model)
        theirs |= dict(zip(names, [array] if len(names) == 1 else np.split(array, len(names)), strict=True))
    return dict(naming.write(theirs | naming.constants(model) if constants else theirs, model))


def save_weights(variables: Mapping[str, Any], model: nn.Module, path: str | Path, layout: str | None = None, *,
                 preprocessing: Preprocessing | None = None, class_names: Sequence[str] = ()) -> None:
    """Write `to_state_dict(variables, model, layout)` as `.safetensors`, which torch loads with `strict=True`.

    `load_weights` of the file gives the same variables bit for bit.
    preprocessing: what the model's images become; it goes, with the architecture and the names of the classes, into
    `config.json` beside the file, as timm writes and reads it. None for no such file.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights can be saved as .safetensors, not as {path.suffix!r}")
    arrays = to_state_dict(variables, model, layout)
    if preprocessing is not None:  # before the weights, which nobody then finds without it
        write_config(path, cast(ImageModel, model), preprocessing, class_names)
    size = getattr(model, "image_size", None)
    said = None if size is None else {TRAINED: "x".join(map(str, as_pair(size)))}
    if said is not None and getattr(model, POSITION_RESIZE, None):
        said[POSITION_RESIZE] = model.position_resize
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with whole(path) as partial:
        safetensors.numpy.save_file(arrays, partial, said)
