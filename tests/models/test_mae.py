"""MAE's properties; its numbers are compared with the reference's in tests/parity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.losses.mae import masked_reconstruction_loss, pixel_target
from cvjax.models.mae import MaskedAutoencoder
from cvjax.ops.patches import patchify

PATCHES = 16


def mae(**fields: Any) -> MaskedAutoencoder:
    return MaskedAutoencoder(**dict(image_size=16, patch_size=4, width=8, depth=1, heads=2, decoder_width=8,
                                    decoder_depth=1, decoder_heads=2) | fields)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (3, 16, 16, 3))


@pytest.fixture(scope="module")
def noise() -> jax.Array:
    return jax.random.uniform(jax.random.key(2), (3, PATCHES))


@pytest.fixture(scope="module")
def variables(images: jax.Array, noise: jax.Array) -> Any:
    """Numbers that leave no parameter without effect, where an initialiser has zeros."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(mae().init, jax.random.key(0), images, noise)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


def gradients(model: MaskedAutoencoder, variables: Any, images: jax.Array, noise: jax.Array) -> Any:
    def loss(variables: Any) -> jax.Array:
        prediction, mask = model.apply(variables, images, noise, train=True)
        return masked_reconstruction_loss(prediction, pixel_target(images, 4, normalize=True), mask).mean()

    return jax.jit(jax.grad(loss))(variables)


FORWARD = jax.jit(mae().apply)  # compiled once for all tests


@pytest.fixture(scope="module")
def plain_gradients(variables: Any, images: jax.Array, noise: jax.Array) -> Any:
    return gradients(mae(), variables, images, noise)


def test_every_parameter_receives_a_gradient(plain_gradients: Any) -> None:
    grads = jax.tree_util.tree_leaves_with_path(plain_gradients)
    assert [jax.tree_util.keystr(path) for path, leaf in grads if not jnp.abs(leaf).max() > 1e-6] == []


def test_remat_changes_memory_and_no_number(plain_gradients: Any, variables: Any, images: jax.Array,
                                            noise: jax.Array) -> None:
    remat = gradients(mae(remat="full"), variables, images, noise)
    for a, b in zip(jax.tree.leaves(plain_gradients), jax.tree.leaves(remat), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6 * np.abs(a).max())
    for flag, blocks in (("none", 0), ("full", 2)):  # one in the encoder, one in the decoder
        program = str(jax.make_jaxpr(mae(remat=flag).apply)(variables, images, noise))
        assert program.count("remat2[") + program.count("checkpoint[") == blocks


def test_a_hidden_patch_has_no_influence_on_the_latent(variables: Any, images: jax.Array, noise: jax.Array) -> None:
    def latent(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        tokens, masking = mae().apply(variables, images, noise, method="encode")
        return jnp.sin(tokens).sum(), masking.mask

    influence, mask = jax.jit(jax.grad(latent, has_aux=True))(images)
    of_patches = jnp.abs(patchify(influence, 4))
    assert jnp.all(of_patches[mask == 1] == 0.0)
    assert jnp.all(of_patches[mask == 0].min(axis=-1) > 0.0)  # and every pixel of a visible one has some
    assert int(mask.sum()) == 3 * 12


def test_the_decoder_predicts_each_patch_from_the_visible_ones(variables: Any, images: jax.Array,
                                                                noise: jax.Array) -> None:
    other = jax.random.normal(jax.random.key(3), images.shape)
    prediction, mask = FORWARD(variables, images, noise)
    hidden = jnp.kron(mask.reshape(3, 4, 4), jnp.ones((4, 4)))[..., None]
    assert prediction.shape == (3, PATCHES, 48) and prediction.dtype == jnp.float32
    again, _ = FORWARD(variables, jnp.where(hidden == 1, other, images), noise)
    np.testing.assert_array_equal(again, prediction)
    changed, _ = FORWARD(variables, jnp.where(hidden == 0, other, images), noise)
    assert jnp.all(jnp.abs(changed - prediction).max(axis=(1, 2)) > 1e-3)


def test_the_encoder_is_a_vit(variables: Any, images: jax.Array, noise: jax.Array) -> None:
    encoder = {"params": variables["params"]["encoder"]}
    np.testing.assert_array_equal(mae().vit().apply(encoder, images),
                                  mae().apply(variables, images, method="features"))
    latent, masking = mae(mask_ratio=0.0).apply(variables, images, noise, method="encode")
    tokens = mae().vit().apply(encoder, images, method="tokens")
    order = jnp.take_along_axis(latent[:, 1:], masking.restore[..., None], axis=1)
    np.testing.assert_allclose(order, tokens[:, 1:], atol=1e-5)
    np.testing.assert_allclose(latent[:, 0], tokens[:, 0], atol=1e-5)


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(variables: Any, images: jax.Array,
                                                                     noise: jax.Array) -> None:
    model = mae(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, noise)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    exact, mask = FORWARD(variables, images, noise)
    rough, rough_mask = jax.jit(model.apply)(variables, images, noise)
    assert rough.dtype == rough_mask.dtype == jnp.float32
    np.testing.assert_array_equal(rough_mask, mask)
    assert 1e-4 < jnp.abs(rough - exact).max() / jnp.abs(exact).max() < 3e-2


def test_images_need_not_be_square() -> None:
    model = mae(image_size=(8, 20), mask_ratio=0.5)
    assert model.grid == (2, 5)
    shapes, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((1, 8, 20, 3)), jnp.zeros((1, 10)))
    assert shapes.prediction.shape == (1, 10, 48) and shapes.mask.shape == (1, 10)


def test_impossible_requests_are_refused(images: jax.Array, noise: jax.Array) -> None:
    def init(model: MaskedAutoencoder) -> Any:
        return jax.eval_shape(model.init, jax.random.key(0), images, noise)

    with pytest.raises(ValueError, match="mask_ratio 1.0 leaves 0 of 16 tokens visible"):
        init(mae(mask_ratio=1.0))
    with pytest.raises(ValueError, match="mask_ratio -0.5 leaves 24 of 16"):
        init(mae(mask_ratio=-0.5))
    with pytest.raises(ValueError, match="cannot be split into 3 heads"):
        init(mae(decoder_heads=3))
    with pytest.raises(ValueError, match="images have 3 channels, the model takes 1"):
        init(mae(in_channels=1))
    model = mae()
    height, width = images.shape[1:3]
    with pytest.raises(ValueError, match="pixels do not fit: the model's field image_size says"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, height * 2, width, 3)), noise)
    with pytest.raises(ValueError, match=r"^noise has shape \(\d+, 9\): a number for each patch is \(\d+, 16\)"):
        jax.eval_shape(model.init, jax.random.key(0), images, noise[:, :9])
