"""What ResNet v2 and BiT have besides ResNet's blocks; their numbers are compared with timm's in tests/parity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.conv import Conv, standardized
from cvjax.layers.drop_path import DropPath
from cvjax.layers.feature_maps import feature_maps
from cvjax.models.resnet_v2 import ResNetV2
from cvjax.workflow.classification.transfer import module_order
from tests.models.drawn import balanced_like


def resnet(**fields: Any) -> ResNetV2:
    return ResNetV2(**dict(depths=(1, 2), width=8, num_classes=3, image_size=16) | fields)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (4, 16, 16, 3))


@pytest.fixture(scope="module")
def variables(images: jax.Array) -> Any:
    return balanced_like(jax.eval_shape(resnet().init, jax.random.key(0), images))


def test_filters_are_standardised() -> None:
    kernel = 3 + 5 * jax.random.normal(jax.random.key(0), (3, 3, 4, 7))
    found = standardized(kernel, 1e-8).reshape(-1, 7)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(found.var(0), 1, rtol=1e-5)
    x = jax.random.normal(jax.random.key(1), (1, 5, 5, 4))
    plain, scaled = (Conv(7, 3, use_bias=False, standardize=1e-8).apply({"params": {"kernel": k}}, x)
                     for k in (kernel, 2 * kernel + 1))
    np.testing.assert_allclose(scaled, plain, rtol=1e-4, atol=1e-4)
    assert jnp.abs(Conv(7, 3, use_bias=False).apply({"params": {"kernel": kernel}}, x) - plain).max() > 1


def test_what_a_group_normalised_network_says_of_an_image_depends_on_no_other(images: jax.Array) -> None:
    model = resnet(width=32, depths=(1,), normalization="group", weight_standardization=1e-8, zero_padded_pool=True)
    variables = balanced_like(jax.eval_shape(model.init, jax.random.key(0), images))
    assert set(variables) == {"params"}
    apply = jax.jit(lambda x: model.apply(variables, x, train=True))
    np.testing.assert_allclose(apply(images)[:1], apply(images[:1]), rtol=1e-4, atol=1e-5)


def test_zeros_around_the_map_can_be_its_maximum(images: jax.Array) -> None:
    """All numbers of the stem's map are negative: where zeros take part, the border is zero and the rest is not."""
    variables = balanced_like(jax.eval_shape(resnet().init, jax.random.key(0), images))
    variables["params"]["conv1"]["kernel"] = -jnp.abs(variables["params"]["conv1"]["kernel"])
    maps = {}
    for padded in (True, False):
        model = resnet(zero_padded_pool=padded, depths=(0,))
        params = {name: leaf for name, leaf in variables["params"].items() if not name.startswith("stages")}
        maps[padded] = feature_maps(model, {"params": params}, jnp.abs(images) + 1)["stages_0"]
    assert maps[False].max() < 0
    np.testing.assert_array_equal(maps[True][:, 0], 0)
    np.testing.assert_array_equal(maps[True][:, :, 0], 0)
    np.testing.assert_array_equal(maps[True][:, 1:, 1:], maps[False][:, 1:, 1:])


def test_shortcuts_pass_what_comes_in(variables: Any, images: jax.Array) -> None:
    """Eq. 4 with an identity: a block whose last convolution is zero changes nothing, negative numbers included."""
    maps = feature_maps(resnet(), variables, images)
    silent = jax.tree.map(lambda x: x, variables)
    silent["params"]["stages_1"]["1"]["conv3"]["kernel"] *= 0.0
    one = resnet(depths=(1, 1))
    shorter = jax.tree.map(lambda x: x, silent)
    for part in shorter.values():
        part["stages_1"] = {"0": part["stages_1"]["0"]}
    expected = feature_maps(one, shorter, images)
    assert expected["stages_1"].min() < 0
    np.testing.assert_allclose(feature_maps(resnet(), silent, images)["stages_1"], expected["stages_1"], atol=1e-6)
    assert {name: leaf.shape for name, leaf in maps.items()} == {
        "stem": (4, 8, 8, 8), "stages_0": (4, 4, 4, 32), "stages_1": (4, 2, 2, 64)}


def test_the_features_of_an_image_come_before_the_head(variables: Any, images: jax.Array) -> None:
    apply = jax.jit(resnet().apply, static_argnames="method")
    features = apply(variables, images, method="features")
    head = variables["params"]["head"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], apply(variables, images), atol=1e-5)
    assert features.min() >= 0  # the mean of a ReLU
    for side in (1, 7):  # images of any size
        assert apply(variables, jnp.zeros((1, side, side, 3))).shape == (1, 3)


def test_layers_are_counted_in_the_order_of_the_network() -> None:
    order = list(dict.fromkeys(path.split("/")[0] for path in module_order(resnet(stem="deep"))))
    assert order == ["conv1", "stages_0", "stages_1", "norm", "head"]


def test_drop_path_grows(variables: Any, images: jax.Array) -> None:
    rates: list[float] = []

    def watch(module: object, _: str) -> bool:
        rates.extend([module.rate] if isinstance(module, DropPath) else [])
        return False

    jax.eval_shape(lambda: resnet(drop_path=0.4).apply(variables, images, capture_intermediates=watch))
    np.testing.assert_allclose(rates, [0.0, 0.2, 0.4], atol=1e-9)
