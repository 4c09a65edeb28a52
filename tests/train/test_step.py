"""One training step: accumulation, averages, metrics and keys, on a task small enough to work out by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvjax.tasks.task import Aux, Task
from cvjax.train.optim import make_optimizer
from cvjax.train.state import create_state
from cvjax.train.step import Lookahead, make_train_step


def least_squares(**replaced) -> Task:
    """Fit x . w to y; the model state counts batches, and `extra` carries the key that the loss was given."""
    def init(rng, batch):
        return {"params": {"w": jnp.array([0.5, -1.0, 2.0])}, "counter": jnp.zeros((), jnp.int32)}

    def loss(params, model_state, batch, rng):
        error = (batch["x"] @ params["w"] - batch["y"]) ** 2
        metrics = {"loss": (error.sum(), jnp.float32(error.size)), "y": (batch["y"].sum(), jnp.float32(error.size))}
        return error.mean(), Aux(metrics, {"counter": model_state["counter"] + 1}, extra=jax.random.key_data(rng))

    return Task(**({"init": init, "loss": loss, "evaluate": None} | replaced))


def batch_of(rows: int, seed: int = 0) -> dict:
    numbers = np.random.default_rng(seed)
    return {"x": jnp.asarray(numbers.normal(size=(rows, 3)), jnp.float32),
            "y": jnp.arange(rows, dtype=jnp.float32)}


def start(task, optimizer, *, ema=False, seed=0):
    return create_state(lambda rng: task.init(rng, None), optimizer, jax.random.key(seed), ema=ema)


def test_lookahead_goes_on_from_an_average_that_slows_down():
    """By hand for two weights: fast steps of SGD, and every third step the average, with a decay rising by the cube."""
    def pulled():
        def loss(params, model_state, batch, rng):
            value = 0.5 * ((params["w"] - batch["x"]) ** 2).sum()
            mean = 0.5 * model_state["mean"] + batch["x"].mean()
            return value, Aux({"loss": (value, jnp.ones(()))}, {"mean": mean})

        return Task(lambda rng, batch: {"params": {"w": jnp.array([4.0, -2.0])}, "mean": jnp.zeros(())}, loss, None)

    task, optimizer = pulled(), optax.sgd(0.5)
    step = jax.jit(make_train_step(task, optimizer, ema_decay=0.75, lookahead=Lookahead(3, 6)))
    state = start(task, optimizer, ema=True)
    w, slow, mean, slow_mean = np.array([4.0, -2.0]), np.array([4.0, -2.0]), 0.0, 0.0
    for number in range(1, 7):
        x = np.array([number, 1.0])
        state, _ = step(state, {"x": jnp.asarray(x, jnp.float32)})
        w, mean = w - 0.5 * (w - x), 0.5 * mean + x.mean()
        if number % 3 == 0:
            decay = 0.75 * (number / 6) ** 3
            w = slow = decay * slow + (1 - decay) * w
            mean = slow_mean = decay * slow_mean + (1 - decay) * mean
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)  # six float32 steps
        np.testing.assert_allclose(state.ema["params"]["w"], slow, rtol=1e-5)
        np.testing.assert_allclose((state.model_state["mean"], state.ema["mean"]), (mean, slow_mean), rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_constants_reach_the_loss_and_are_neither_averaged_nor_changed(accumulate):
    """With targets that a frozen teacher halves, by hand; the loss returns only what is a state of the model."""
    plain = least_squares()

    def loss(params, model_state, batch, rng):
        halved = {"x": batch["x"], "y": batch["y"] * model_state["teacher"]["half"]}
        return plain.loss(params, {"counter": model_state["counter"]}, halved, rng)

    optimizer, batch = optax.sgd(0.1), batch_of(8)
    teacher = {"teacher": {"half": jnp.full((), 0.5)}}
    taught = create_state(lambda rng: plain.init(rng, None), optimizer, jax.random.key(0), ema=True, constants=teacher)
    make = partial(make_train_step, optimizer=optimizer, accumulate=accumulate, ema_decay=0.9)
    found, _ = jax.jit(make(least_squares(loss=loss)))(taught, batch)
    expected, _ = jax.jit(make(plain))(start(plain, optimizer, ema=True), batch | {"y": batch["y"] / 2})
    np.testing.assert_array_equal(found.params["w"], expected.params["w"])
    assert found.constants == teacher
    assert found.ema.keys() == expected.ema.keys() and found.model_state.keys() == {"counter"}


def keep_key(state, aux):
    return state.replace(model_state=state.model_state | {"key": aux.extra})


def test_four_micro_batches_equal_the_full_batch():
    task, optimizer, batch = least_squares(), optax.sgd(0.1), batch_of(32)
    state = start(task, optimizer)
    full, full_metrics = jax.jit(make_train_step(task, optimizer))(state, batch)
    parts, parts_metrics = jax.jit(make_train_step(task, optimizer, accumulate=4))(state, batch)
    # Sums of 32 float32 terms in another order: a few units of 2**-24, relative to the terms, which are around 1.
    np.testing.assert_allclose(full.params["w"], parts.params["w"], rtol=1e-6, atol=1e-6)
    assert full_metrics["y"] == parts_metrics["y"] == (sum(range(32)), 32)  # small integers: exact
    np.testing.assert_allclose(full_metrics["loss"], parts_metrics["loss"], rtol=1e-6)
    np.testing.assert_allclose(full_metrics["gradient_norm"], parts_metrics["gradient_norm"], rtol=1e-6)


def test_micro_batches_see_every_row_once_and_pass_the_model_state_on():
    seen = []

    def loss(params, model_state, batch, rng):
        jax.debug.callback(lambda y: seen.append(np.asarray(y)), batch["y"])
        return least_squares().loss(params, model_state, batch, rng)

    task, optimizer = least_squares(loss=loss), optax.sgd(0.1)
    state, _ = make_train_step(task, optimizer, accumulate=4)(start(task, optimizer), batch_of(12))
    jax.effects_barrier()
    assert {len(rows) for rows in seen} == {3} and sorted(np.concatenate(seen)) == list(range(12))
    assert state.model_state["counter"] == 4


def test_gradient_and_update_are_those_worked_out_by_hand():
    task, optimizer, batch = least_squares(), optax.sgd(0.1), batch_of(8)
    state = start(task, optimizer)
    x, y, w = (np.asarray(v, np.float64) for v in (batch["x"], batch["y"], state.params["w"]))
    gradient = 2 * x.T @ (x @ w - y) / 8
    after, metrics = make_train_step(task, optimizer)(state, batch)
    np.testing.assert_allclose(after.params["w"], w - 0.1 * gradient, rtol=1e-5)  # float32 of about 10 operations
    norm, count = metrics["gradient_norm"]
    np.testing.assert_allclose(norm, np.sqrt((gradient**2).sum()), rtol=1e-5)
    assert count == 1
    assert metrics["y"] == (28, 8)


def test_gradient_norm_is_that_before_clipping():
    task, optimizer, batch = least_squares(), optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0)), batch_of(8)
    state = start(task, optimizer)
    after, metrics = make_train_step(task, optimizer)(state, batch)
    assert metrics["gradient_norm"][0] > 1
    # A step of 1e-3 on weights of about 2 is read off with an error of 2**-23.
    assert float(jnp.linalg.norm(after.params["w"] - state.params["w"])) == pytest.approx(1e-3, abs=1e-6)


def test_average_of_parameters_follows_its_formula():
    task, optimizer = least_squares(), optax.sgd(0.01)
    step, state = make_train_step(task, optimizer, ema_decay=0.9), start(task, optimizer, ema=True)
    expected = np.asarray(state.params["w"])
    assert state.ema["params"]["w"] is not state.params["w"]
    for seed in range(5):
        state, _ = step(state, batch_of(8, seed))
        expected = 0.9 * expected + 0.1 * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.ema["params"]["w"], expected, rtol=1e-6)  # 5 float32 roundings
    np.testing.assert_array_equal(state.variables["params"]["w"], state.ema["params"]["w"])
    assert not np.allclose(state.ema["params"]["w"], state.params["w"], rtol=1e-3)


def test_an_average_that_moves_every_third_step_and_begins_anew_until_the_fifth():
    """By hand, also for the state of a resumed run: what is due follows from the number of the step."""
    task, optimizer = least_squares(), optax.sgd(0.01)
    step = jax.jit(make_train_step(task, optimizer, ema_decay=0.9, ema_every=3, ema_start=5))
    state = start(task, optimizer, ema=True)
    expected = np.asarray(state.params["w"])
    for done in range(1, 13):
        state, _ = step(state, batch_of(8, done))
        w = np.asarray(state.params["w"])
        if done % 3 == 0:
            expected = w if done <= 5 else 0.9 * expected + 0.1 * w
        np.testing.assert_allclose(state.ema["params"]["w"], expected, rtol=1e-6)  # a few float32 roundings


def test_the_model_state_is_averaged_as_the_parameters_are():
    """A statistic that is 0 at the start and n after step n."""
    def init(rng, batch):
        return {"params": {"w": jnp.zeros(3)}, "batch_stats": {"mean": jnp.zeros(())}}

    def loss(params, model_state, batch, rng):
        _, aux = least_squares().loss(params, {"counter": 0}, batch, rng)
        mean = model_state["batch_stats"]["mean"] + 1
        return params["w"].sum(), aux._replace(model_state={"batch_stats": {"mean": mean}})

    task, optimizer = least_squares(init=init, loss=loss), optax.sgd(0.1)
    step, state, expected = make_train_step(task, optimizer, ema_decay=0.9), start(task, optimizer, ema=True), 0.0
    for number in range(1, 5):
        state, _ = step(state, batch_of(4))
        expected = 0.9 * expected + 0.1 * number
        assert float(state.ema["batch_stats"]["mean"]) == pytest.approx(expected, rel=1e-6)
    assert state.variables.keys() == {"params", "batch_stats"} and state.variables is state.ema
    state, _ = make_train_step(least_squares(), optimizer, ema_decay=0.9)(
        start(least_squares(), optimizer, ema=True), batch_of(4))
    assert state.ema["counter"].dtype == jnp.int32 and state.ema["counter"] == 1, "counters have no average"


def test_root_key_stays_and_every_step_has_its_own():
    task, optimizer = least_squares(post_update=keep_key), optax.sgd(0.01)
    step, state = make_train_step(task, optimizer), start(task, optimizer)
    root, keys = jax.random.key_data(state.rng), []
    for number in range(4):
        assert state.step == number
        state, _ = step(state, batch_of(4))
        np.testing.assert_array_equal(jax.random.key_data(state.rng), root)
        keys.append(tuple(np.asarray(state.model_state["key"])))
    assert len(set(keys)) == 4
    again, _ = step(start(task, optimizer).replace(step=jnp.int32(2)), batch_of(4))
    assert tuple(np.asarray(again.model_state["key"])) == keys[2], "as it would have drawn"
    other, _ = step(start(task, optimizer, seed=1), batch_of(4))
    assert tuple(np.asarray(other.model_state["key"])) not in keys


def test_post_update_sees_the_new_parameters_and_may_change_the_state():
    def halve(state, aux):
        return state.replace(params=jax.tree.map(lambda x: x / 2, state.params))

    optimizer = optax.sgd(0.1)
    plain, _ = make_train_step(least_squares(), optimizer)(start(least_squares(), optimizer), batch_of(4))
    task = least_squares(post_update=halve)
    halved, _ = make_train_step(task, optimizer)(start(task, optimizer), batch_of(4))
    np.testing.assert_array_equal(halved.params["w"], plain.params["w"] / 2)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_many_steps_compile_once(accumulate):
    traces = []

    def loss(*arguments):
        traces.append(1)
        return least_squares().loss(*arguments)

    task, optimizer = least_squares(loss=loss), optax.adamw(1e-3)
    step, state = jax.jit(make_train_step(task, optimizer, accumulate=accumulate, ema_decay=0.9)), None
    state = start(task, optimizer, ema=True)
    for seed in range(10):
        state, _ = step(state, batch_of(8, seed))
        if seed == 0:
            first = len(traces)
    assert step._cache_size() == 1 and len(traces) == first


def test_metrics_of_a_constant_task_are_exact():
    """Whatever the parameters, this task's metric is (7, 2) a batch: 4 micro-batches must give (28, 8)."""
    def loss(params, model_state, batch, rng):
        return 0.0 * params["w"].sum(), Aux({"constant": (jnp.float32(7), jnp.float32(2))}, model_state)

    task, optimizer = least_squares(loss=loss), optax.sgd(1.0)
    for accumulate, expected in ((1, (7, 2)), (4, (28, 8))):
        state, metrics = make_train_step(task, optimizer, accumulate=accumulate)(start(task, optimizer), batch_of(8))
        assert tuple(map(float, metrics["constant"])) == expected
        assert tuple(map(float, metrics["gradient_norm"])) == (0, 1)
        np.testing.assert_array_equal(state.params["w"], start(task, optimizer).params["w"])


