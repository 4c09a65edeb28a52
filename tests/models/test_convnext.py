"""ConvNeXt's properties; its numbers are compared with timm's and torchvision's in tests/parity."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.interop import load_weights, save_weights, to_state_dict
from cvjax.layers.conv import Conv
from cvjax.layers.drop_path import DropPath
from cvjax.layers.feature_maps import feature_maps
from cvjax.models import create_model
from cvjax.models.convnext import ConvNeXt, ConvNeXtBlock
from tests.models.drawn import balanced_like

SIZE = (14, 22)  # maps of 7x11 and 3x5: a row and a column that no 2x2 window holds


def convnext(**fields: Any) -> ConvNeXt:
    return ConvNeXt(**dict(image_size=SIZE, patch_size=2, widths=(8, 12), depths=(2, 1), kernel_size=3,
                           num_classes=3) | fields)


def block(kernel_size: int, layer_scale: float) -> ConvNeXtBlock:
    return ConvNeXtBlock(kernel_size, layer_scale, False, Conv, nn.LayerNorm, jnp.float32, drop_path=0.0)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (4, *SIZE, 3))


@pytest.fixture(scope="module")
def variables(images: jax.Array) -> Any:
    return balanced_like(jax.eval_shape(convnext().init, jax.random.key(0), images))


@pytest.fixture(scope="module")
def logits(variables: Any, images: jax.Array) -> jax.Array:
    return jax.jit(convnext().apply)(variables, images)


def gradients(model: ConvNeXt, variables: Any, images: jax.Array) -> Any:
    return jax.jit(jax.grad(lambda v: jnp.square(model.apply(v, images, train=True)).sum()))(variables)


def test_every_parameter_receives_a_gradient_and_remat_changes_none(variables: Any, images: jax.Array) -> None:
    plain, remat = (gradients(convnext(remat=word), variables, images) for word in ("none", "full"))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(remat), strict=True):
        assert jnp.abs(a).max() > 1e-4, jax.tree_util.keystr(path)
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * np.abs(a).max())


def test_a_fresh_network_starts_as_the_authors_does() -> None:
    """Kernels from a normal of 0.02, biases of 0, branches scaled by 1e-6: nearly the identity."""
    model = convnext(widths=(32, 64), kernel_size=7)
    images = jax.random.normal(jax.random.key(2), (1, *SIZE, 3))
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("kernel"):
            assert abs(leaf.std() / 0.02 - 1) < 4 / np.sqrt(leaf.size), name
        else:
            expected = 1e-6 if name.endswith("gamma") else float(name.endswith("scale"))
            np.testing.assert_array_equal(leaf, np.float32(expected), name)
    x = jax.random.normal(jax.random.key(3), (1, 5, 5, 32))
    after = block(kernel_size=7, layer_scale=1e-6).apply({"params": params["stages_0"]["0"]}, x, False)
    np.testing.assert_allclose(after, x, atol=1e-5)


def test_a_pixel_sees_its_neighbourhood() -> None:
    """The depthwise convolution reaches half a kernel in every direction; the rest of a block stays on the pixel."""
    module = block(kernel_size=5, layer_scale=1.0)
    x = jax.random.normal(jax.random.key(0), (1, 9, 8, 3))
    params = balanced_like(jax.eval_shape(lambda: module.init(jax.random.key(0), x, False)))
    gradient = jax.jit(jax.grad(lambda x: jnp.square(module.apply(params, x, False)[0, 4, 1]).sum()))(x)
    rows, columns = np.arange(9)[:, None], np.arange(8)[None]
    expected = (abs(rows - 4) <= 2) & (abs(columns - 1) <= 2)
    np.testing.assert_array_equal(jnp.abs(gradient[0]).max(axis=-1) != 0, expected)


def test_images_of_any_size_that_leaves_a_pixel(variables: Any) -> None:
    model = convnext()
    for size in ((4, 4), (5, 40), (64, 33)):
        features = jax.eval_shape(lambda size=size: model.apply(variables, jnp.zeros((2, *size, 3)), method="features"))
        assert features.shape == (2, 12)
    with pytest.raises(ValueError, match="images of 3x8 pixels are too small: both sides must be at least 4"):
        model.apply(variables, jnp.zeros((2, 3, 8, 3)))


def test_features_come_before_the_head(variables: Any, images: jax.Array, logits: jax.Array) -> None:
    features = jax.jit(lambda v: convnext().apply(v, images, method="features"))(variables)
    head = variables["params"]["head"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], logits, atol=1e-5)
    params = {name: leaf for name, leaf in variables["params"].items() if name != "head"}
    np.testing.assert_allclose(jax.jit(convnext(num_classes=0).apply)({"params": params}, images), features, atol=1e-5)


def test_named_maps_are_the_stages(variables: Any, images: jax.Array) -> None:
    maps = jax.eval_shape(lambda: feature_maps(convnext(), variables, images))
    assert {name: leaf.shape for name, leaf in maps.items()} == {"stages_0": (4, 7, 11, 8), "stages_1": (4, 3, 5, 12)}


def test_dense_models_look_at_its_maps() -> None:
    model = create_model("fcn", backbone="convnext_tiny", maps=("stages_1",), num_classes=3, image_size=SIZE,
                         backbone_fields=dict(patch_size=2, widths=(8, 12), depths=(1, 1)))
    scores, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, *SIZE, 3))))
    assert scores.shape == (1, *SIZE, 3)
    assert set(variables["params"]["backbone"]) == {"stem", "stages_0", "stages_1"}


def test_bfloat16_computes_near_float32(variables: Any, images: jax.Array, logits: jax.Array) -> None:
    model = convnext(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    assert jax.eval_shape(lambda: model.apply(variables, images, method="features")).dtype == jnp.bfloat16
    rough = jax.jit(model.apply)(variables, images)
    assert rough.dtype == jnp.float32
    assert 1e-4 < jnp.abs(rough - logits).max() / jnp.abs(logits).max() < 3e-2


def test_drop_path_acts_in_training_only_and_grows(variables: Any, images: jax.Array, logits: jax.Array) -> None:
    model, rates = convnext(drop_path=0.6), []

    def watch(module: object, _: str) -> bool:
        rates.extend([module.rate] if isinstance(module, DropPath) else [])
        return False

    jax.eval_shape(lambda: model.apply(variables, images, capture_intermediates=watch))
    np.testing.assert_allclose(rates, [0.0, 0.3, 0.6], atol=1e-9)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), logits, atol=1e-5)
    train = jax.jit(lambda key: model.apply(variables, images, train=True, rngs={"dropout": key}))
    first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - other).max() > 1e-2 and jnp.abs(first - logits).max() > 1e-2


@pytest.mark.parametrize("layout", ["timm", "torchvision", "official"])
def test_weights_out_and_in_are_bit_exact(layout: str, variables: Any, tmp_path: Path,
                                          caplog: pytest.LogCaptureFixture) -> None:
    save_weights(variables, convnext(), tmp_path / "w.safetensors", layout)
    again = load_weights(convnext(), tmp_path / "w.safetensors")
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(variables)))
    assert not caplog.records
    other = load_weights(convnext(num_classes=7), tmp_path / "w.safetensors")["params"]  # with a fresh head
    assert other["head"]["kernel"].shape == (12, 7)
    np.testing.assert_array_equal(other["norm"]["scale"], variables["params"]["norm"]["scale"])
    assert "head" not in load_weights(convnext(num_classes=0), tmp_path / "w.safetensors")["params"]


def test_the_authors_names(variables: Any) -> None:
    parts = {f"{part}.{leaf}" for part in ("dwconv", "norm", "pwconv1", "pwconv2") for leaf in ("weight", "bias")}
    expected = {f"downsample_layers.{i}.{j}.{leaf}" for i in (0, 1) for j in (0, 1) for leaf in ("weight", "bias")}
    expected |= {f"stages.{i}.{j}.{name}" for i, j in ((0, 0), (0, 1), (1, 0)) for name in parts | {"gamma"}}
    expected |= {f"{part}.{leaf}" for part in ("norm", "head") for leaf in ("weight", "bias")}
    theirs = to_state_dict(variables, convnext(), "official")
    assert set(theirs) == expected
    # The stem normalises what it convolved; between the stages the norm comes first.
    assert theirs["downsample_layers.0.0.weight"].shape == (8, 3, 2, 2)
    assert theirs["downsample_layers.1.1.weight"].shape == (12, 8, 2, 2)


def test_v2s_names_and_those_of_a_masked_autoencoder(images: jax.Array, caplog: pytest.LogCaptureFixture) -> None:
    """The authors have linear layers, timm's small networks 1x1 convolutions; after pre-training there is no norm."""
    model = convnext(response_norm=True, layer_scale=None, conv_mlp=True, num_classes=0)
    variables = balanced_like(jax.eval_shape(model.init, jax.random.key(0), images))
    timm, authors = (to_state_dict(variables, model, layout) for layout in ("timm", "official"))
    assert authors["stages.0.0.grn.gamma"].shape == (1, 1, 1, 32)
    assert authors["stages.0.0.pwconv1.weight"].shape == (32, 8)
    assert timm["stages.0.blocks.0.mlp.grn.weight"].shape == (32,)
    assert timm["stages.0.blocks.0.mlp.fc1.weight"].shape == (32, 8, 1, 1)
    again = load_weights(model, authors)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(variables)))
    assert not caplog.records
    blocks = {name: array for name, array in timm.items() if not name.startswith("head.norm")}
    assert not load_weights(model, blocks)["params"]["norm"]["bias"].any()
    assert caplog.records[-1].message == "weights of ConvNeXt: fresh: head.norm.bias, head.norm.weight"


def test_impossible_requests_are_refused() -> None:
    def init(model: ConvNeXt, *shape: int) -> Any:
        return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))

    with pytest.raises(ValueError, match="images have 1 channels, the model takes 3"):
        init(convnext(), 1, 8, 8, 1)
    with pytest.raises(ValueError, match=r"widths \(8, 12\) and depths \(2,\): each stage must have one of both"):
        init(convnext(depths=(2,)), 1, 8, 8, 3)
    with pytest.raises(ValueError, match="kernel_size 4: it must be odd"):
        init(convnext(kernel_size=4), 1, 8, 8, 3)
