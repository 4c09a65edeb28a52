"""timm's ResNets, ConvNeXts and Swins by their names: parameters and statistics have the stored names and shapes."""

import math
from functools import cache

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cvjax.interop.families import family_of
from cvjax.interop.naming import model_images
from cvjax.models import create_model
from cvjax.models.image_model import ImageModel
from cvjax.models.swin_v2 import SwinTransformerV2
from tests.interop.timm_convnets import STORED, fingerprint

# Each name of a part once, in networks that are quick to trace; one of two hundred layers takes seconds.
QUICK = ("convnext_atto_ols", "convnextv2_atto", "ecaresnet26t", "resnet10t", "resnetv2_18d", "resnetv2_50x1_bit",
         "seresnext26t_32x4d", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256")


def without_windows(model: ImageModel) -> ImageModel:
    """A Swin V2 at one size: no parameter of it knows the image's or the window's. Others stay as they are."""
    same = dict(image_size=64, window=2, pretrained_windows=None)
    return model.clone(**same) if isinstance(model, SwinTransformerV2) else model


@cache
def names_and_shapes(model: ImageModel) -> tuple[dict[str, tuple[int, ...]], int]:
    """Of a model's state dict as timm names it, and the number of its parameters."""
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
    shapes, parameters = names_and_shapes(without_windows(create_model(name)))
    assert (fingerprint(shapes), parameters) == (stored["fingerprint"], stored["parameters"])
