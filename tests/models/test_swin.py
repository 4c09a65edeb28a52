"""Swin's properties; its numbers are compared with timm's and torchvision's in tests/parity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.drop_path import DropPath
from cvjax.layers.feature_maps import feature_maps
from cvjax.models import create_model
from cvjax.models.swin import SwinTransformer, WindowAttention
from cvjax.models.vit import VisionTransformer

SIZE = (12, 18)  # maps of 6x9 and 3x5: shifted windows, padding, and an odd map to merge


def swin(**fields: Any) -> SwinTransformer:
    return SwinTransformer(**dict(image_size=SIZE, patch_size=2, width=8, depths=(2, 1), heads=(2, 4), window=3,
                                  num_classes=3) | fields)


def random_like(shapes: Any) -> Any:
    """Numbers that leave no parameter without effect, where an initialiser has zeros."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (4, *SIZE, 3))


@pytest.fixture(scope="module")
def variables(images: jax.Array) -> Any:
    return random_like(jax.eval_shape(swin().init, jax.random.key(0), images))


@pytest.fixture(scope="module")
def logits(variables: Any, images: jax.Array) -> jax.Array:
    return jax.jit(swin().apply)(variables, images)


def gradients(model: SwinTransformer, variables: Any, images: jax.Array) -> Any:
    return jax.jit(jax.grad(lambda v: jnp.square(model.apply(v, images, train=True)).sum()))(variables)


@pytest.mark.slow
def test_every_parameter_receives_a_gradient_and_remat_changes_none(variables: Any, images: jax.Array) -> None:
    plain, remat = (gradients(swin(remat=flag), variables, images) for flag in ("none", "full"))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(remat), strict=True):
        assert jnp.abs(a).max() > 1e-4, jax.tree_util.keystr(path)
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * np.abs(a).max())
    for flag, blocks in (("none", 0), ("full", 3)):
        program = str(jax.make_jaxpr(swin(remat=flag).apply)(variables, images))
        assert program.count("remat2[") + program.count("checkpoint[") == blocks


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (7, 9), (3, 12)], ids=["tiled", "padded", "one_window_high"])
def test_a_token_sees_its_window_alone(size: tuple[int, int], shifted: bool) -> None:
    """The whole window, nothing beyond it, and where windows are shifted nothing across the wrap."""
    window = 4
    module = WindowAttention(1, (window, window), shifted, jnp.float32)
    x = jax.random.normal(jax.random.key(0), (1, *size, 2))
    variables = random_like(jax.eval_shape(module.init, jax.random.key(0), x))
    jacobian = jax.jit(jax.jacobian(lambda x: module.apply(variables, x)))(x)  # (1, H, W, 2, 1, H, W, 2)
    influence = jnp.abs(jacobian).sum(axis=(0, 3, 4, 7))

    cells = []
    for n in size:
        shift = window // 2 if shifted and n > window else 0
        cells.append((np.arange(n) + window - shift) // window)
    rows, columns = (cell[:, None] == cell[None, :] for cell in cells)
    expected = rows[:, None, :, None] & columns[None, :, None, :]
    np.testing.assert_array_equal(influence != 0, expected)


@pytest.mark.parametrize("shifted", [False, True])
def test_padding_acts_as_tokens_of_zeros(shifted: bool) -> None:
    module = WindowAttention(2, (4, 3), shifted, jnp.float32)
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 4))
    variables = random_like(jax.eval_shape(module.init, jax.random.key(0), x))
    whole = module.apply(variables, jnp.pad(x, ((0, 0), (0, 3), (0, 2), (0, 0))))
    np.testing.assert_allclose(module.apply(variables, x), whole[:, :5, :7], atol=1e-6)


def test_images_of_any_size(variables: Any) -> None:
    model = swin()
    for size in ((1, 1), (4, 4), (5, 40), (64, 33)):
        features = jax.eval_shape(lambda size=size: model.apply(variables, jnp.zeros((2, *size, 3)), method="features"))
        assert features.shape == (2, 16)
    odd = jax.random.normal(jax.random.key(0), (1, 11, 21, 3))
    completed = jnp.pad(odd, ((0, 0), (0, 1), (0, 1), (0, 0)))  # to whole patches
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(apply(variables, odd), apply(variables, completed), atol=1e-5)


def test_windows_are_no_larger_than_their_map_at_the_image_size() -> None:
    assert create_model("swin_tiny_patch4_window7_224").windows == [(7, 7)] * 4
    assert create_model("swin_tiny_patch4_window7_224", image_size=(32, 64)).windows == [(7, 7), (4, 7), (2, 4), (1, 2)]
    assert create_model("swin_base_patch4_window12_384").windows == [(12, 12)] * 4


