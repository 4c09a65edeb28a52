"""AlexNet's and VGG's published names and layouts, on small networks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.interop import load_weights, to_state_dict
from cvjax.interop.families import family_of
from cvjax.models import create_model

VGG = dict(width=2, fc_width=4, num_classes=3, image_size=32)
ALEXNET = dict(widths=(2, 4, 6, 6, 4), fc_width=4, num_classes=3, image_size=67)


def variables_of(model: nn.Module) -> Any:
    """Random numbers in the place of every parameter and statistic."""
    images = jnp.zeros((1, model.image_size, model.image_size, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize("name, last", [("vgg11", 18), ("vgg16", 28), ("vgg19", 34), ("vgg16_bn", 40)])
def test_places_of_vggs_last_convolution(name: str, last: int) -> None:
    model = create_model(name, **VGG)
    variables = variables_of(model)
    for layout in ("torchvision", "timm"):
        weights = to_state_dict(variables, model, layout)
        convolutions = [key for key, array in weights.items() if key.startswith("features") and array.ndim == 4]
        assert max(int(key.split(".")[1]) for key in convolutions) == last


@pytest.mark.parametrize("name, fields", [("vgg11", VGG), ("vgg13_bn", VGG), ("alexnet", ALEXNET),
                                          ("alexnet_grouped", ALEXNET)])
def test_every_layout_comes_back_bit_for_bit(name: str, fields: dict) -> None:
    model = create_model(name, **fields)
    variables = variables_of(model)
    for layout in family_of(model).namings:
        again = load_weights(model, to_state_dict(variables, model, layout))
        assert jax.tree.structure(again) == jax.tree.structure(variables)
        assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(variables)))


def test_the_first_linear_layer_reads_channels_first_there() -> None:
    row, column, channel = 2, 5, 3
    model = create_model("vgg11", **VGG)
    variables = variables_of(model)
    ours = variables["params"]["fc6"]["kernel"][(row * 7 + column) * 16 + channel]
    torchvision, timm = (to_state_dict(variables, model, layout) for layout in ("torchvision", "timm"))
    np.testing.assert_array_equal(torchvision["classifier.0.weight"][:, (channel * 7 + row) * 7 + column], ours)
    np.testing.assert_array_equal(timm["pre_logits.fc1.weight"][:, channel, row, column], ours)
    assert timm["pre_logits.fc2.weight"].shape == (4, 4, 1, 1)

    model = create_model("alexnet", **ALEXNET)
    variables = variables_of(model)
    ours = variables["params"]["fc6"]["kernel"][(row * 6 + column) * 4 + channel]
    np.testing.assert_array_equal(
        to_state_dict(variables, model)["classifier.1.weight"][:, (channel * 6 + row) * 6 + column], ours)


@pytest.mark.parametrize("name, fields, layout", [("vgg11", VGG, "torchvision"), ("vgg11", VGG, "timm"),
                                                  ("alexnet", ALEXNET, "torchvision"),
                                                  ("alexnet_grouped", ALEXNET, "caffe")])
def test_a_head_of_other_classes_starts_fresh(name: str, fields: dict, layout: str) -> None:
    model = create_model(name, **fields)
    variables = variables_of(model)
    weights = to_state_dict(variables, model, layout)
    other = load_weights(model.clone(num_classes=7), weights)["params"]
    assert other["fc8"]["kernel"].shape == (4, 7)
    np.testing.assert_array_equal(other["fc7"]["kernel"], variables["params"]["fc7"]["kernel"])
    assert "fc8" not in load_weights(model.clone(num_classes=0), weights)["params"]