def with_bad_rows(rows=8, value=np.nan):
    batch = batch_of(rows)
    return batch | {"y": batch["y"].at[1].set(value)}


def bits(tree):
    """Every leaf as bytes; keys by their data."""
    return [np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x).tobytes()
            for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_keeps_every_bit_but_its_number(value, accumulate):
    def count_updates(state, aux):
        return state.replace(model_state=state.model_state | {"updates": state.model_state["updates"] + 1})

    def init(rng, batch):
        return {"params": {"w": jnp.array([0.5, -0.0, 2.0])}, "counter": jnp.zeros((), jnp.int32),
                "updates": jnp.zeros(())}

    def loss(params, model_state, batch, rng):
        value, aux = least_squares().loss(params, model_state, batch, rng)
        return value, aux._replace(model_state={**model_state, **aux.model_state})

    task, optimizer = least_squares(init=init, loss=loss, post_update=count_updates), optax.adamw(0.1)
    step = jax.jit(make_train_step(task, optimizer, skip_nonfinite=True, accumulate=accumulate, ema_decay=0.9))
    before = start(task, optimizer, ema=True)
    after, metrics = step(before, with_bad_rows(value=value))
    assert after.step == 1 and after.step.dtype == before.step.dtype
    assert bits(after.replace(step=before.step)) == bits(before), "also -0.0, moments, averages, counters and the key"
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert {name: tuple(map(float, pair)) for name, pair in metrics.items()} == {
        "loss": (0, 0), "y": (0, 0), "gradient_norm": (0, 0), "skipped": (1, 1)}

    went_on, metrics = step(after, batch_of(8))
    fresh, expected = step(before.replace(step=jnp.int32(1)), batch_of(8))
    assert bits(went_on) == bits(fresh) and went_on.step == 2
    assert tuple(map(float, metrics["skipped"])) == (0, 1) and metrics["loss"][1] == 8
    assert bits(metrics) == bits(expected)


