"""AlexNet's arithmetic and its two halves; its numbers are compared with torch's in tests/parity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.feature_maps import feature_maps
from cvjax.models import create_model
from cvjax.models.alexnet import AlexNet
from tests.models.drawn import random_like

SMALL = dict(widths=(8, 12, 16, 16, 12), fc_width=10, num_classes=5)


def alexnet(name: str = "alexnet", **fields: Any) -> AlexNet:
    return create_model(name, **SMALL | fields)


def variables_of(model: AlexNet) -> Any:
    return random_like(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 79, 79, 3))))


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (2, 79, 71, 3))


@pytest.fixture(scope="module")
def variables() -> Any:
    return variables_of(alexnet())


def full_size(name: str) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes of the maps of one image, and weights of each layer without biases."""
    model = create_model(name)
    images = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    maps = jax.eval_shape(lambda v, x: feature_maps(model, v, x), variables, images)
    return ({map_name: x.shape[1:] for map_name, x in maps.items()},
            {layer: leaves["kernel"].size for layer, leaves in variables["params"].items()})


def test_the_arithmetic_of_2012() -> None:
    """The widely taught 35k, 307k, 884k, 663k and 442k weights are those of the grouped network."""
    maps, weights = full_size("alexnet_grouped")
    assert maps == {"conv1": (55, 55, 96), "pool1": (27, 27, 96), "conv2": (27, 27, 256), "pool2": (13, 13, 256),
                    "conv3": (13, 13, 384), "conv4": (13, 13, 384), "conv5": (13, 13, 256), "pool5": (6, 6, 256)}
    assert weights == {"conv1": 34_848, "conv2": 307_200, "conv3": 884_736, "conv4": 663_552, "conv5": 442_368,
                       "fc6": 37_748_736, "fc7": 16_777_216, "fc8": 4_096_000}


def test_the_arithmetic_of_the_single_stream() -> None:
    maps, weights = full_size("alexnet")
    assert maps == {"conv1": (55, 55, 64), "pool1": (27, 27, 64), "conv2": (27, 27, 192), "pool2": (13, 13, 192),
                    "conv3": (13, 13, 384), "conv4": (13, 13, 256), "conv5": (13, 13, 256), "pool5": (6, 6, 256)}
    assert weights["conv2"] == 307_200 and weights["conv3"] == 663_552  # 64 and 192 channels are halves of 2012's


def test_the_halves_meet_in_conv3_alone(images: jax.Array) -> None:
    model = alexnet("alexnet_grouped")
    variables = variables_of(model)
    paths = (("pool1", "conv2"), ("pool2", "conv3"), ("conv3", "conv4"), ("conv4", "conv5"))

    def first_halves(offsets: dict[str, jax.Array]) -> jax.Array:
        targets = [target for _, target in paths]
        maps = model.apply({**variables, "perturbations": {"maps": offsets}}, images, maps=targets)
        return jnp.stack([maps[target][..., :maps[target].shape[-1] // 2].sum() for target in targets])

    shapes = jax.eval_shape(lambda: feature_maps(model, variables, images))
    jacobian = jax.jit(jax.jacrev(first_halves))({source: jnp.zeros(shapes[source].shape) for source, _ in paths})
    for i, (source, target) in enumerate(paths):
        near, far = jnp.split(jnp.abs(jacobian[source][i]).max((0, 1, 2)), 2)
        assert (near > 0).any(), target
        assert bool((far > 0).any()) == (target == "conv3"), target


@pytest.mark.parametrize("name", ["alexnet", "alexnet_grouped"])
def test_every_parameter_receives_a_gradient(name: str, images: jax.Array) -> None:
    model = alexnet(name)
    variables = variables_of(model)
    grads = jax.jit(jax.grad(lambda v: jnp.square(model.apply(
        v, images, train=True, rngs={"dropout": jax.random.key(2)})).sum()))(variables)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert jnp.abs(leaf).max() > 1e-3, jax.tree_util.keystr(path)


def test_features_come_before_the_head(variables: Any, images: jax.Array) -> None:
    model = alexnet()
    features = model.apply(variables, images, method="features")
    head = variables["params"]["fc8"]
    assert features.shape == (2, 10)
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], model.apply(variables, images), atol=1e-5)
    params = {name: leaf for name, leaf in variables["params"].items() if name != "fc8"}
    np.testing.assert_array_equal(alexnet(num_classes=0).apply({"params": params}, images), features)
    last = model.apply(variables, images, method="convolutions")
    np.testing.assert_array_equal(model.apply(variables, last, method="fully_connected"), features)


def test_dropout_acts_in_training_only(variables: Any, images: jax.Array) -> None:
    model = alexnet()
    plain = model.apply(variables, images, method="features")
    np.testing.assert_array_equal(alexnet(dropout=0.0).apply(variables, images, method="features", train=True), plain)
    first, again, other = (model.apply(variables, images, train=True, method="features",
                                       rngs={"dropout": jax.random.key(seed)}) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(first, plain)


@pytest.mark.slow
def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(images: jax.Array) -> None:
    exact, rough = alexnet("alexnet_grouped"), alexnet("alexnet_grouped", dtype=jnp.bfloat16)
    variables = variables_of(rough)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    near, logits = rough.apply(variables, images), exact.apply(variables, images)
    assert near.dtype == jnp.float32
    assert rough.apply(variables, images, method="features").dtype == jnp.bfloat16
    assert 1e-5 < jnp.abs(near - logits).max() / jnp.abs(logits).max() < 3e-2


def test_the_network_of_2012_starts_as_the_paper_says() -> None:
    model = alexnet("alexnet_grouped")
    key = jax.random.key(0, impl="rbg")  # compiles faster
    params = jax.jit(model.init)(key, jnp.zeros((1, 67, 67, 3)))["params"]
    ones = {layer for layer, leaves in params.items() if (leaves["bias"] == 1).all()}
    assert ones == {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert not any(params[layer]["bias"].any() for layer in params.keys() - ones)
    for layer in ("conv1", "conv3", "fc6"):
        assert 0.009 < params[layer]["kernel"].std() < 0.011


@pytest.mark.parametrize("name, least", [("alexnet", 63), ("alexnet_grouped", 67)])
def test_sizes_that_work_and_those_that_do_not(name: str, least: int) -> None:
    model = alexnet(name)

    def logits(*shape: int) -> Any:
        return jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros(shape))[0]

    assert logits(1, least, 3 * least, 3).shape == (1, 5)
    with pytest.raises(ValueError, match=rf"images of {least - 1}x90 pixels are too small: .* at least {least}\b"):
        logits(1, least - 1, 90, 3)
    with pytest.raises(ValueError, match="images have 1 channels, the model takes 3"):
        logits(1, least, least, 1)
