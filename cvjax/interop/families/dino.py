"""The names of DINO's full checkpoints: `backbone.` and the backbone's own names, `head.mlp.0.weight` and so on.

An authors' file holds two such networks. `load_weights(model, file, part="student")` takes the student; without `part`
it takes the teacher.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.interop.families.registry import family_of, register
from cvjax.interop.naming import KERNEL, TORCH, Composite, Family, Layout, Naming, Rule, as_they_are
from cvjax.models.dino import DINO

_LENGTHS = Layout(lambda array, model: array.T, lambda array, model: array.T)  # (1, K) <-> (K, 1)
_HEAD = (Rule("(head/last_layer/weight_v)", r"\1", KERNEL), Rule("(head/last_layer/weight_g)", r"\1", _LENGTHS), *TORCH)


def dino(model: DINO) -> Family:
    """The table of a DINO network: every publisher's names from the backbone's table, `family_of(backbone)`."""
    backbone = family_of(model.backbone)
    lengths = {"head.last_layer.weight_g": np.ones((model.head.out_dim, 1), np.float32)}

    def constants(naming: Naming) -> Callable[[DINO], dict[str, np.ndarray]]:
        return lambda model: {f"backbone.{name}": array for name, array in naming.constants(model.backbone).items()} | (
            lengths if model.head.norm_last_layer else {})

    def inputs(model: DINO) -> tuple[list[jax.ShapeDtypeStruct]]:
        (images,) = backbone.inputs(model.backbone)
        return ([jax.ShapeDtypeStruct((1, *images.shape), jnp.float32)],)

    namings = {publisher: Composite(_HEAD, constants=constants(naming), backbone=model.backbone, inner=naming)
               for publisher, naming in backbone.namings.items() if naming.read is as_they_are}
    return Family(namings=namings, inputs=inputs)


register(DINO, dino)
