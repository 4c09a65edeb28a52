"""ResNet-9's properties; its numbers are compared with torch's in tests/parity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.feature_maps import feature_maps
from cvjax.models.resnet9 import LOGIT_SCALE, ResNet9
from tests.models.drawn import balanced_like

SMALL = dict(channels=(4, 6, 8, 10), image_size=8, num_classes=3)


@pytest.fixture(scope="module")
def variables() -> Any:
    model = ResNet9(**SMALL)
    return balanced_like(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))))


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (4, 16, 16, 3))


def test_every_parameter_receives_a_gradient(variables: Any, images: jax.Array) -> None:
    def loss(params: Any) -> jax.Array:
        logits, _ = ResNet9(**SMALL).apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.square(logits).sum()

    once = {"xla_backend_optimization_level": 0}  # compiled for one run
    gradients = jax.jit(jax.grad(loss), compiler_options=once)(variables["params"])
    assert [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
            if not jnp.abs(leaf).max() > 1e-5] == []


def test_maps_halve_and_only_the_first_and_the_last_layer_have_residuals() -> None:
    model, images = ResNet9(), jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    maps: list[tuple[str, tuple[int, ...]]] = []

    def trace(variables: Any) -> None:
        maps.extend((name, x.shape[1:]) for name, x in feature_maps(model, variables, images).items())

    jax.eval_shape(trace, variables)
    assert maps == [("prep", (32, 32, 64)), ("layer1", (16, 16, 128)), ("layer2", (8, 8, 256)), ("layer3", (4, 4, 512))]
    assert [set(variables["params"][f"layer{i}"]) for i in (1, 2, 3)] == [
        {"down", "res1", "res2"}, {"down"}, {"down", "res1", "res2"}]


def test_features_are_the_largest_values_and_logits_an_eighth_of_their_sums(variables: Any, images: jax.Array) -> None:
    model = ResNet9(**SMALL)
    features, maps, logits = jax.jit(lambda v: (
        model.apply(v, images, method="features"), feature_maps(model, v, images), model.apply(v, images)))(variables)
    np.testing.assert_array_equal(features, maps["layer3"].max((1, 2)))
    kernel = variables["params"]["fc"]["kernel"]
    np.testing.assert_allclose(logits, features @ kernel / 8, rtol=1e-5, atol=1e-6)
    assert LOGIT_SCALE == 1 / 8 and set(variables["params"]["fc"]) == {"kernel"}
    headless = {kind: {name: leaf for name, leaf in tree.items() if name != "fc"} for kind, tree in variables.items()}
    np.testing.assert_array_equal(jax.jit(ResNet9(**SMALL | {"num_classes": 0}).apply)(headless, images), features)


def test_bfloat16_keeps_float32_parameters_and_logits() -> None:
    model, images = ResNet9(**SMALL, dtype=jnp.bfloat16), jnp.zeros((1, 8, 8, 3))
    logits, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("shape, message", [
    ((7, 9, 3), "images of 7x9 pixels are too small: both sides must be at least 8"),
    ((8, 8, 1), "images have 1 channels, the model takes 3")])
def test_impossible_images_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(ResNet9(**SMALL).init, jax.random.key(0), jnp.zeros((1, *shape)))
    assert jax.eval_shape(ResNet9(**SMALL).init, jax.random.key(0), jnp.zeros((1, 9, 8, 3)))
