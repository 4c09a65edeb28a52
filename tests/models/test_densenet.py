"""DenseNet's properties; its numbers are compared with torch's in tests/parity."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.conv import Conv
from cvjax.layers.feature_maps import feature_maps
from cvjax.layers.norm import BatchNorm
from cvjax.models.densenet import DenseLayer, DenseNet
from tests.models.drawn import balanced_like


def densenet(**fields: Any) -> DenseNet:
    """Two blocks of two layers and one."""
    return DenseNet(**dict(depths=(2, 1), growth_rate=4, stem_width=6, num_classes=3, image_size=16) | fields)


def shapes_of(model: DenseNet) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def variables_of(model: DenseNet) -> Any:
    return balanced_like(shapes_of(model))


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (4, 16, 16, 3))


@pytest.fixture(scope="module")
def variables() -> Any:
    return variables_of(densenet())


@pytest.fixture(scope="module")
def logits(variables: Any, images: jax.Array) -> jax.Array:
    return jax.jit(densenet().apply)(variables, images)


def in_training(model: DenseNet, variables: Any, images: jax.Array, **options: Any) -> jax.Array:
    return model.apply(variables, images, train=True, mutable=["batch_stats"], **options)[0]


def gradients(model: DenseNet, variables: Any, images: jax.Array) -> Any:
    def loss(params: Any) -> jax.Array:
        return jnp.square(in_training(model, {**variables, "params": params}, images)).sum()

    # Compiled for one run.
    return jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": 0})(variables["params"])


@pytest.fixture(scope="module")
def plain_gradients(variables: Any, images: jax.Array) -> Any:
    return gradients(densenet(), variables, images)


def _without_effect(grads: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
            if not jnp.abs(leaf).max() > 1e-5]


def test_every_parameter_receives_a_gradient(plain_gradients: Any, images: jax.Array) -> None:
    assert _without_effect(plain_gradients) == []
    cifar = densenet(stem="cifar", bottleneck=0, depths=(1,))
    assert _without_effect(gradients(cifar, variables_of(cifar), images)) == []


def test_remat_changes_no_number(variables: Any, plain_gradients: Any, images: jax.Array) -> None:
    remat = gradients(densenet(remat="full"), variables, images)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain_gradients))
    for a, b in zip(jax.tree.leaves(plain_gradients), jax.tree.leaves(remat), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6 * largest)  # other sums are fused


@pytest.mark.parametrize("remat", ["none", "full"])
def test_remat_makes_memory_linear_in_depth(remat: str) -> None:
    """What the backward pass of one block keeps: without it, second differences over the depth do not vanish."""
    def kept(depth: int) -> int:
        model = densenet(depths=(depth,), stem="cifar", remat=remat)
        images = jnp.zeros((64, 16, 16, 3))
        variables = jax.eval_shape(model.init, jax.random.key(0), images)

        def backward(variables: Any) -> Any:
            return jax.vjp(lambda params: in_training(model, {**variables, "params": params}, images),
                           variables["params"])[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(backward, variables)) if leaf.ndim == 4
                   and leaf.shape[0] == 64)

    sizes = np.array([kept(depth) for depth in (2, 4, 6)])
    growth = np.diff(sizes) / (64 * 16 * 16)
    if remat == "full":
        # The layers' four new channels, each once, and their sums in the map before the last norm.
        assert growth[1] == growth[0] <= 2 * 4 * 5
    else:
        assert growth[1] >= growth[0] + 2 * 2 * 4 and growth[0] > 2 * 4 * 5


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(variables: Any, images: jax.Array,
                                                                     logits: jax.Array) -> None:
    model = densenet(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes_of(model))} == {jnp.dtype(jnp.float32)}
    assert jax.eval_shape(lambda: model.apply(variables, images, method="features")).dtype == jnp.bfloat16
    rough = jax.jit(model.apply)(variables, images)
    assert rough.dtype == jnp.float32
    distance = jnp.abs(rough - logits).max() / jnp.abs(logits).max()
    assert 1e-4 < distance < 3e-2


def test_features_come_before_the_head(variables: Any, images: jax.Array, logits: jax.Array) -> None:
    params = {name: leaf for name, leaf in variables["params"].items() if name != "classifier"}
    features = jax.jit(densenet(num_classes=0).apply)({**variables, "params": params}, images)
    head = variables["params"]["classifier"]
    assert features.shape == (4, (6 + 2 * 4) // 2 + 4)
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], logits, rtol=1e-5, atol=1e-5)


def test_channels_grow_by_the_growth_rate_and_halve_in_transitions() -> None:
    """Table 1, DenseNet-121: sizes and, after each block, what went in plus 32 for each layer."""
    model = DenseNet()
    images = jnp.zeros((1, 224, 224, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    maps: list[tuple[str, tuple[int, ...]]] = []

    def trace(variables: Any) -> None:
        maps.extend((name, x.shape[1:]) for name, x in feature_maps(model, variables, images).items())

    jax.eval_shape(trace, variables)
    expected, channels, side = [("stem", (112, 112, 64))], 64, 56
    for i, depth in enumerate((6, 12, 24, 16), start=1):
        channels += 32 * depth
        expected.append((f"denseblock{i}", (side, side, channels)))
        if i < 4:
            channels, side = channels // 2, side // 2
            expected.append((f"transition{i}", (side, side, channels)))
    assert maps == [*expected, ("norm5", (7, 7, 1024))]


def test_each_layer_sees_every_layer_before(variables: Any, images: jax.Array) -> None:
    params = variables["params"]["denseblock1"]
    assert params["denselayer2"]["conv1"]["kernel"].shape == (1, 1, 6 + 4, 4 * 4)
    assert params["denselayer2"]["conv2"]["kernel"].shape == (3, 3, 4 * 4, 4)
    model = densenet(stem="cifar")
    maps = jax.jit(lambda v: feature_maps(model, v, images))(variables_of(model))
    # The input of a block is part of its output (eq. 2).
    np.testing.assert_array_equal(maps["denseblock1"][..., :6], maps["stem"])
    np.testing.assert_array_equal(maps["denseblock2"][..., :7], maps["transition1"])


def test_plain_layers_have_one_convolution() -> None:
    params = shapes_of(densenet(bottleneck=0))["params"]
    assert set(params["denseblock1"]["denselayer2"]) == {"norm1", "conv1"}
    assert params["denseblock1"]["denselayer2"]["conv1"]["kernel"].shape == (3, 3, 6 + 4, 4)


def test_dropout_acts_on_a_layer_s_new_channels_in_training_only() -> None:
    layer = DenseLayer(8, 0, 0.5, partial(Conv, use_bias=False), BatchNorm)
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(
        lambda: layer.init(jax.random.key(1), [x], False)))

    @partial(jax.jit, static_argnums=1)
    def out(key: jax.Array, train: bool) -> jax.Array:
        return layer.apply(variables, [x], train, rngs={"dropout": key}, mutable=["batch_stats"])[0]

    assert float((out(jax.random.key(0), False) == 0).mean()) == 0
    first, again, other = (out(jax.random.key(seed), True) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert float((first == 0).mean()) == pytest.approx(0.5, abs=0.1)


def test_impossible_images_are_refused() -> None:
    def init(model: DenseNet, *shape: int) -> Any:
        return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))

    with pytest.raises(ValueError, match="images have 1 channels, the model takes 3"):
        init(densenet(), 16, 16, 1)
    for model, side in ((densenet(depths=(1, 1, 1, 1)), 29), (densenet(), 5), (densenet(stem="cifar"), 2)):
        assert init(model, side, side, 3)
        with pytest.raises(ValueError, match=f"too small: both sides must be at least {side}"):
            init(model, side, side - 1, 3)
