"""Which of timm's published weights build and load here, by the names and shapes of their parameters."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from cvjax.interop.naming import model_images
from cvjax.interop.weights import to_state_dict
from cvjax.models import create_model, list_models
from cvjax.models.image_model import ImageModel
from cvjax.models.swin_v2 import SwinTransformerV2
from cvjax.models.vit import VisionTransformer
from cvjax.timm_weights import timm_weights

Shapes = Mapping[str, tuple[int, ...]]


def fingerprint(shapes: Shapes) -> str:
    """Of the names and shapes of a state dict, in any order."""
    lines = [f"{name} {tuple(shape)}" for name, shape in sorted(shapes.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def state_shapes(model: ImageModel) -> Shapes:
    """The names and shapes of a model's state dict as timm has it; nothing is computed.

    Blocks of a ViT are alike, and a trace of forty takes seconds: the first one tells the others.
    """
    if isinstance(model, VisionTransformer) and model.depth > 1:
        one = state_shapes(model.clone(depth=1))
        return {re.sub(r"^blocks\.0\.", f"blocks.{i}.", name): shape
                for i in range(model.depth) for name, shape in one.items()}
    if isinstance(model, SwinTransformerV2):  # no parameter knows the image's or the window's size
        model = model.clone(image_size=64, window=2, pretrained_windows=None)
    variables = jax.eval_shape(model.init, jax.random.key(0), *model_images(model))
    stand_in = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), variables)
    return {name: array.shape for name, array in to_state_dict(stand_in, model, "timm").items()}


def loads(name: str) -> bool:
    """Whether the model of this name here has the parameters of timm's, whose files it then loads.

    Compared with 1000 classes. The name must be known here and on timm's list.
    """
    return fingerprint(state_shapes(create_model(name, num_classes=1000))) == timm_weights()[name].fingerprint


class Covered(NamedTuple):
    """One of timm's files: how many weights it lists, how many of them load here, and the names of the others.

    missing: names that are not here. differing: those that are, but with other parameters.
    """

    file: str
    weights: int
    loading: int
    missing: tuple[str, ...]
    differing: tuple[str, ...]


def coverage(known: Iterable[str] | None = None) -> Iterator[Covered]:
    """timm's files, one after the other as they are compared. known: the names here; None for all."""
    known = set(list_models() if known is None else known)
    listed = timm_weights()
    for file in dict.fromkeys(entry.file for entry in listed.values()):
        names = [name for name, entry in listed.items() if entry.file == file and entry.tags]
        missing = tuple(name for name in names if name not in known)
        differing = tuple(name for name in names if name in known and not loads(name))
        loading = [name for name in names if name not in (*missing, *differing)]
        weights, ours = (sum(len(listed[name].tags) for name in some) for some in (names, loading))
        yield Covered(file, weights, ours, missing, differing)