def test_finite_steps_are_the_same_whether_others_may_be_skipped():
    task, optimizer = least_squares(), optax.adamw(0.1)
    plain, may_skip = (jax.jit(make_train_step(task, optimizer, skip_nonfinite=skip))(start(task, optimizer),
                                                                                      batch_of(8))
                       for skip in (False, True))
    assert bits(plain[0]) == bits(may_skip[0])
    assert may_skip[1].keys() - plain[1].keys() == {"skipped"}
    assert bits(plain[1]) == bits({name: pair for name, pair in may_skip[1].items() if name != "skipped"})


def test_a_gradient_or_a_loss_alone_is_enough_to_skip():
    """sqrt(0) has a loss of 0 and an infinite gradient; a loss may be nan where its gradient is not."""
    def edge(params, model_state, batch, rng):
        value = jnp.sqrt(jnp.square(params["w"]).sum() * 0.0) + params["w"].sum()
        return value, Aux({"loss": (jnp.float32(1), jnp.float32(1))}, model_state)

    def no_loss(params, model_state, batch, rng):
        return params["w"].sum(), Aux({"loss": (jnp.float32(np.nan), jnp.float32(1))}, model_state)

    for loss in (edge, no_loss):
        task, optimizer = least_squares(loss=loss), optax.sgd(0.1)
        before = start(task, optimizer)
        after, metrics = make_train_step(task, optimizer, skip_nonfinite=True)(before, batch_of(4))
        assert tuple(map(float, metrics["skipped"])) == (1, 1)
        assert bits(after.params) == bits(before.params)


