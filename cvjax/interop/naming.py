"""The parts of a family's table: how published files name each parameter and order its axes.

A table turns a path here (`blocks/0/attn/qkv/kernel`) into a name there (`blocks.0.attn.qkv.weight`). This one
direction serves both reading and writing.

A table's functions take a model and read its fields. Each family expects its own class, so their type is `Any`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.models.images import as_pair

NOTHING = r"(?!)"  # a pattern that matches no name


class Layout(NamedTuple):
    """How one kind of parameter goes from our axes to theirs and back: functions of the array and the model."""

    to_theirs: Callable[[np.ndarray, Any], np.ndarray]
    to_ours: Callable[[np.ndarray, Any], np.ndarray]


def _kernel_to_theirs(kernel: np.ndarray, model: nn.Module) -> np.ndarray:
    return kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T


def _kernel_to_ours(kernel: np.ndarray, model: nn.Module) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T


SAME = Layout(lambda array, model: array, lambda array, model: array)
# (in, out) <-> (out, in), and (kh, kw, in, out) <-> (out, in, kh, kw)
KERNEL = Layout(_kernel_to_theirs, _kernel_to_ours)


def after_flattening(height: int, width: int) -> Layout:
    """A linear layer on a flattened map: rows in (row, column, channel) order here, (channel, row, column) there."""
    def to_theirs(kernel: np.ndarray, model: nn.Module) -> np.ndarray:
        out = kernel.shape[1]
        return kernel.reshape(height, width, -1, out).transpose(3, 2, 0, 1).reshape(out, -1)

    def to_ours(kernel: np.ndarray, model: nn.Module) -> np.ndarray:
        out = kernel.shape[0]
        return kernel.reshape(out, -1, height, width).transpose(2, 3, 1, 0).reshape(-1, out)

    return Layout(to_theirs, to_ours)


def _patches_to_convolution(kernel: np.ndarray, model: nn.Module) -> np.ndarray:
    p = model.patch_size
    return kernel.reshape(p, p, model.in_channels, -1).transpose(3, 2, 0, 1)


def _convolution_to_patches(kernel: np.ndarray, model: nn.Module) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])


PATCHES = Layout(_patches_to_convolution, _convolution_to_patches)  # (p*p*C, D) <-> (D, C, p, p)


class Rule(NamedTuple):
    """A pattern that matches a whole path, the name that the path becomes (slashes turn to dots), and the layout.

    A name with `{q,k,v}` in it stands for several: theirs are so many arrays, equally long, which are one here, in this
    order along the first axis of their layout.
    """

    pattern: str
    name: str
    layout: Layout = SAME


def linear(path: str, name: str, kernel: str = "/weight", bias: str = "/bias") -> tuple[Rule, Rule]:
    """Rules of a linear layer that others call `name`. kernel, bias: what they append to it for the two parameters."""
    return Rule(rf"{path}/kernel", name + kernel, KERNEL), Rule(rf"{path}/bias", name + bias)


Arrays = Mapping[str, np.ndarray]


def as_they_are(arrays: Arrays, model: Any) -> Arrays:
    """The arrays of a file that needs no step of its own."""
    return arrays


def _several(name: str) -> tuple[str, ...]:
    """The names that a rule's name stands for."""
    start, brace, rest = name.partition("{")
    if not brace:
        return (name,)
    words, _, end = rest.partition("}")
    return tuple(start + word + end for word in words.split(","))


@dataclass(frozen=True)
class Naming:
    """One publisher's names for a family.

    rules: names and layouts. The first rule that matches a path is used.
    renames: pattern at the start of a path, and its replacement, which the rules then see. The first match is used.
        A replacement may refer to groups of its pattern.
    constants: arrays that the model computes and their files store, by their names. Reading compares them; saving
        writes them.
    read: (a file's arrays, model) -> the arrays that the rules name, where they are not the same. write: the way back.
    """

    rules: tuple[Rule, ...]
    renames: tuple[tuple[str, str], ...] = ()
    constants: Callable[[Any], dict[str, np.ndarray]] = lambda model: {}
    read: Callable[[Arrays, Any], Arrays] = as_they_are
    write: Callable[[Arrays, Any], Arrays] = as_they_are

    def lookup(self, path: str) -> tuple[tuple[str, ...], Layout]:
        """Their names, mostly one, and the layout of our parameter or statistic `path`."""
        for pattern, start in self.renames:
            if match := re.match(pattern, path):
                path = match.expand(start) + path[match.end():]
                break
        rule = next(rule for rule in self.rules if re.fullmatch(rule.pattern, path))
        return _several(re.sub(rule.pattern, rule.name, path, count=1).replace("/", ".")), rule.layout


# Torch's names for weights, scales and running statistics, which every network has. The last rule matches any path.
TORCH = (
    Rule(r"(.+)/kernel", r"\1/weight", KERNEL),
    Rule(r"(.+)/scale", r"\1/weight"),
    Rule(r"(.+)/(mean|var)", r"\1/running_\2"),
    Rule(r".+", r"\g<0>"),
)


@dataclass(frozen=True)
class Composite(Naming):
    """The naming of a head on a backbone, where the backbone's paths (`backbone/...`) have a naming of their own.

    backbone, inner: the backbone and its naming. prefix: stands before the backbone's names in their files.
    """

    backbone: nn.Module = field(kw_only=True)
    inner: Naming = Naming(TORCH)
    prefix: str = "backbone."

    def lookup(self, path: str) -> tuple[tuple[str, ...], Layout]:
        if not path.startswith("backbone/"):
            return super().lookup(path)
        names, layout = self.inner.lookup(path.removeprefix("backbone/"))
        own = Layout(lambda array, model: layout.to_theirs(array, self.backbone),
                     lambda array, model: layout.to_ours(array, self.backbone))
        return tuple(self.prefix + name for name in names), own


def model_images(model: nn.Module) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes of the inputs that an image model's `init` takes: one image."""
    return (jax.ShapeDtypeStruct((1, *as_pair(model.image_size), model.in_channels), jnp.float32),)


Fit = Callable[[np.ndarray, tuple[int, ...], Any, tuple[int, int] | None], np.ndarray]


@dataclass(frozen=True)
class Family:
    """One family's table.

    namings: publisher ("timm", "torchvision", "official", "transformers") -> names. Files are written in the first by
        default.
    inputs: shapes of the inputs that `init` takes.
    fresh: pattern of their names that a file may lack, or hold in another shape. The model initialises these.
    ignored: pattern of their names that a file may hold although the model has no use for them.
    resized: pattern of their names -> function that makes an array of another size fit: (array, wanted shape, model,
        height and width of the images it was trained with, None where unknown).
    """

    namings: Mapping[str, Naming]
    inputs: Callable[[Any], tuple[Any, ...]] = model_images
    fresh: str = NOTHING
    ignored: str = NOTHING
    resized: Mapping[str, Fit] = field(default_factory=dict)
