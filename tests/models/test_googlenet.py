"""GoogLeNet's properties; its numbers are compared with torch's in tests/parity."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.feature_maps import feature_maps
from cvjax.models import create_model
from cvjax.models.googlenet import AUXILIARY, INCEPTIONS, GoogLeNet, Inception
from cvjax.models.summary import summarize
from tests.models.drawn import balanced_like

WIDTHS = (8, 6, 8, 4, 8, 4)


def googlenet(**fields: Any) -> GoogLeNet:
    """The paper's form, the quicker one to compile, with the modules that the heads look at, and no dropout."""
    return GoogLeNet(**dict(norm="lrn", inceptions=(("4a", WIDTHS), ("4d", WIDTHS)), num_classes=3, image_size=32,
                            dropout=0.0, auxiliary_dropout=0.0) | fields)


def shapes_of(model: GoogLeNet) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def variables_of(model: GoogLeNet) -> Any:
    return balanced_like(shapes_of(model))


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (4, 32, 32, 3))


@pytest.fixture(scope="module")
def variables() -> Any:
    return variables_of(googlenet())


@pytest.fixture(scope="module")
def logits(variables: Any, images: jax.Array) -> jax.Array:
    return jax.jit(googlenet().apply)(variables, images)


def in_training(model: GoogLeNet, variables: Any, images: jax.Array, **options: Any) -> tuple[jax.Array, Any]:
    return model.apply(variables, images, train=True, mutable=["batch_stats", "intermediates"], **options)


@pytest.mark.parametrize("norm", [pytest.param("batch", marks=pytest.mark.slow), "lrn"])
def test_every_parameter_receives_a_gradient(norm: str, images: jax.Array) -> None:
    model = googlenet(norm=norm)
    variables = variables_of(model)

    def loss(params: Any) -> jax.Array:
        logits, state = in_training(model, {**variables, "params": params}, images)
        return sum(jnp.square(head).sum() for head in (logits, *state["intermediates"]["auxiliary"]))

    # Compiled for one run.
    gradients = jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": 0})(variables["params"])
    none = [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
            if not jnp.abs(leaf).max() > 1e-6]
    assert none == []


def test_auxiliary_logits_are_sown_in_training_alone(variables: Any, images: jax.Array, logits: jax.Array) -> None:
    model = googlenet()

    def heads(variables: Any) -> tuple[jax.Array, Any, Any]:
        out, state = in_training(model, variables, images)
        return out, state["intermediates"], feature_maps(model, variables, images)

    out, state, maps = jax.jit(heads)(variables)
    np.testing.assert_allclose(out, logits, rtol=1e-5, atol=1e-5)  # without dropout and batch norm
    first, second = state["auxiliary"]
    assert first.shape == second.shape == (4, 3) and first.dtype == jnp.float32
    # Each head by hand, from the map that it looks at.
    for (module, name), expected in zip(AUXILIARY.items(), (first, second), strict=True):
        x = maps[f"inception{module}"]
        bins = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)  # maps of 2x2 pixels, a grid of 4x4 bins
        weights = variables["params"][name]
        x = nn.relu(bins @ weights["conv"]["conv"]["kernel"][0, 0] + weights["conv"]["conv"]["bias"]).reshape(4, -1)
        x = nn.relu(x @ weights["fc1"]["kernel"] + weights["fc1"]["bias"])
        np.testing.assert_allclose(x @ weights["fc2"]["kernel"] + weights["fc2"]["bias"], expected, atol=1e-4)
    _, state = jax.eval_shape(lambda: model.apply(variables, images, mutable=["intermediates"]))
    assert state == {}
    assert model.auxiliary_weight == 0.3


def test_evaluation_does_not_compute_the_auxiliary_heads(variables: Any) -> None:
    image = jnp.zeros((1, 32, 32, 3))
    params = {name: leaf for name, leaf in variables["params"].items() if not name.startswith("aux")}
    assert len(variables["params"]) - len(params) == 2
    flops = [jax.jit(googlenet(aux_heads=flag).apply).lower({"params": tree}, image).cost_analysis()["flops"]
             for flag, tree in ((True, variables["params"]), (False, params))]
    assert flops[0] == flops[1]
    training = jax.jit(lambda v: in_training(googlenet(), v, image)).lower(variables).cost_analysis()["flops"]
    assert training > flops[0] + 2 * 2 * 2048 * 1024  # two heads' first linear layers alone


def test_without_heads_there_are_none() -> None:
    for fields in (dict(aux_heads=False), dict(num_classes=0)):
        params = shapes_of(googlenet(**fields))["params"]
        assert not any(name.startswith("aux") for name in params)
        assert ("fc" in params) == (fields != dict(num_classes=0))


def test_published_count_without_auxiliary_heads() -> None:
    params = shapes_of(create_model("googlenet", aux_heads=False))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 6_624_904


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(variables: Any, images: jax.Array,
                                                                     logits: jax.Array) -> None:
    model = googlenet(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes_of(model))} == {jnp.dtype(jnp.float32)}
    assert jax.eval_shape(lambda: model.apply(variables, images, method="features")).dtype == jnp.bfloat16
    rough = jax.jit(model.apply)(variables, images)
    assert rough.dtype == jnp.float32
    distance = jnp.abs(rough - logits).max() / jnp.abs(logits).max()
    assert 1e-4 < distance < 3e-2


