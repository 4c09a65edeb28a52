"""timm's ResNets and ConvNeXts by their names: parameters and statistics have the stored names and shapes."""

import math

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cvjax.interop.families import family_of
from cvjax.interop.naming import model_images
from cvjax.models import create_model
from tests.interop.timm_convnets import STORED, fingerprint

# Each name of a part once, in networks that are quick to trace; one of two hundred layers takes seconds.
QUICK = ("convnext_atto_ols", "convnextv2_atto", "ecaresnet26t", "resnet10t", "seresnext26t_32x4d")


def names_and_shapes(name: str) -> tuple[dict[str, tuple[int, ...]], int]:
    """Of a model's state dict as timm names it, and the number of its parameters."""
    model = create_model(name)
    naming = family_of(model).namings["timm"]
    variables = jax.eval_shape(model.init, jax.random.key(0), *model_images(model))
    shapes = {}
    for path, leaf in flatten_dict(dict(variables)).items():
        (theirs,), layout = naming.lookup("/".join(path[1:]))
        shapes[theirs] = layout.to_theirs(np.broadcast_to(np.float32(0), leaf.shape), model).shape
    return shapes, sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
                                  for name in STORED["architectures"]])
def test_names_shapes_and_parameters_are_timms(name: str) -> None:
    stored = STORED["architectures"][name]
    shapes, parameters = names_and_shapes(name)
    assert (fingerprint(shapes), parameters) == (stored["fingerprint"], stored["parameters"])
