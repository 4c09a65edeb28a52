"""The linear classifier and the multilayer perceptron."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.models.baselines import Linear, MultilayerPerceptron

SIZE = dict(image_size=(4, 6), num_classes=3)
LINEAR, MLP = Linear(**SIZE), MultilayerPerceptron(hidden=(7, 5), **SIZE)
IMAGES = jax.random.normal(jax.random.key(1), (5, 4, 6, 3))


def variables_of(model: nn.Module) -> Any:
    """Drawn by NumPy: initialisers take longer to compile than these models to run."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


def test_a_linear_classifier_compares_with_templates() -> None:
    variables = variables_of(LINEAR)
    templates = variables["params"]["fc"]["kernel"].reshape(4, 6, 3, 3)
    scores = jnp.einsum("bhwc,hwcn->bn", IMAGES, templates) + variables["params"]["fc"]["bias"]
    np.testing.assert_allclose(LINEAR.apply(variables, IMAGES), scores, atol=1e-5)


def test_a_perceptron_by_hand() -> None:
    variables = variables_of(MLP)
    x = np.asarray(IMAGES).reshape(5, -1)
    for name in ("layers_0", "layers_1"):
        x = np.maximum(x @ variables["params"][name]["kernel"] + variables["params"][name]["bias"], 0)
    assert x.shape == (5, 5)
    np.testing.assert_allclose(MLP.apply(variables, IMAGES, method="features"), x, atol=1e-5)
    head = variables["params"]["fc"]
    np.testing.assert_allclose(MLP.apply(variables, IMAGES), x @ head["kernel"] + head["bias"], atol=1e-5)


@pytest.mark.parametrize("model", [LINEAR, MLP], ids=["linear", "mlp"])
def test_every_parameter_receives_a_gradient(model: nn.Module) -> None:
    grads = jax.grad(lambda v: jnp.square(model.apply(v, IMAGES, train=True)).sum())(variables_of(model))
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert jnp.abs(leaf).max() > 1e-4, jax.tree_util.keystr(path)


@pytest.mark.parametrize("model", [LINEAR, MLP], ids=["linear", "mlp"])
def test_features_come_before_the_head(model: nn.Module) -> None:
    variables = variables_of(model)
    features = model.apply(variables, IMAGES, method="features")
    params = {name: leaf for name, leaf in variables["params"].items() if name != "fc"}
    np.testing.assert_array_equal(model.clone(num_classes=0).apply({"params": params}, IMAGES), features)


@pytest.mark.parametrize("model", [LINEAR, MLP], ids=["linear", "mlp"])
def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(model: nn.Module) -> None:
    rough = model.clone(dtype=jnp.bfloat16)
    variables = variables_of(rough)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    near, logits = rough.apply(variables, IMAGES), model.apply(variables, IMAGES)
    assert near.dtype == jnp.float32
    assert 1e-5 < jnp.abs(near - logits).max() / jnp.abs(logits).max() < 3e-2


def test_dropout_acts_in_training_only() -> None:
    model, variables = MLP.clone(dropout=0.5), variables_of(MLP)
    plain = MLP.apply(variables, IMAGES)
    np.testing.assert_array_equal(model.apply(variables, IMAGES), plain)
    first, again, other = (model.apply(variables, IMAGES, train=True, rngs={"dropout": jax.random.key(seed)})
                           for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(first, plain)


@pytest.mark.parametrize("model", [LINEAR, MLP], ids=["linear", "mlp"])
def test_impossible_requests_are_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="images have 1 channels, the model takes 3"):
        model.init(jax.random.key(0), IMAGES[..., :1])
    with pytest.raises(ValueError, match="images of 6x4 pixels do not fit: the model's field image_size says 4x6"):
        model.init(jax.random.key(0), IMAGES.transpose(0, 2, 1, 3))
