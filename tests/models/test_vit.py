"""ViT's properties; its numbers are compared with timm's in tests/parity."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.models.vit import VisionTransformer


def vit(**fields: Any) -> VisionTransformer:
    return VisionTransformer(**dict(image_size=8, patch_size=4, width=8, depth=2, heads=2, num_classes=3) | fields)


ROTARY = dict(position="rotary", width=16, registers=2, qkv_bias="qv", activation="swiglu_pair",
              prefix_positions=False)


def random_like(shapes: Any) -> Any:
    """Numbers that leave no parameter without effect, where an initialiser has zeros."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


def variables_of(model: VisionTransformer) -> Any:
    return random_like(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))))


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (4, 8, 8, 3))


@pytest.fixture(scope="module")
def variables() -> Any:
    return variables_of(vit())


def gradients(model: VisionTransformer, variables: Any, images: jax.Array) -> Any:
    return jax.jit(jax.grad(lambda v: jnp.square(model.apply(v, images, train=True)).sum()))(variables)


@pytest.mark.parametrize("fields", [{}, dict(pool="avg", qk_norm=True, layer_scale=0.1, position="sincos2d"),
                                    dict(pool="avg", class_token=False), ROTARY],
                         ids=["plain", "with_options", "without_class_token", "rotary"])
def test_every_parameter_receives_a_gradient(fields: dict, images: jax.Array) -> None:
    model = vit(**fields)
    grads = jax.tree_util.tree_leaves_with_path(gradients(model, variables_of(model), images))
    none = [jax.tree_util.keystr(path) for path, leaf in grads if not jnp.abs(leaf).max() > 1e-5]
    # A constant added to all keys moves every score of a query alike, which the softmax does not see.
    assert none == [f"['params']['blocks']['{i}']['attn']['k_norm']['bias']" for i in range(2) if "qk_norm" in fields]


@pytest.fixture(scope="module")
def plain_gradients(variables: Any, images: jax.Array) -> Any:
    return gradients(vit(), variables, images)


@pytest.mark.parametrize("fields", [dict(remat="full"), dict(remat="dots"), dict(scan=True),
                                    dict(scan=True, remat="dots")], ids=str)
def test_remat_and_scan_change_no_number(fields: dict, plain_gradients: Any, variables: Any, images: jax.Array) -> None:
    others = gradients(vit(**fields), variables, images)
    for a, b in zip(jax.tree.leaves(plain_gradients), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-6 * np.abs(a).max())  # sums in another order: 2**-24 each


def test_remat_and_scan_change_no_number_of_rotary_positions(images: jax.Array) -> None:
    variables = variables_of(vit(**ROTARY))
    plain, others = (gradients(vit(**ROTARY, **fields), variables, images) for fields in
                     ({}, dict(scan=True, remat="dots")))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-6 * np.abs(a).max())  # sums in another order: 2**-24 each


def test_rotary_positions_are_the_only_ones(images: jax.Array) -> None:
    """Without them patches are a set: their order would move no other token."""
    rotary, learned = vit(**ROTARY), vit(registers=2)
    assert "pos_embed" in variables_of(learned)["params"] and "pos_embed" not in variables_of(rotary)["params"]
    variables, swapped = variables_of(rotary), jnp.roll(images, 4, axis=2)  # the left and the right patches

    def class_tokens() -> list[jax.Array]:
        apply = jax.jit(partial(rotary.apply, method="tokens"))
        return [apply(variables, x)[:, 0] for x in (images, swapped)]

    token, other = class_tokens()
    assert jnp.abs(token - other).max() > 1e-3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cvjax.models.vit.rotary_angles", lambda width, grid: np.zeros((4, width // 2), np.float32))
        token, other = class_tokens()
    np.testing.assert_allclose(token, other, atol=1e-5)


@pytest.mark.parametrize("fields, blocks", [({}, 0), (dict(remat="full"), 2), (dict(remat="dots"), 2),
                                            (dict(remat="full", scan=True), 1)], ids=str)
def test_remat_marks_every_block(fields: dict, blocks: int, variables: Any, images: jax.Array) -> None:
    program = str(jax.make_jaxpr(partial(vit(**fields).apply, train=True))(variables, images))
    assert program.count("remat2[") + program.count("checkpoint[") == blocks


def test_dots_stores_products_with_weights_and_full_does_not(variables: Any, images: jax.Array) -> None:
    """What the backward pass gets from the forward one, in numbers."""
    def stored(remat: str) -> int:
        def loss(params: Any) -> jax.Array:
            return vit(remat=remat).apply({"params": params}, images, train=True).sum()

        backward = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], variables["params"])
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert stored("full") < stored("dots") < stored("none")


def test_scan_compiles_one_block_and_drops_paths_of_all(variables: Any, images: jax.Array) -> None:
    model = vit(scan=True, drop_path=0.5, depth=3)
    variables = variables_of(model)

    @partial(jax.jit, static_argnames="train")
    def apply(key: jax.Array, train: bool) -> jax.Array:
        return model.apply(variables, images, train=train, rngs={"dropout": key})

    program = str(jax.make_jaxpr(partial(apply, train=True))(jax.random.key(0)))
    assert program.count("scan[") == 1 and program.count("erf") == 1
    half = vit(scan=True, drop_path=0.5, depth=3, dtype=jnp.bfloat16)  # the loop's state keeps its type
    jax.eval_shape(lambda key: half.apply(variables, images, train=True, rngs={"dropout": key}), jax.random.key(0))
    one, other = (apply(jax.random.key(seed), train=True) for seed in (0, 1))
    assert jnp.abs(one - other).max() > 1e-3


