"""How parameters start, by their sources: deviations and ranges of what is drawn."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cvjax.models import create_model


def drawn(name: str, side: int, **fields: Any) -> dict[str, np.ndarray]:
    variables = jax.jit(create_model(name, **fields).init)(jax.random.key(0), jnp.zeros((1, side, side, 3)))
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(variables["params"], sep="/").items()}


def near(values: np.ndarray, deviation: float) -> bool:
    """A deviation estimated from N numbers is off by 1 / sqrt(2 N) of itself; four times that."""
    return abs(values.std() / deviation - 1) < 4 / (2 * values.size) ** 0.5


TINY = dict(image_size=32, patch_size=8, width=64, depth=2, heads=2, num_classes=50)


@pytest.mark.parametrize(("name", "fields"), [
    ("deit_tiny_patch16_224", TINY),
    ("swin_tiny_patch4_window7_224", dict(image_size=32, window=2, width=32, depths=(1, 1), heads=(2, 2),
                                          num_classes=50)),
    ("swinv2_tiny_window8_256", dict(image_size=32, window=2, width=32, depths=(1, 1), heads=(2, 2), num_classes=50)),
])
def test_linear_layers_of_deit_and_swin_start_at_a_deviation_of_two_hundredths(name: str, fields: dict) -> None:
    """Not cut at two deviations, which would leave 0.0176; the embedding starts as torch's convolutions do."""
    parameters = drawn(name, 32, **fields)
    kernels = {path: leaf for path, leaf in parameters.items() if path.endswith("kernel")}
    embedding = kernels.pop("patch_embed/proj/kernel")
    assert len(kernels) >= 8 and all(near(kernel, 0.02) for kernel in kernels.values())
    largest = max(abs(kernel).max() for kernel in kernels.values())
    assert largest > 0.06  # 1 in 370 lies beyond three deviations
    bound = embedding.shape[0] ** -0.5
    assert 0.95 * bound < abs(embedding).max() <= bound


def test_big_visions_vit_starts_with_three_xavier_matrices_and_a_head_of_zeros() -> None:
    fields = TINY | dict(class_token=False, pool="avg", position="sincos2d_moco", representation_size=48)
    parameters = drawn("vit_tiny_patch16_224", 32, weight_init="jax", **fields)
    assert not parameters["head/kernel"].any() and "pos_embed" not in parameters
    bound = (6 / (64 + 64)) ** 0.5
    assert 0.98 * bound < abs(parameters["blocks/0/attn/qkv/kernel"]).max() <= bound
    assert parameters["pre_logits/kernel"].shape == (64, 48)
    of_mae = drawn("vit_tiny_patch16_224", 32, **fields)["blocks/0/attn/qkv/kernel"]
    assert abs(of_mae).max() <= bound / 2**0.5 and of_mae.shape == (64, 192)


def test_the_representation_is_a_tanh_layer_before_the_head() -> None:
    model = create_model("vit_tiny_patch16_224", **TINY, representation_size=48)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    before = jax.jit(partial(model.clone(representation_size=0).apply, method="features"))(variables, images)
    layer = variables["params"]["pre_logits"]
    features = jax.jit(partial(model.apply, method="features"))(variables, images)
    np.testing.assert_allclose(features, np.tanh(before @ layer["kernel"] + layer["bias"]), atol=1e-6)
    head = variables["params"]["head"]
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"], atol=1e-6)


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(ValueError, match="weight_init=torch: it must be one of mae, timm, jax"):
        drawn("vit_tiny_patch16_224", 32, **TINY | dict(weight_init="torch"))


@pytest.mark.parametrize(("name", "deviation", "bias"), [
    ("googlenet", lambda fan_in: 0.01, 0.0), ("googlenet_lrn", lambda fan_in: fan_in**-0.5, 0.2)])
def test_googlenets_start_as_torchvisions_and_as_caffes(name: str, deviation: Any, bias: float) -> None:
    """Caffe's xavier is uniform with a variance of one over the fan-in; biases of hidden layers are 0.2 there."""
    parameters = drawn(name, 32, num_classes=50, inceptions=(("3a", (8, 8, 16, 8, 8, 8)), ("4a", (8, 8, 16, 8, 8, 8))))
    for path, leaf in parameters.items():
        if path.endswith("kernel"):
            assert near(leaf, deviation(leaf.size // leaf.shape[-1])), path
        elif re.search(r"(conv|fc1)/bias$", path):
            assert (leaf == bias).all(), path
    assert not parameters["fc/bias"].any() and not parameters["aux1/fc2/bias"].any()


def test_alexnet_of_2012_starts_as_the_paper_says() -> None:
    """Section 5: deviation 0.01; biases of one in conv2, conv4, conv5 and the hidden linear layers, otherwise zero."""
    parameters = drawn("alexnet_grouped", 67, fc_width=64, num_classes=50)
    assert all(near(leaf, 0.01) for path, leaf in parameters.items() if path.endswith("kernel"))
    biases = {path.split("/")[0]: set(leaf.tolist()) for path, leaf in parameters.items() if path.endswith("bias")}
    assert biases == {"conv1": {0}, "conv2": {1}, "conv3": {0}, "conv4": {1}, "conv5": {1}, "fc6": {1}, "fc7": {1},
                      "fc8": {0}}
