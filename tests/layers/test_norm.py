"""Batch normalisation against a float64 twin, and how it behaves frozen, on data far from zero, and on devices."""

import json
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.layers.norm import BatchNorm, GroupNorm, frozen_statistics

EPSILON = 1e-5


def twin(x, scale, bias, mean, var, *, train: bool, momentum: float = 0.9):
    """Algorithms 1 and 2 of the paper in float64: `(output, running mean, running variance)`."""
    x, axes = np.asarray(x, np.float64), tuple(range(np.ndim(x) - 1))
    if train:
        batch_mean, batch_var, count = x.mean(axes), x.var(axes), x.size // x.shape[-1]
        running = (momentum * mean + (1 - momentum) * batch_mean,
                   momentum * var + (1 - momentum) * batch_var * count / (count - 1))
        mean, var = batch_mean, batch_var
    else:
        running = mean, var
    return (scale * (x - mean) / np.sqrt(var + EPSILON) + bias, *running)


def images(*shape: int, mean: float = 0.0, seed: int = 0) -> np.ndarray:
    numbers = np.random.default_rng(seed)
    return np.float32(mean + numbers.normal(size=shape) * np.linspace(0.5, 3, shape[-1]))


def variables(channels: int, seed: int = 1):
    numbers = np.random.default_rng(seed)
    scale, bias, mean, var = (np.float32(x) for x in (
        numbers.uniform(0.5, 2, channels), numbers.normal(size=channels), numbers.normal(size=channels),
        numbers.uniform(0.5, 2, channels)))
    return {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}


def apply(x, given, train=True, **fields):
    """Output, running mean and running variance after one call."""
    y, state = BatchNorm(**fields).apply(given, x, train=train, mutable=["batch_stats"])
    return y, state["batch_stats"]["mean"], state["batch_stats"]["var"]


def leaves(given):
    return *given["params"].values(), *given["batch_stats"].values()


@pytest.mark.parametrize("shape", [(4, 5, 6, 7), (9, 3), (2, 8, 4), (1, 6, 1, 3)])
@pytest.mark.parametrize("train", [True, False])
def test_equals_the_twin_in_any_number_of_axes(shape, train):
    x, given = images(*shape), variables(shape[-1])
    for found, expected in zip(apply(x, given, train), twin(x, *leaves(given), train=train)):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_evaluation_changes_no_statistics_and_does_not_look_at_the_batch():
    x, given = images(4, 5, 5, 3), variables(3)
    whole, mean, var = apply(x, given, train=False)
    np.testing.assert_array_equal(mean, given["batch_stats"]["mean"])
    np.testing.assert_array_equal(var, given["batch_stats"]["var"])
    np.testing.assert_array_equal(BatchNorm().apply(given, x[:1], train=False), whole[:1])


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_momentum_is_what_running_statistics_keep_and_their_variance_is_unbiased(momentum):
    """The batch of 4 numbers 0, 2, 4, 6: mean 3, biased variance 5, unbiased 20 / 3."""
    x = jnp.array([0.0, 2.0, 4.0, 6.0])[:, None]
    given = {"params": {"scale": np.ones(1), "bias": np.zeros(1)},
             "batch_stats": {"mean": np.float32([10]), "var": np.float32([1])}}
    y, mean, var = apply(x, given, momentum=momentum)
    assert float(mean[0]) == pytest.approx(momentum * 10 + (1 - momentum) * 3, rel=1e-6)
    assert float(var[0]) == pytest.approx(momentum * 1 + (1 - momentum) * 20 / 3, rel=1e-6)
    np.testing.assert_allclose(y[:, 0], (np.array([0, 2, 4, 6]) - 3) / np.sqrt(5 + EPSILON), rtol=1e-5)


def test_many_steps_equal_the_twin():
    given = variables(5)
    expected = given["batch_stats"]["mean"], given["batch_stats"]["var"]
    for seed in range(30):
        x = images(8, 3, 3, 5, mean=2.0, seed=seed)
        _, mean, var = apply(x, given)
        expected = twin(x, *given["params"].values(), *expected, train=True)[1:]
        given = {**given, "batch_stats": {"mean": mean, "var": var}}
    np.testing.assert_allclose(mean, expected[0], rtol=1e-5)
    np.testing.assert_allclose(var, expected[1], rtol=1e-5)