def test_an_unknown_remat_is_refused() -> None:
    with pytest.raises(ValueError, match="remat 'most': it must be one of none, full, dots"):
        variables_of(vit(remat="most"))


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(variables: Any, images: jax.Array) -> None:
    model = vit(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    tokens = jax.eval_shape(lambda: model.apply(variables, images, method="tokens"))
    assert tokens.dtype == jnp.bfloat16
    exact, rough = (jax.jit(m.apply)(variables, images) for m in (vit(), model))
    assert rough.dtype == jnp.float32
    distance = jnp.abs(rough - exact).max() / jnp.abs(exact).max()
    assert 1e-4 < distance < 3e-2


def test_features_come_before_the_head(variables: Any, images: jax.Array) -> None:
    model = vit()
    features = model.apply(variables, images, method="features")
    head = variables["params"]["head"]
    assert features.shape == (4, 8)
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], model.apply(variables, images), atol=1e-5)

    params = {name: leaf for name, leaf in variables["params"].items() if name != "head"}
    np.testing.assert_array_equal(vit(num_classes=0).apply({"params": params}, images), features)
    tokens = model.apply(variables, images, method="tokens")
    np.testing.assert_array_equal(tokens[:, 0], features)


def test_average_pooling_leaves_the_class_token_out(images: jax.Array) -> None:
    model = vit(pool="avg")
    variables = variables_of(model)
    patches = model.apply(variables, images, method="tokens")[:, 1:].mean(axis=1)
    norm = variables["params"]["fc_norm"]
    standard = (patches - patches.mean(-1, keepdims=True)) / jnp.sqrt(patches.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(model.apply(variables, images, method="features"),
                               standard * norm["scale"] + norm["bias"], atol=1e-5)


def test_without_a_class_token_the_norm_precedes_the_mean(images: jax.Array) -> None:
    model = vit(pool="avg", class_token=False)
    variables = variables_of(model)
    assert "cls_token" not in variables["params"] and variables["params"]["pos_embed"].shape == (1, 4, 8)
    last = model.apply(variables, images, mutable=["intermediates"],
                       capture_intermediates=lambda m, _: m.name == "1")[1]["intermediates"]["blocks"]["1"]["__call__"]
    norm = variables["params"]["norm"]
    x = last[0]
    standard = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    tokens = standard * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(model.apply(variables, images, method="tokens"), tokens, atol=1e-5)
    np.testing.assert_allclose(model.apply(variables, images, method="features"), tokens.mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("fields", [{}, dict(pool="avg", class_token=False), dict(registers=2, prefix_positions=False),
                                    ROTARY], ids=str)
def test_kept_patches_keep_their_positions(images: jax.Array, fields: dict) -> None:
    model = vit(**fields)
    variables = variables_of(model)
    whole = model.apply(variables, images, method="tokens")
    order = jnp.tile(jnp.array([2, 0, 3, 1]), (4, 1))
    shuffled = model.apply(variables, images, order, method="tokens")
    first = model.prefix
    np.testing.assert_allclose(shuffled[:, first:], whole[:, first:][:, order[0]], atol=1e-5)


@pytest.mark.parametrize("fields", [{}, dict(pool="avg", class_token=False)], ids=str)
@pytest.mark.parametrize("position", ["learned", "sincos2d", "rotary"])
def test_images_need_not_be_square_or_of_the_trained_size(position: str, fields: dict) -> None:
    model = vit(image_size=(8, 12), position=position, **fields)

    def tokens(*size: int) -> jax.Array:
        out, _ = model.init_with_output(jax.random.key(0), jnp.zeros((1, *size, 3)), method="tokens")
        return out

    for height, width in ((8, 12), (12, 8), (16, 24)):
        shape = jax.eval_shape(lambda height=height, width=width: tokens(height, width)).shape
        assert shape == (1, model.prefix + height * width // 16, 8)


def test_drop_path_acts_in_training_only(variables: Any, images: jax.Array) -> None:
    model = vit(drop_path=0.5)
    plain = vit().apply(variables, images)
    np.testing.assert_array_equal(model.apply(variables, images), plain)
    first, again, other = (model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(seed)})
                           for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(first, plain)


def test_impossible_requests_are_refused() -> None:
    def init(model: VisionTransformer, *shape: int) -> Any:
        return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))

    with pytest.raises(ValueError, match="images have 1 channels, the model takes 3"):
        init(vit(), 1, 8, 8, 1)
    with pytest.raises(ValueError, match="image of 8x10 pixels cannot be cut into patches of 4"):
        init(vit(), 1, 8, 10, 3)
    with pytest.raises(ValueError, match="image of 9x9 pixels cannot be cut into patches of 4"):
        init(vit(image_size=9), 1, 8, 8, 3)
    with pytest.raises(ValueError, match="width 8 cannot be split into 3 heads"):
        init(vit(heads=3), 1, 8, 8, 3)
    with pytest.raises(ValueError, match="pool 'token': it must be 'avg' or 'map' without a class token"):
        init(vit(class_token=False), 1, 8, 8, 3)
    with pytest.raises(ValueError, match="distilled with pool 'avg', representation_size 0 and fc_norm None: they"):
        init(vit(distilled=True, pool="avg"), 1, 8, 8, 3)
    with pytest.raises(ValueError, match="a width that is a multiple of 4, got 6"):
        init(vit(width=6, position="sincos2d"), 1, 8, 8, 3)
    with pytest.raises(ValueError, match="rotary positions need a width of each head that is a multiple of 4, got 6"):
        init(vit(width=12, position="rotary"), 1, 8, 8, 3)
