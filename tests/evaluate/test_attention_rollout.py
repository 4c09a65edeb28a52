"""Attention rollout: the weights are the layers' own, and the product is the paper's."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.evaluate import attention_rollout as module
from cvjax.evaluate.attention_rollout import attention_rollout, attention_weights
from cvjax.layers.attention import SelfAttention
from cvjax.models.vit import VisionTransformer

IMAGES = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
TOKENS = 1 + 2 * 3


def vit(**fields) -> VisionTransformer:
    small = dict(image_size=(8, 12), patch_size=4, width=12, depth=2, heads=3, num_classes=5)
    return VisionTransformer(**(small | fields))


def parameters(model: nn.Module):
    """Larger than at the start, so that attention is far from uniform."""
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    return jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape) / 2, jnp.float32), shapes)


@pytest.mark.parametrize("fields", [{}, dict(qk_norm=True), dict(remat="full"), dict(pool="avg", depth=11)])
def test_weights_times_values_is_what_the_layer_gives(fields) -> None:
    model = vit(**fields)
    variables = parameters(model)
    weights = jax.jit(partial(attention_weights, model))(variables, IMAGES)
    _, state = jax.jit(partial(model.apply, mutable=["intermediates"], capture_intermediates=lambda m, _: m.name in (
        "qkv", "attn")))(variables, IMAGES)
    assert len(weights) == model.depth
    for number, weight in enumerate(weights):  # depth 11: "10" stands after "9", not after "1"
        assert weight.shape == (2, 3, TOKENS, TOKENS)
        np.testing.assert_allclose(weight.sum(axis=-1), 1, rtol=1e-5)
        layer = state["intermediates"]["blocks"][str(number)]["attn"]
        values = layer["qkv"]["__call__"][0][2]  # (B, T, heads, D / heads)
        mixed = np.einsum("bhqk,bkhd->bqhd", weight, values).reshape(2, TOKENS, 12)
        proj = variables["params"]["blocks"][str(number)]["attn"]["proj"]
        np.testing.assert_allclose(mixed @ proj["kernel"] + proj["bias"], layer["__call__"][0], rtol=1e-4, atol=1e-4)
    assert np.std(weights[0]) > 0.02  # a uniform answer would not pass unnoticed


class Biased(nn.Module):
    """Attention over rows of pixels, with a bias on the scores, and called twice."""

    patch_size: int = 4
    pool: str = "token"
    prefix: int = 1

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        bias = jnp.linspace(-3, 3, 3 * 12 * 12).reshape(1, 3, 12, 12)
        attention = SelfAttention(3, name="attn")
        return attention(attention(images.reshape(-1, 12, 3), bias))


def test_weights_know_of_the_bias_and_of_each_call() -> None:
    variables = parameters(Biased())
    weights = attention_weights(Biased(), variables, IMAGES)
    tokens, layers = IMAGES.reshape(-1, 12, 3), variables["params"]["attn"]
    assert [w.shape for w in weights] == [(16, 3, 12, 12)] * 2
    for weight in weights:
        values = (tokens @ layers["qkv"]["kernel"] + layers["qkv"]["bias"])[..., 6:].reshape(16, 12, 3, 1)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weight, values).reshape(16, 12, 3)
        tokens = mixed @ layers["proj"]["kernel"] + layers["proj"]["bias"]
    np.testing.assert_allclose(tokens, Biased().apply(variables, IMAGES), atol=1e-5)


def test_keeping_queries_and_keys_changes_nothing_for_others() -> None:
    model = vit()
    variables = parameters(model)
    assert set(variables) == {"params"} and isinstance(model.apply(variables, IMAGES), jax.Array)


def product(weights: list[np.ndarray]) -> np.ndarray:
    flow = np.eye(TOKENS)
    for weight in weights:
        flow = (0.5 * np.mean(weight, axis=1) + 0.5 * np.eye(TOKENS)) @ flow
    return flow


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_rollout_is_the_product_of_the_layers(pool) -> None:
    model = vit(pool=pool, depth=3)
    variables = parameters(model)
    rollout = attention_rollout(model, variables, IMAGES)
    assert rollout.shape == (2, 2, 3) and rollout.dtype == jnp.float32
    flow = product([np.asarray(w, np.float64) for w in attention_weights(model, variables, IMAGES)])
    np.testing.assert_allclose(flow.sum(axis=-1), 1, rtol=1e-5)
    row = flow[:, 0] if pool == "token" else flow[:, 1:].mean(axis=1)
    np.testing.assert_allclose(rollout.reshape(2, 6), row[:, 1:], atol=1e-5)
    np.testing.assert_allclose(rollout.sum(axis=(1, 2)), 1 - row[:, 0], rtol=1e-4)


def test_rollout_without_a_class_token_loses_nothing() -> None:
    model = vit(pool="avg", class_token=False, depth=3)
    variables = parameters(model)
    flow = np.eye(6)
    for weight in jax.jit(partial(attention_weights, model))(variables, IMAGES):
        flow = (0.5 * np.mean(np.asarray(weight, np.float64), axis=1) + 0.5 * np.eye(6)) @ flow
    rollout = jax.jit(partial(attention_rollout, model))(variables, IMAGES)
    np.testing.assert_allclose(rollout.reshape(2, 6), flow.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(rollout.sum(axis=(1, 2)), 1, rtol=1e-5)


@pytest.mark.parametrize("fields", [dict(registers=2), dict(registers=2, class_token=False, pool="map")], ids=str)
def test_rollout_passes_through_registers_and_an_attention_pool(fields) -> None:
    model = vit(**fields)
    variables, first = parameters(model), model.prefix
    rollout, weights = jax.jit(lambda variables: (
        attention_rollout(model, variables, IMAGES), attention_weights(model, variables, IMAGES)))(variables)
    layers = [np.mean(np.asarray(weight, np.float64), axis=1) for weight in weights]
    flow = np.eye(first + 6)
    for weight in layers[:2]:
        flow = (0.5 * weight + 0.5 * np.eye(first + 6)) @ flow
    if model.pool == "map":
        assert layers[2].shape == (2, 1, 6) and np.std(layers[2]) > 0.01
        row = np.einsum("bp,bpt->bt", layers[2][:, 0], flow[:, first:])
    else:
        row = flow[:, 0]
    np.testing.assert_allclose(rollout.reshape(2, 6), row[:, first:], atol=1e-5)


@pytest.mark.parametrize("depth", [1, 3])
def test_uniform_attention_gives_the_answer_by_hand(depth) -> None:
    """With J the matrix of 1 / T, (I + J) / 2 to the power n is I / 2^n + (1 - 1 / 2^n) J, because J J = J."""
    half = 0.5**depth
    for pool, expected in (("token", (1 - half) / TOKENS), ("avg", half / 6 + (1 - half) / TOKENS)):
        model = vit(depth=depth, pool=pool)
        variables = jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.zeros_like(x) if "qkv" in jax.tree_util.keystr(path) else x, parameters(model))
        np.testing.assert_allclose(attention_rollout(model, variables, IMAGES), np.full((2, 2, 3), expected), rtol=1e-5)


@pytest.mark.parametrize("pool, expected", [("token", 0.0), ("avg", 1 / 6)])
def test_tokens_that_look_at_themselves_stay_where_they_are(monkeypatch, pool, expected) -> None:
    identity = jnp.broadcast_to(jnp.eye(TOKENS), (2, 3, TOKENS, TOKENS))
    monkeypatch.setattr(module, "attention_weights", lambda *_: [identity] * 4)
    np.testing.assert_allclose(attention_rollout(vit(pool=pool), {}, IMAGES), np.full((2, 2, 3), expected), rtol=1e-6)


def test_a_patch_that_all_look_at_stands_out_in_its_place(monkeypatch) -> None:
    """Layers do not commute: all look at patch 4 first, and the class token at patch 1 in the last layer."""
    first, last = np.eye(TOKENS), np.eye(TOKENS)
    first[:, :], last[0] = np.eye(TOKENS)[1 + 4], np.eye(TOKENS)[1 + 1]
    layers = [jnp.asarray(a, jnp.float32)[None, None] for a in (first, last)]
    monkeypatch.setattr(module, "attention_weights", lambda *_: layers)
    # Class token after the last layer: half itself (half of which came from 4), half patch 1 (half from 4, too).
    np.testing.assert_allclose(attention_rollout(vit(), {}, IMAGES[:1])[0], [[0, 0.25, 0], [0, 0.5, 0]])


def test_other_models_are_refused() -> None:
    class Other(nn.Module):
        patch_size: int = 4
        pool: str = "token"
        prefix: int = 1

        def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
            return images

    with pytest.raises(ValueError, match="^Other has no self-attention"):
        attention_rollout(Other(), {}, IMAGES)
    with pytest.raises(ValueError, match="needs a ViT, received a Dense"):
        attention_rollout(nn.Dense(3), {}, IMAGES)
    with pytest.raises(ValueError, match=r"2x3 tokens in each layer, received layers of \[12\] tokens"):
        attention_rollout(Biased(), parameters(Biased()), IMAGES)
    with pytest.raises(ValueError, match="cannot be cut into patches of 4"):
        attention_rollout(vit(), {}, IMAGES[:, :7])