def test_the_gradient_goes_through_the_batchs_statistics():
    """A batch that is shifted or scaled gives the same output, so the gradient by it is orthogonal to both."""
    x, given, weight = images(6, 4, 4, 3), variables(3), images(6, 4, 4, 3, seed=5)
    gradient = np.asarray(jax.grad(lambda x: (apply(x, given)[0] * weight).sum())(jnp.asarray(x)), np.float64)
    scale = np.abs(gradient).max() * x[..., 0].size
    assert np.abs(gradient).max() > 0.1
    np.testing.assert_allclose(gradient.sum((0, 1, 2)) / scale, 0, atol=1e-6)
    np.testing.assert_allclose((gradient * x).sum((0, 1, 2)) / scale, 0, atol=1e-4)  # epsilon is no scaling
    held = jax.grad(lambda x: (BatchNorm().apply(given, x, train=False) * weight).sum())(jnp.asarray(x))
    by_hand = weight * given["params"]["scale"] / np.sqrt(given["batch_stats"]["var"] + EPSILON)
    np.testing.assert_allclose(held, by_hand, rtol=1e-5)


@pytest.mark.parametrize("mean, behind, tolerance", [(100, 0, 0.02), (1e4, 3, 1e-3), (1e4, 0.1, 1e-3)])
def test_a_mean_far_above_the_deviation_does_not_cancel(mean, behind, tolerance):
    """E[x^2] - E[x]^2 in float32 is wrong by mean^2 2**-23: 12 at 1e4. Around a running mean that is `behind` by a few
    deviations nothing cancels; at the first step (behind by all of it) a hundred deviations still do no harm."""
    x, given = images(64, 8, 8, 4, mean=mean), variables(4)
    given["batch_stats"]["mean"] = np.zeros(4, np.float32) if not behind else np.full(4, mean - behind, np.float32)
    found, expected = apply(x, given), twin(x, *leaves(given), train=True)
    np.testing.assert_allclose(found[2], expected[2], rtol=tolerance)
    np.testing.assert_allclose(found[0], expected[0], atol=4 * tolerance * np.abs(expected[0]).max())
    assert np.isfinite(found[0]).all()


def test_a_constant_batch_gives_the_bias_and_no_nan():
    given = variables(2)
    x = jnp.full((4, 3, 3, 2), 1234.5)
    y, mean, var = apply(x, given)
    np.testing.assert_allclose(y, np.broadcast_to(given["params"]["bias"], y.shape), atol=0.05)  # 1 / sqrt(eps) is 316
    assert np.isfinite(mean).all() and (var >= 0).all()
    gradient = jax.grad(lambda x: apply(x, given)[0].sum())(x)
    assert np.isfinite(gradient).all()


def test_half_precision_computes_statistics_in_float32():
    x, given = jnp.asarray(images(32, 8, 8, 4, mean=3.0), jnp.bfloat16), variables(4)
    y, mean, var = apply(x, given, dtype=jnp.bfloat16)
    expected = twin(np.asarray(x, np.float32), *leaves(given), train=True)
    assert y.dtype == jnp.bfloat16 and mean.dtype == var.dtype == jnp.float32
    np.testing.assert_allclose(mean, expected[1], rtol=1e-5)
    np.testing.assert_allclose(var, expected[2], rtol=1e-4)
    # bfloat16 keeps 8 bits, and mean / deviation is up to 6 here.
    np.testing.assert_allclose(np.asarray(y, np.float32), expected[0], atol=0.15, rtol=0.02)


def test_making_parameters_leaves_running_statistics_at_their_start():
    made = BatchNorm(axis_name="data").init(jax.random.key(0), images(4, 3, 3, 2, mean=7), train=True)
    np.testing.assert_array_equal(made["batch_stats"]["mean"], np.zeros(2))
    np.testing.assert_array_equal(made["batch_stats"]["var"], np.ones(2))


@pytest.mark.parametrize("train", [True, False])
def test_without_affine_there_is_nothing_to_learn_and_the_output_is_that_of_scale_1_and_bias_0(train):
    x, given = images(4, 5, 5, 3), variables(3)
    norm = BatchNorm(affine=False, epsilon=1e-6)
    assert set(norm.init(jax.random.key(0), x, train=train)) == {"batch_stats"}
    bare, state = norm.apply({"batch_stats": given["batch_stats"]}, x, train=train, mutable=["batch_stats"])
    plain = given | {"params": {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}}
    y, *running = apply(x, plain, train, epsilon=1e-6)
    np.testing.assert_array_equal(bare, y)
    for found, expected in zip(state["batch_stats"].values(), running):
        np.testing.assert_array_equal(found, expected)


