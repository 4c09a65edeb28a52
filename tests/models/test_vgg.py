"""VGG's properties; its numbers are compared with torchvision's and timm's in tests/parity."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.feature_maps import feature_maps
from cvjax.models import create_model
from cvjax.models.vgg import VGG
from tests.models.drawn import random_like

SMALL = dict(depths=(1, 2), width=4, fc_width=6, num_classes=5)


def vgg(**fields: Any) -> VGG:
    return VGG(**SMALL | fields)


def variables_of(model: VGG) -> Any:
    variables = random_like(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(jnp.exp, variables["batch_stats"])  # variances are positive
    return variables


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (4, 12, 16, 3))


@pytest.fixture(scope="module")
def variables() -> Any:
    return variables_of(vgg())


def test_configuration_d_has_the_papers_maps() -> None:
    model = create_model("vgg16")
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    maps = jax.eval_shape(lambda v, x: feature_maps(model, v, x), variables, images)
    expected = {}
    for stage, (depth, side, channels) in enumerate(
            [(2, 224, 64), (2, 112, 128), (3, 56, 256), (3, 28, 512), (3, 14, 512)], start=1):
        expected |= {f"conv{stage}_{i}": (1, side, side, channels) for i in range(1, depth + 1)}
        expected[f"pool{stage}"] = (1, side // 2, side // 2, channels)
    assert {name: x.shape for name, x in maps.items()} == expected


def test_maps_are_what_the_relus_and_poolings_give(variables: Any, images: jax.Array) -> None:
    maps = feature_maps(vgg(), variables, images)
    assert list(maps) == ["conv1_1", "pool1", "conv2_1", "conv2_2", "pool2"]
    for name, x in maps.items():
        assert x.min() >= 0, name
    np.testing.assert_array_equal(maps["pool1"], maps["conv1_1"].reshape(4, 6, 2, 8, 2, 4).max((2, 4)))
    np.testing.assert_array_equal(vgg().apply(variables, images, method="convolutions"), maps["pool2"])


@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_parameter_receives_a_gradient(batch_norm: bool, images: jax.Array) -> None:
    model = vgg(batch_norm=batch_norm)
    variables = variables_of(model)

    def loss(params: Any) -> jax.Array:
        logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"],
                                rngs={"dropout": jax.random.key(2)})
        return logits.sum()

    grads = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables["params"]))
    none = {jax.tree_util.keystr(path) for path, leaf in grads if not jnp.abs(leaf).max() > 1e-3}
    # A constant added to a whole channel is what batch norm takes away.
    assert none == ({f"['conv{layer}']['bias']" for layer in ("1_1", "2_1", "2_2")} if batch_norm else set())


def test_features_come_before_the_head(variables: Any, images: jax.Array) -> None:
    features = vgg().apply(variables, images, method="features")
    head = variables["params"]["fc8"]
    assert features.shape == (4, 6)
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], vgg().apply(variables, images), atol=1e-5)
    params = {name: leaf for name, leaf in variables["params"].items() if name != "fc8"}
    np.testing.assert_array_equal(vgg(num_classes=0).apply({"params": params}, images), features)


def test_dropout_acts_in_training_only(variables: Any, images: jax.Array) -> None:
    plain = vgg().apply(variables, images, method="features")
    np.testing.assert_array_equal(vgg(dropout=0.0).apply(variables, images, method="features", train=True), plain)
    first, again, other = (vgg().apply(variables, images, train=True, method="features",
                                       rngs={"dropout": jax.random.key(seed)}) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(first, plain)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(batch_norm: bool, images: jax.Array) -> None:
    exact, rough = vgg(batch_norm=batch_norm), vgg(batch_norm=batch_norm, dtype=jnp.bfloat16)
    variables = variables_of(rough)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    near, logits = rough.apply(variables, images), exact.apply(variables, images)
    assert near.dtype == jnp.float32
    assert rough.apply(variables, images, method="features").dtype == jnp.bfloat16
    assert 1e-4 < jnp.abs(near - logits).max() / jnp.abs(logits).max() < 5e-2


def test_a_batch_split_over_a_named_axis_is_normalised_as_one(images: jax.Array) -> None:
    variables = variables_of(vgg(batch_norm=True))

    def features(axis_name: str | None, images: jax.Array) -> jax.Array:
        model = vgg(batch_norm=True, axis_name=axis_name, dropout=0.0)
        return model.apply(variables, images, train=True, mutable=["batch_stats"], method="features")[0]

    split = jax.jit(jax.vmap(partial(features, "shards"), axis_name="shards"))(images.reshape(2, 2, 12, 16, 3))
    whole = jax.jit(partial(features, None))(images)
    np.testing.assert_allclose(split.reshape(4, 6), whole, atol=1e-5 * jnp.abs(whole).max())


def test_layers_start_as_torchvisions() -> None:
    model = vgg(depths=(1,), width=32, fc_width=64)
    key = jax.random.key(0, impl="rbg")  # compiles faster
    params = jax.jit(model.init)(key, jnp.zeros((1, 8, 8, 3)))["params"]
    for layer, deviation in (("conv1_1", np.sqrt(2 / (9 * 32))), ("fc6", 0.01), ("fc7", 0.01)):
        np.testing.assert_allclose(params[layer]["kernel"].std(), deviation, rtol=0.1)
        assert not params[layer]["bias"].any()


def test_impossible_requests_are_refused() -> None:
    def init(*shape: int, **fields: Any) -> Any:
        return jax.eval_shape(create_model("vgg11", **fields).init, jax.random.key(0), jnp.zeros(shape))

    init(1, 32, 50, 1, in_channels=1)
    with pytest.raises(ValueError, match="images of 31x50 pixels are too small: both sides must be at least 32"):
        init(1, 31, 50, 3)
    with pytest.raises(ValueError, match="images have 1 channels, the model takes 3"):
        init(1, 32, 32, 1)