def test_features_come_before_the_head(variables: Any, images: jax.Array, logits: jax.Array) -> None:
    features = jax.jit(lambda v: swin().apply(v, images, method="features"))(variables)
    head = variables["params"]["head"]
    assert features.shape == (4, 16)
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], logits, atol=1e-5)
    params = {name: leaf for name, leaf in variables["params"].items() if name != "head"}
    np.testing.assert_allclose(jax.jit(swin(num_classes=0).apply)({"params": params}, images), features, atol=1e-5)


def test_named_maps_are_on_the_way_to_the_output(variables: Any, images: jax.Array) -> None:
    maps = jax.eval_shape(lambda: feature_maps(swin(), variables, images))
    assert {name: leaf.shape for name, leaf in maps.items()} == {"layers/0": (4, 6, 9, 8), "layers/1": (4, 3, 5, 16)}

    def output(offsets: Any) -> jax.Array:
        return swin().apply({**variables, "perturbations": {"maps": offsets}}, images)[:, 0].sum()

    offsets = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), maps)
    for name, gradient in jax.jit(jax.grad(output))(offsets).items():
        assert jnp.abs(gradient).max(axis=-1).min() > 0, name


def test_bfloat16_computes_near_float32(variables: Any, images: jax.Array, logits: jax.Array) -> None:
    model = swin(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    features = jax.eval_shape(lambda: model.apply(variables, images, method="features"))
    assert features.dtype == jnp.bfloat16
    rough = jax.jit(model.apply)(variables, images)
    assert rough.dtype == jnp.float32
    assert 1e-4 < jnp.abs(rough - logits).max() / jnp.abs(logits).max() < 3e-2
    softmax = [line for line in str(jax.make_jaxpr(model.apply)(variables, images)).splitlines() if "= exp " in line]
    assert len(softmax) == 3 and all(":f32[" in line for line in softmax)


def test_drop_path_acts_in_training_only_and_grows(variables: Any, images: jax.Array, logits: jax.Array) -> None:
    model, rates = swin(drop_path=0.6), []

    def watch(module: object, _: str) -> bool:
        rates.extend([module.rate] if isinstance(module, DropPath) else [])
        return False

    jax.eval_shape(lambda: model.apply(variables, images, capture_intermediates=watch))
    np.testing.assert_allclose(rates, np.repeat([0.0, 0.3, 0.6], 2), atol=1e-9)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), logits, atol=1e-5)
    train = jax.jit(lambda key: model.apply(variables, images, train=True, rngs={"dropout": key}))
    first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - other).max() > 1e-2 and jnp.abs(first - logits).max() > 1e-2


def floating_point_operations(model: Any, side: int) -> float:
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.jit(model.apply).lower(variables, images).cost_analysis()["flops"]


def test_cost_is_linear_in_area() -> None:
    """Four times the area costs four times as much (sec. 3.2, eq. 2); a ViT pays for all pairs of tokens (eq. 1)."""
    windowed = swin(image_size=96, patch_size=4, window=4)
    small, middle, large = (floating_point_operations(windowed, side) for side in (96, 192, 384))
    assert abs(middle / small - 4) < 0.05 and abs(large / middle - 4) < 0.02

    patch, width, depth = 8, 16, 2
    full = VisionTransformer(image_size=96, patch_size=patch, width=width, depth=depth, heads=1, position="sincos2d")
    small, middle, large = (floating_point_operations(full, side) for side in (96, 192, 384))
    assert large / middle > 8
    # cost(4A) - 4 cost(A) leaves 12 times the quadratic part of cost(A), and a constant that the difference removes.
    quadratic = ((large - 4 * middle) - (middle - 4 * small)) / 12 / (1 - 1 / 16)
    tokens = (192 // patch) ** 2
    products = depth * 4 * tokens**2 * width  # two matrix products, a multiplication and an addition each
    assert products < quadratic < 1.5 * products  # the softmax comes on top


def test_impossible_requests_are_refused() -> None:
    def init(model: SwinTransformer, *shape: int) -> Any:
        return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))

    with pytest.raises(ValueError, match="images have 1 channels, the model takes 3"):
        init(swin(), 1, 8, 8, 1)
    with pytest.raises(ValueError, match=r"depths \(2, 1\) and heads \(2,\): there must be one of each"):
        init(swin(heads=(2,)), 1, 8, 8, 3)
    with pytest.raises(ValueError, match="window 0: it must be at least 1"):
        init(swin(window=0), 1, 8, 8, 3)
    with pytest.raises(ValueError, match="width 8 cannot be split into 3 heads"):
        init(swin(heads=(3, 3)), 1, 8, 8, 3)
