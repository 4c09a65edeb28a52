"""LeNet-5's sizes and table I; its numbers are compared with torch's in tests/parity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.feature_maps import feature_maps
from cvjax.models.lenet import LeNet
from tests.models.drawn import random_like

# LeCun et al. 1998, table I as printed: rows are maps of S2, columns maps of C3.
TABLE = ("X...XXX..XXXX.XX",
         "XX...XXX..XXXX.X",
         "XXX...XXX..X.XXX",
         ".XXX..XXXX..X.XX",
         "..XXX..XXXX.XX.X",
         "...XXX..XXXX.XXX")


def variables_of(model: LeNet) -> Any:
    return random_like(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1))))


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (3, 32, 32, 1))


@pytest.fixture(scope="module")
def variables() -> Any:
    return variables_of(LeNet())


def test_parameters_of_each_layer_are_the_papers() -> None:
    for partial_c3, c3 in ((False, 2_416), (True, 1_516)):
        params = variables_of(LeNet(partial_c3=partial_c3))["params"]
        layers = {name: sum(leaf.size for leaf in jax.tree.leaves(leaves)) for name, leaves in params.items()}
        assert layers == {"c1": 156, "c3": c3, "c5": 48_120, "f6": 10_164, "output": 850}


def test_absent_connections_of_c3_are_absent(images: jax.Array) -> None:
    model = LeNet(partial_c3=True)
    variables = variables_of(model)

    def sums(offset: jax.Array) -> jax.Array:
        offsets = {"perturbations": {"maps": {"s2": offset}}}
        return model.apply({**variables, **offsets}, images, maps=["c3"])["c3"].sum((0, 1, 2))

    jacobian = jax.jit(jax.jacrev(sums))(jnp.zeros((3, 14, 14, 6)))  # (maps of C3, B, 14, 14, maps of S2)
    sees = np.asarray(jnp.abs(jacobian).max((1, 2, 3)) > 0)
    np.testing.assert_array_equal(sees.T, np.array([list(row) for row in TABLE]) == "X")


@pytest.mark.parametrize("fields", [{}, dict(partial_c3=True), dict(activation="relu", pooling="max")], ids=str)
def test_every_parameter_receives_a_gradient(fields: dict, images: jax.Array) -> None:
    model = LeNet(**fields)
    variables = variables_of(model)
    grads = jax.jit(jax.grad(lambda v: jnp.square(model.apply(v, images, train=True)).sum()))(variables)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert jnp.abs(leaf).max() > 1e-2, jax.tree_util.keystr(path)
    if "activation" not in fields:  # a ReLU may be silent
        assert (grads["params"]["c3"]["kernel"] != 0).all()


def test_features_come_before_the_head(variables: Any, images: jax.Array) -> None:
    features = LeNet().apply(variables, images, method="features")
    head = variables["params"]["output"]
    assert features.shape == (3, 84)
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], LeNet().apply(variables, images), atol=1e-5)
    params = {name: leaf for name, leaf in variables["params"].items() if name != "output"}
    np.testing.assert_array_equal(LeNet(num_classes=0).apply({"params": params}, images), features)


def test_named_maps(variables: Any, images: jax.Array) -> None:
    shapes = {name: x.shape for name, x in feature_maps(LeNet(), variables, images).items()}
    assert shapes == {"c1": (3, 28, 28, 6), "s2": (3, 14, 14, 6), "c3": (3, 10, 10, 16), "s4": (3, 5, 5, 16),
                      "c5": (3, 1, 1, 120)}
    assert list(shapes) == ["c1", "s2", "c3", "s4", "c5"]


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(images: jax.Array) -> None:
    exact, rough = LeNet(partial_c3=True), LeNet(partial_c3=True, dtype=jnp.bfloat16)
    variables = variables_of(rough)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    near, logits = rough.apply(variables, images), exact.apply(variables, images)
    assert near.dtype == jnp.float32
    assert rough.apply(variables, images, method="features").dtype == jnp.bfloat16
    assert 1e-4 < jnp.abs(near - logits).max() / jnp.abs(logits).max() < 3e-2


def test_sizes_that_work_and_those_that_do_not(variables: Any) -> None:
    def init(*shape: int, **fields: Any) -> Any:
        return jax.eval_shape(LeNet(**fields).init, jax.random.key(0), jnp.zeros(shape))

    assert init(1, 28, 28, 1, image_size=28)["params"]["c5"]["kernel"].shape == (4, 4, 16, 120)
    assert init(1, 16, 40, 3, image_size=(16, 40), in_channels=3)["params"]["c5"]["kernel"].shape == (1, 7, 16, 120)
    for size in (8, 15):
        with pytest.raises(ValueError, match=rf"images of {size}x{size} pixels are too small: .* at least 16\b"):
            init(1, size, size, 1, image_size=size)
    with pytest.raises(ValueError, match="images of 28x28 pixels do not fit: the model's field image_size says 32x32"):
        LeNet().apply(variables, jnp.zeros((1, 28, 28, 1)))
    with pytest.raises(ValueError, match=r"images have 3 channels, the model takes 1\b"):
        LeNet().apply(variables, jnp.zeros((1, 32, 32, 3)))