def test_without_the_option_a_bad_step_is_made_and_seen():
    task, optimizer = least_squares(), optax.sgd(0.1)
    after, metrics = make_train_step(task, optimizer)(start(task, optimizer), with_bad_rows())
    assert np.isnan(after.params["w"]).all() and np.isnan(metrics["loss"][0]) and "skipped" not in metrics


@pytest.mark.parametrize("accumulate", [1, 2])
def test_nothing_is_computed_backward_for_what_is_frozen(accumulate):
    """The same numbers as with gradients that the optimizer drops, but for the norm, which is of what is trained."""
    backward = []

    @jax.custom_vjp
    def scaled(x, scale):
        return x * scale

    def gradients(inputs, g):
        backward.append("scaled")
        return g * inputs[1], (g * inputs[0]).sum(0)

    scaled.defvjp(lambda x, scale: (x * scale, (x, scale)), gradients)

    def init(rng, batch):
        return least_squares().init(rng, batch) | {"params": {"w": jnp.array([0.5, -1.0, 2.0]),
                                                              "below": {"scale": jnp.array([1.0, 2.0, -0.0])}}}

    def loss(params, model_state, batch, rng):
        batch = batch | {"x": scaled(batch["x"], params["below"]["scale"])}
        return least_squares().loss(params, model_state, batch, rng)

    task, batch = least_squares(init=init, loss=loss), batch_of(8)

    def is_frozen(path):
        return path.startswith("below/")

    optimizer = make_optimizer("momentum", optax.constant_schedule(0.1), weight_decay=0.1, frozen=is_frozen)
    state = start(task, optimizer)
    whole, whole_metrics = make_train_step(task, optimizer, accumulate=accumulate)(state, batch)
    assert backward
    backward.clear()
    after, metrics = make_train_step(task, optimizer, accumulate=accumulate, frozen=is_frozen)(state, batch)
    assert not backward
    jax.tree.map(np.testing.assert_array_equal, after.params, whole.params)
    scale = after.params["below"]["scale"]
    np.testing.assert_array_equal(scale, state.params["below"]["scale"])
    assert np.signbit(scale[2]) and not np.array_equal(after.params["w"], state.params["w"])
    x, y, w = (np.asarray(v, np.float64) for v in (batch["x"] * scale, batch["y"], state.params["w"]))
    norm = np.linalg.norm(2 * x.T @ (x @ w - y) / 8)
    np.testing.assert_allclose(metrics["gradient_norm"][0], norm, rtol=1e-5)  # float32 of about 10 operations
    assert whole_metrics["gradient_norm"][0] > 1.1 * norm
