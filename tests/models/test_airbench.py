"""Airbench's properties; its numbers are compared with torch's in tests/parity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.feature_maps import feature_maps
from cvjax.models import create_model
from cvjax.models.airbench import Airbench, partial_identity, whitening_kernel
from cvjax.ops.convolution import conv2d
from tests.models.drawn import balanced_like

SMALL = dict(widths=(4, 6, 8), convs=3, image_size=9, num_classes=3)


def test_every_parameter_receives_a_gradient() -> None:
    model = Airbench(**SMALL)
    images = jax.random.normal(jax.random.key(1), (4, 17, 16, 3))
    variables = balanced_like(jax.eval_shape(model.init, jax.random.key(0), images))

    def loss(params: Any) -> jax.Array:
        logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.square(logits).sum()

    once = {"xla_backend_optimization_level": 0}  # compiled for one run
    gradients = jax.jit(jax.grad(loss), compiler_options=once)(variables["params"])
    assert [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
            if not jnp.abs(leaf).max() > 1e-6] == []


@pytest.mark.parametrize("name, widths, layers", [
    ("airbench94", (64, 256, 256), 2), ("airbench96", (128, 384, 512), 3)])
def test_maps_halve_and_norms_have_no_scale(name: str, widths: tuple[int, ...], layers: int) -> None:
    model, images = create_model(name), jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    maps: list[tuple[int, ...]] = []
    jax.eval_shape(lambda v: maps.extend(x.shape[1:] for x in feature_maps(model, v, images).values()), variables)
    assert maps == [(31, 31, 24), (15, 15, widths[0]), (7, 7, widths[1]), (3, 3, widths[2])]
    assert set(variables["params"]["group2"]) == {f"conv{i + 1}" for i in range(layers)}
    assert set(variables["params"]["group2"]["conv1"]["bn"]) == {"bias"}
    assert set(variables["params"]["fc"]) == {"kernel"} and set(variables["params"]["whiten"]) == {"kernel", "bias"}


def test_the_first_outputs_of_a_fresh_convolution_are_its_inputs() -> None:
    images = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    kernel = partial_identity(jax.random.key(1), (3, 3, 3, 7))
    np.testing.assert_array_equal(conv2d(images, kernel, padding=(1, 1))[..., :3], images)
    others = np.asarray(kernel[..., 3:])
    assert 0.9 / 27**0.5 < np.abs(others).max() <= 1 / 27**0.5 and others.std() > 0.4 / 27**0.5
    narrow = np.asarray(partial_identity(jax.random.key(1), (3, 3, 3, 2)))
    assert narrow.sum() == 2 and narrow[1, 1, 0, 0] == narrow[1, 1, 1, 1] == 1


def test_whitened_patches_are_uncorrelated_with_mean_square_one() -> None:
    numbers = np.random.default_rng(0)
    images = np.cumsum(numbers.normal(size=(50, 8, 9, 3)), axis=2).astype(np.float32) + 0.5  # neighbours are alike
    kernel = whitening_kernel(images, epsilon=0.0)
    assert kernel.shape == (2, 2, 3, 24) and kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])
    answers = np.asarray(conv2d(images, kernel))[..., :12].reshape(-1, 12).astype(np.float64)
    # Float32 answers of a kernel of float32, 1e-7 relative, over a spread of eigenvalues of 1e3 to 1.
    np.testing.assert_allclose(answers.T @ answers / len(answers), np.eye(12), atol=1e-3)
    sizes = np.linalg.norm(kernel[..., :12].reshape(12, 12), axis=0)
    assert (np.diff(sizes) > 0).all(), "the largest eigenvalue comes first, over its root the smallest vector"
    # With epsilon the mean square of a direction of eigenvalue v is v / (v + epsilon).
    damped = np.asarray(conv2d(images, whitening_kernel(images, epsilon=2.0)))[..., :12].reshape(-1, 12)
    values = 1 / sizes**2
    np.testing.assert_allclose((damped**2).mean(0), values / (values + 2), rtol=1e-3)


def test_only_the_kernel_of_the_first_layer_is_made_from_images() -> None:
    images = np.random.default_rng(0).normal(size=(20, 9, 9, 3)).astype(np.float32)
    made = Airbench(**SMALL).from_images(images)
    assert jax.tree.map(np.shape, made) == {"whiten": {"kernel": (2, 2, 3, 24)}}
    assert Airbench.frozen == ("whiten/kernel",)


def test_logits_are_a_ninth_and_float32_whatever_the_compute_type() -> None:
    model, images = Airbench(**SMALL, dtype=jnp.bfloat16), jnp.zeros((1, 9, 9, 3))
    logits, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("fields, shape, message", [
    ({}, (8, 9, 3), "images of 8x9 pixels are too small: both sides must be at least 9"),
    ({}, (9, 9, 1), "images have 1 channels, the model takes 3"),
    ({"convs": 4}, (9, 9, 3), "convs 4: a group has 2 or 3")])
def test_what_is_impossible_is_refused(fields: dict, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(Airbench(**SMALL | fields).init, jax.random.key(0), jnp.zeros((1, *shape)))