def test_features_come_before_the_head(variables: Any, images: jax.Array, logits: jax.Array) -> None:
    params = {name: leaf for name, leaf in variables["params"].items() if name != "fc" and not name.startswith("aux")}
    features = jax.jit(googlenet(num_classes=0).apply)({"params": params}, images)
    assert features.shape == (4, 28)
    fc = variables["params"]["fc"]
    np.testing.assert_allclose(features @ fc["kernel"] + fc["bias"], logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "lrn"])
def test_maps_have_the_paper_s_sizes(norm: str) -> None:
    """Table 1."""
    model = GoogLeNet(norm=norm)
    images = jnp.zeros((1, 224, 224, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    maps: list[tuple[str, tuple[int, ...]]] = []

    def trace(variables: Any) -> None:
        maps.extend((name, x.shape[1:]) for name, x in feature_maps(model, variables, images).items())

    jax.eval_shape(trace, variables)
    assert maps == [
        ("conv1", (112, 112, 64)), ("conv2", (56, 56, 64)), ("conv3", (56, 56, 192)),
        ("inception3a", (28, 28, 256)), ("inception3b", (28, 28, 480)),
        ("inception4a", (14, 14, 512)), ("inception4b", (14, 14, 512)), ("inception4c", (14, 14, 512)),
        ("inception4d", (14, 14, 528)), ("inception4e", (14, 14, 832)),
        ("inception5a", (7, 7, 832)), ("inception5b", (7, 7, 1024))]


def test_response_norm_follows_the_first_pooling_and_the_third_convolution(variables: Any) -> None:
    calls: list[str] = []

    def noting(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        if len(context.module.path) == 1 and context.method_name == "__call__":
            calls.append(context.module.path[0])
        return call(*arguments, **options)

    with nn.intercept_methods(noting):
        jax.eval_shape(lambda: googlenet().apply(variables, jnp.zeros((1, 32, 32, 3))))
    assert calls[:7] == ["conv1", "maxpool", "lrn", "conv2", "conv3", "lrn", "maxpool"]
    assert calls.count("lrn") == 2
    norm = googlenet().bind(variables).lrn
    assert (norm.size, norm.alpha * norm.size, norm.beta, norm.k) == (5, 1e-4, 0.75, 1.0)


def test_reductions_make_the_large_kernels_affordable() -> None:
    """Sec. 4: the multiplications of module 3a with its 1x1 reductions, and without them (figure 2a)."""
    layers = summarize(GoogLeNet(norm="lrn"), (224, 224, 3)).layers
    macs = sum(layer.macs for layer in layers if layer.path.startswith("inception3a/")) // 28**2
    one, reduce3, three, reduce5, five, pooled = dict(INCEPTIONS)["3a"]
    assert macs == 192 * (one + reduce3 + reduce5 + pooled) + 9 * reduce3 * three + 25 * reduce5 * five
    naive = 192 * (one + 9 * three + 25 * five + pooled)
    assert naive / macs > 2.3


def test_batch_norm_form_has_torchvision_s_small_kernel() -> None:
    for norm, size in (("batch", 3), ("lrn", 5)):
        params = shapes_of(googlenet(norm=norm))["params"]
        assert params["inception4a"]["branch3"]["1"]["conv"]["kernel"].shape == (size, size, 4, 8)
        assert ("bias" in params["conv1"]["conv"]) == (norm == "lrn")


def test_branches_are_concatenated_in_the_paper_s_order(images: jax.Array) -> None:
    """A module whose branches give 1, 2, 3 and 4 everywhere."""
    class Constant(nn.Module):
        features: int
        kernel_size: int

        @nn.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            value = dict(branch1=1, branch2=2, branch3=3, branch4=4)[self.path[0]]
            return jnp.full((*x.shape[:-1], self.features), value)

    out = Inception((2, 7, 3, 7, 1, 2), 5, Constant).apply({}, images, False)
    assert out[0, 0, 0].tolist() == [1, 1, 2, 2, 2, 3, 4, 4]


def test_dropout_acts_in_training_only(variables: Any, images: jax.Array, logits: jax.Array) -> None:
    model = googlenet(dropout=0.4, auxiliary_dropout=0.7)
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, images), logits)

    @jax.jit
    def draw(key: jax.Array) -> tuple[jax.Array, ...]:
        out, state = in_training(model, variables, images, rngs={"dropout": key})
        return out, *state["intermediates"]["auxiliary"]

    first, again, other = (draw(jax.random.key(seed)) for seed in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_impossible_images_are_refused() -> None:
    def init(norm: str, *shape: int) -> Any:
        return jax.eval_shape(googlenet(norm=norm).init, jax.random.key(0), jnp.zeros((1, *shape)))

    with pytest.raises(ValueError, match="images have 1 channels, the model takes 3"):
        init("lrn", 32, 32, 1)
    for norm, side in (("batch", 15), ("lrn", 31)):
        init(norm, side, side, 3)
        with pytest.raises(ValueError, match=f"too small: both sides must be at least {side}"):
            init(norm, side, side - 1, 3)