def test_group_norm_looks_at_one_image_and_32_groups_of_its_channels():
    x = images(2, 3, 4, 64, mean=2.0)
    given = {"params": variables(64)["params"]}
    scale, bias = given["params"].values()
    groups = np.asarray(x, np.float64).reshape(2, 12, 32, 2)
    mean, deviation = groups.mean((1, 3), keepdims=True), np.sqrt(groups.var((1, 3), keepdims=True) + EPSILON)
    expected = scale * ((groups - mean) / deviation).reshape(x.shape) + bias
    for train in (True, False):
        found = jax.jit(partial(GroupNorm().apply, train=train))(given, x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


class Two(nn.Module):
    """A norm inside of a part, and one at the top."""

    @nn.compact
    def __call__(self, x, train):
        x = BatchNorm(name="body")(x, train=train)
        return BatchNorm(name="bodyguard")(x, train=train)


def test_frozen_norms_behave_as_in_evaluation_and_others_as_in_training():
    x = images(8, 4, 4, 3, mean=2.0)
    made = Two().init(jax.random.key(0), x, True)

    def outcome(frozen):
        with frozen_statistics(frozen):
            y, state = Two().apply(made, x, True, mutable=["batch_stats"])
        return y, state["batch_stats"]

    y, state = outcome(lambda path: path == "body")
    assert jax.tree.all(jax.tree.map(np.array_equal, state["body"], made["batch_stats"]["body"]))
    assert not np.array_equal(state["bodyguard"]["mean"], made["batch_stats"]["bodyguard"]["mean"])
    y_all, state_all = outcome(lambda path: True)
    np.testing.assert_array_equal(y_all, Two().apply(made, x, False))
    assert jax.tree.all(jax.tree.map(np.array_equal, state_all, made["batch_stats"]))
    after, _ = Two().apply(made, x, True, mutable=["batch_stats"])
    assert not np.array_equal(after, y), "and only within the context"


# --- devices


def on_devices() -> None:
    """Print how far eight devices are from one, under jit and pmap, after three steps; for a process of its own."""
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    assert jax.device_count() == 8
    split = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))

    def step(norm):
        def run(state, x):
            def loss(scale):
                given = {"params": {"scale": scale, "bias": jnp.zeros(4)}, "batch_stats": state}
                y, new = norm.apply(given, x, train=True, mutable=["batch_stats"])
                return (y**4).mean(), (y, new["batch_stats"])
            gradient, (y, state) = jax.grad(loss, has_aux=True)(jnp.linspace(1, 2, 4))
            return state, y, gradient
        return run

    def mapped(state, x):
        state, y, gradient = step(BatchNorm(axis_name="data"))(state, x)
        return state, y, jax.lax.pmean(gradient, "data")

    start = {"mean": jnp.zeros(4), "var": jnp.ones(4)}
    states = [start, start, jax.tree.map(lambda a: jnp.broadcast_to(a, (8, 4)), start)]
    steps = [jax.jit(step(BatchNorm())), jax.jit(step(BatchNorm()), in_shardings=(None, split)),
             jax.pmap(mapped, axis_name="data")]
    for seed in range(3):
        # Devices see different means: a variance of each shard by itself would be far smaller.
        x = images(16, 3, 3, 4, seed=seed) + 5 * np.arange(16, dtype=np.float32)[:, None, None, None] // 2
        outcomes = []
        for i, each in enumerate(steps):
            states[i], y, gradient = each(states[i], x.reshape(8, 2, 3, 3, 4) if i == 2 else x)
            outcomes.append([np.asarray(a) for a in (y.reshape(16, 3, 3, 4), gradient, *states[i].values())])
    one, jit, pmap = outcomes
    copies = max(float(np.ptp(a, axis=0).max()) for a in pmap[1:])
    pmap[1:] = [a[0] for a in pmap[1:]]

    def distances(other):
        return [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(one, other)]

    print(json.dumps({"copies": copies, "jit": distances(jit), "pmap": distances(pmap)}))


@pytest.fixture(scope="module")
def distances(python):
    return python("from tests.layers import test_norm; test_norm.on_devices()", devices=8)


@pytest.mark.parametrize("layout", ["jit", "pmap"])
def test_eight_devices_give_output_gradient_and_running_statistics_of_one(distances, layout):
    assert max(distances[layout]) < 1e-5, "relative distances of output, gradient, mean, variance"


def test_every_device_holds_the_same_running_statistics(distances):
    assert distances["copies"] == 0
