"""How parameters are called and laid out in the files that others publish: what a family's table is made of.

A table says how a path here (`blocks/0/attn/qkv/kernel`) reads there (`blocks.0.attn.qkv.weight`). That one
direction serves both reading and writing.
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
    """The axes of one kind of parameter, here and there."""

    to_theirs: Callable[[np.ndarray, nn.Module], np.ndarray]
    to_ours: Callable[[np.ndarray, nn.Module], np.ndarray]


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


class Rule(NamedTuple):
    """A pattern of whole paths, the name it becomes (slashes turn to dots), and the layout."""

    pattern: str
    name: str
    layout: Layout = SAME


@dataclass(frozen=True)
class Naming:
    """One publisher's names for a family.

    rules: names and layouts; the first that matches a path holds.
    renames: pattern at the start of a path and what stands there for the rules; the first that matches holds.
    constants: what is computed here and stored there, by their names: compared when read, written when saved.
    """

    rules: tuple[Rule, ...]
    renames: tuple[tuple[str, str], ...] = ()
    constants: Callable[[nn.Module], dict[str, np.ndarray]] = lambda model: {}

    def lookup(self, path: str) -> tuple[str, Layout]:
        """Their name and the layout of our parameter or statistic `path`."""
        for pattern, start in self.renames:
            if match := re.match(pattern, path):
                path = start + path[match.end():]
                break
        rule = next(rule for rule in self.rules if re.fullmatch(rule.pattern, path))
        return re.sub(rule.pattern, rule.name, path, count=1).replace("/", "."), rule.layout


# Torch's names of what every network has: weights, scales, running statistics. The last rule takes every path.
TORCH = (
    Rule(r"(.+)/kernel", r"\1/weight", KERNEL),
    Rule(r"(.+)/scale", r"\1/weight"),
    Rule(r"(.+)/(mean|var)", r"\1/running_\2"),
    Rule(r".+", r"\g<0>"),
)


@dataclass(frozen=True)
class Composite(Naming):
    """The rules of a head on a backbone, whose paths begin with `backbone/` and have another naming.

    inner: the backbone's, after `prefix` in their names.
    """

    backbone: nn.Module | None = None
    inner: Naming = Naming(TORCH)
    prefix: str = "backbone."

    def lookup(self, path: str) -> tuple[str, Layout]:
        if not path.startswith("backbone/"):
            return super().lookup(path)
        name, layout = self.inner.lookup(path.removeprefix("backbone/"))
        return self.prefix + name, Layout(lambda array, model: layout.to_theirs(array, self.backbone),
                                          lambda array, model: layout.to_ours(array, self.backbone))


def model_images(model: nn.Module) -> tuple[jax.ShapeDtypeStruct, ...]:
    """What `init` of an image model takes."""
    return (jax.ShapeDtypeStruct((1, *as_pair(model.image_size), model.in_channels), jnp.float32),)


@dataclass(frozen=True)
class Family:
    """One family's table.

    namings: publisher ("timm", "torchvision", "official") -> names; the first is what is written by default.
    inputs: the shapes that `init` takes.
    fresh: pattern of their names that a file may lack or hold in another shape; the model starts those fresh.
    ignored: pattern of their names that a file may hold without any use here.
    resized: pattern of their names -> what makes an array of another shape fit: (array, shape it must get, model).
    """

    namings: Mapping[str, Naming]
    inputs: Callable[[nn.Module], tuple[Any, ...]] = model_images
    fresh: str = NOTHING
    ignored: str = NOTHING
    resized: Mapping[str, Callable[[np.ndarray, tuple[int, ...], nn.Module], np.ndarray]] = field(default_factory=dict)
