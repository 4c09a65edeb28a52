"""How a model family's parameters are called and laid out in the files that others publish: one table each.

A table says how a path here (`blocks/0/attn/qkv/kernel`) reads there (`blocks.0.attn.qkv.weight`). That one
direction serves both reading and writing.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.models.mae import MaskedAutoencoder
from cvjax.models.vit import VisionTransformer, as_pair
from cvjax.ops.patches import patch_grid
from cvjax.ops.position import resize_positions, sincos_2d

NOTHING = r"(?!)"  # a pattern that matches no name


class Layout(NamedTuple):
    """The axes of one kind of parameter, here and there."""

    to_theirs: Callable[[np.ndarray, nn.Module], np.ndarray]
    to_ours: Callable[[np.ndarray], np.ndarray]


def _patches_to_convolution(kernel: np.ndarray, model: nn.Module) -> np.ndarray:
    p = model.patch_size
    return kernel.reshape(p, p, model.in_channels, -1).transpose(3, 2, 0, 1)


def _convolution_to_patches(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])


SAME = Layout(lambda array, model: array, lambda array: array)
LINEAR = Layout(lambda array, model: array.T, lambda array: array.T)  # (in, out) <-> (out, in)
PATCHES = Layout(_patches_to_convolution, _convolution_to_patches)  # (p*p*C, D) <-> (D, C, p, p)


class Rule(NamedTuple):
    """A pattern of whole paths, the name it becomes (slashes turn to dots), and the layout."""

    pattern: str
    name: str
    layout: Layout = SAME


@dataclass(frozen=True)
class Family:
    """One family's table.

    inputs: the shapes that `init` takes.
    rules: names and layouts; the first that matches a path holds.
    renames: pattern at the start of a path and what stands there for the rules; the first that matches holds.
    constants: what is computed here and stored there: compared when read, written when saved.
    fresh: pattern of their names that a file may lack or hold in another shape; the model starts those fresh.
    ignored: pattern of their names that a file may hold without any use here.
    resized: their name -> what makes an array of another shape fit the model.
    """

    inputs: Callable[[nn.Module], tuple[jax.ShapeDtypeStruct, ...]]
    rules: tuple[Rule, ...]
    renames: tuple[tuple[str, str], ...] = ()
    constants: Callable[[nn.Module], dict[str, np.ndarray]] = lambda model: {}
    fresh: str = NOTHING
    ignored: str = NOTHING
    resized: Mapping[str, Callable[[np.ndarray, nn.Module], np.ndarray]] = field(default_factory=dict)

    def lookup(self, path: str) -> tuple[str, Layout]:
        """Their name and the layout of our parameter `path`."""
        for pattern, start in self.renames:
            if match := re.match(pattern, path):
                path = start + path[match.end():]
                break
        rule = next(rule for rule in self.rules if re.fullmatch(rule.pattern, path))
        return re.sub(rule.pattern, rule.name, path, count=1).replace("/", "."), rule.layout


# timm's names of a transformer's parameters, used by the authors of MAE too. The last rule takes every path.
TRANSFORMER = (
    Rule(r"patch_embed/proj/kernel", "patch_embed/proj/weight", PATCHES),
    Rule(r"(.+)/kernel", r"\1/weight", LINEAR),
    Rule(r"(.+)/scale", r"\1/weight"),
    Rule(r".+", r"\g<0>"),
)


def _images(model: nn.Module) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *as_pair(model.image_size), model.in_channels), jnp.float32)


def _stored_positions(width: int, grid: tuple[int, int]) -> np.ndarray:
    """Fixed positions as files hold them, with zeros for the class token: `(1, 1 + L, width)`."""
    return np.concatenate([np.zeros((1, width), np.float32), sincos_2d(width, grid)])[None]


def _vit_grid(model: VisionTransformer) -> tuple[int, int]:
    return patch_grid(*as_pair(model.image_size), model.patch_size)


def _vit_constants(model: VisionTransformer) -> dict[str, np.ndarray]:
    if model.position == "learned":
        return {}
    return {"pos_embed": _stored_positions(model.width, _vit_grid(model))}


def _fit_positions(positions: np.ndarray, model: VisionTransformer) -> np.ndarray:
    """Positions `(1, 1 + L, D)` of a square grid to the model's; a grid that is not square stays as it is."""
    side = math.isqrt(positions.shape[1] - 1)
    if side * side != positions.shape[1] - 1:
        return positions
    patches = resize_positions(jnp.asarray(positions[0, 1:]), (side, side), _vit_grid(model))
    return np.concatenate([positions[:, :1], np.asarray(patches)[None]], axis=1)


def _mae_inputs(model: MaskedAutoencoder) -> tuple[jax.ShapeDtypeStruct, ...]:
    return _images(model), jax.ShapeDtypeStruct((1, math.prod(model.grid)), jnp.float32)


def _mae_constants(model: MaskedAutoencoder) -> dict[str, np.ndarray]:
    return {"pos_embed": _stored_positions(model.width, model.grid),
            "decoder_pos_embed": _stored_positions(model.decoder_width, model.grid)}


FAMILIES: dict[type[nn.Module], Family] = {
    # The head and the norm that goes with it belong to a task, so another task starts them fresh. An MAE's
    # decoder is of no use.
    VisionTransformer: Family(
        inputs=lambda model: (_images(model),),
        rules=TRANSFORMER,
        constants=_vit_constants,
        fresh=r"(head|fc_norm)\..+",
        ignored=r"(head|fc_norm|norm)\..+|decoder_.+|mask_token",
        resized={"pos_embed": _fit_positions},
    ),
    MaskedAutoencoder: Family(
        inputs=_mae_inputs,
        rules=TRANSFORMER,
        renames=((r"encoder/", ""), (r"decoder/(?=mask_token)", ""), (r"decoder/", "decoder_")),
        constants=_mae_constants,
    ),
}


def family_of(model: nn.Module) -> Family:
    """The table of a model's family; ValueError where there is none."""
    if type(model) not in FAMILIES:
        raise ValueError(f"no weight table for {type(model).__name__}; there are tables for "
                         f"{', '.join(sorted(module.__name__ for module in FAMILIES))}")
    return FAMILIES[type(model)]
