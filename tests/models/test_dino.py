"""DINO's head and its views; the numbers of whole steps are compared with torch's in tests/parity."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.norm import BatchNorm
from cvjax.models import create_model
from cvjax.models.dino import DINO, DINOHead
from tests.models.drawn import random_like

SMALL = dict(out_dim=7, hidden=6, bottleneck=4)


def drawn(module: nn.Module, *inputs: Any) -> Any:
    return random_like(jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, train=False)))


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


@pytest.mark.parametrize("fields", [
    dict(layers=3), dict(layers=1), dict(layers=2, batch_norm=True), dict(layers=3, batch_norm=True),
    dict(layers=2, norm_last_layer=False)], ids=str)
def test_head_is_a_slow_twin(fields: dict) -> None:
    head, x = DINOHead(**SMALL, **fields), jax.random.normal(jax.random.key(1), (5, 3))
    variables = drawn(head, x)
    logits, _ = head.apply(variables, x, train=True, mutable=["batch_stats"])
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    y, places = np.asarray(x, np.float64), sorted(params["mlp"], key=int)
    for place in places:
        layer = params["mlp"][place]
        if "kernel" in layer:
            y = y @ layer["kernel"] + layer["bias"]
            normed = str(int(place) + 1) in places and fields.get("batch_norm")
        else:
            y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5) * layer["scale"] + layer["bias"]
            normed = False
        y = y if normed or place == places[-1] else gelu(y)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    v = params["last_layer"]["weight_v"]
    lengths = params["last_layer"].get("weight_g", 1.0)
    expected = y @ (v / np.linalg.norm(v, axis=0)) * lengths
    # float32 of three layers and a batch norm of 5 rows, on logits of about 1.
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("batch_norm, places", [(False, ["0", "2", "4"]), (True, ["0", "1", "3", "4", "6"])])
def test_layers_have_the_places_of_the_authors_sequence(batch_norm: bool, places: list[str]) -> None:
    head = DINOHead(**SMALL, batch_norm=batch_norm)
    params = jax.eval_shape(lambda: head.init(jax.random.key(0), jnp.zeros((2, 3)), train=False))["params"]
    assert sorted(params["mlp"], key=int) == places
    assert [params["mlp"][place]["kernel"].shape for place in places if "kernel" in params["mlp"][place]] == [
        (3, 6), (6, 6), (6, 4)]
    assert {name: leaf.shape for name, leaf in params["last_layer"].items()} == {"weight_v": (4, 7)}
    assert set(DINOHead(**SMALL, norm_last_layer=False).init(jax.random.key(0), jnp.zeros((2, 3)), train=False)[
        "params"]["last_layer"]) == {"weight_v", "weight_g"}


def test_a_head_starts_with_cosines() -> None:
    """Lengths are 1 at the start, learnt or not: all logits are in [-1, 1]."""
    x = 100 * jax.random.normal(jax.random.key(1), (50, 3))
    learnt, fixed = (DINOHead(**SMALL, norm_last_layer=fixed).init_with_output(jax.random.key(0), x, train=False)[0]
                     for fixed in (False, True))
    np.testing.assert_array_equal(learnt, fixed)
    assert 0.5 < np.abs(fixed).max() <= 1 + 1e-6


def test_the_length_of_a_prototype_takes_no_part() -> None:
    head, x = DINOHead(**SMALL), jax.random.normal(jax.random.key(1), (5, 3))
    variables = drawn(head, x)

    def scaled(factor: float) -> Any:
        v = variables["params"]["last_layer"]["weight_v"]
        return {"params": {**variables["params"], "last_layer": {"weight_v": v * factor}}}

    np.testing.assert_allclose(head.apply(scaled(64.0), x, train=False), head.apply(variables, x, train=False),
                               rtol=1e-6, atol=1e-6)


def test_features_of_zero_have_a_finite_gradient() -> None:
    """A picture that leaves no ReLU active, in front of biases that start at zero; torch divides by 1e-12, too."""
    head, x = DINOHead(**SMALL), jnp.zeros((2, 3))
    variables = jax.jit(partial(head.init, train=False))(jax.random.key(0), x)
    logits = head.apply(variables, x, train=False)
    np.testing.assert_array_equal(logits, np.zeros((2, 7)))
    gradients = jax.jit(jax.grad(lambda v: head.apply(v, x, train=False)[:, 0].sum()))(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_half_precision_is_the_layers_alone() -> None:
    head, x = DINOHead(**SMALL, batch_norm=True, dtype=jnp.bfloat16), jax.random.normal(jax.random.key(1), (5, 3))
    variables = drawn(head, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    rough, exact = (module.apply(variables, x, train=True, mutable=["batch_stats"])[0]
                    for module in (head, head.clone(dtype=jnp.float32)))
    assert rough.dtype == jnp.float32
    distance = np.abs(rough - exact).max()
    assert 1e-4 < distance < 0.1  # 2**-9 each, amplified by the norm of 5 rows


class Shapes(nn.Module):
    """A backbone that notes what it is given, with a batch norm; the features are the mean and the side."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = BatchNorm(name="bn")(x, train=train)
        return jnp.stack([x.mean((1, 2, 3)), jnp.full(len(x), x.shape[1], x.dtype)], axis=1)


def test_views_stay_in_order_and_sizes_are_normed_by_themselves() -> None:
    model = DINO(Shapes(), DINOHead(out_dim=3, layers=1, bottleneck=2))
    large, small = (jax.random.normal(jax.random.key(side), (2, count, side, side, 1)) for count, side in (
        (2, 4), (3, 2)))
    variables = drawn(model, [large, small])
    logits, state = model.apply(variables, [large, small], train=True, mutable=["batch_stats"])
    assert logits.shape == (2, 5, 3) and logits.dtype == jnp.float32
    for crops, rows in ((large, slice(0, 2)), (small, slice(2, 5))):
        alone = model.apply(variables, [crops], train=True, mutable=["batch_stats"])[0]
        np.testing.assert_allclose(logits[:, rows], alone, rtol=1e-5, atol=1e-6)
    flipped = model.apply(variables, [large[:, ::-1], small[::-1]], train=True, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(flipped[:, :2], logits[:, :2][:, ::-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(flipped[:, 2:], logits[::-1, 2:], rtol=1e-5, atol=1e-6)
    # Neighbours of one size count as one.
    split = model.apply(variables, [large[:, :1], large[:, 1:], small], train=True, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(split, logits, rtol=1e-5, atol=1e-6)
    # Running statistics: first the large views', then the small ones'.
    mean = np.asarray(variables["batch_stats"]["backbone"]["bn"]["mean"])
    for crops in (large, small):
        mean = 0.9 * mean + 0.1 * np.asarray(crops).mean()
    np.testing.assert_allclose(state["batch_stats"]["backbone"]["bn"]["mean"], mean, rtol=1e-5, atol=1e-6)


def test_features_are_the_backbones() -> None:
    backbone = create_model("resnet20", depths=(1,), width=4, num_classes=0)
    model, images = DINO(backbone, DINOHead(**SMALL)), jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = drawn(model, [images[:, None]])
    inside = {kind: tree["backbone"] for kind, tree in variables.items() if "backbone" in tree}
    np.testing.assert_array_equal(jax.jit(lambda v: model.apply(v, images, method="features"))(variables),
                                  jax.jit(backbone.apply)(inside, images))
