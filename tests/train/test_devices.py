"""One device, eight under jit and eight under pmap: the same records, the same draws, the same losses."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvjax.data import open_dataset
from cvjax.experiment.inputs import Inputs
from cvjax.models import create_model
from cvjax.tasks.mae import mae_task
from cvjax.tasks.supervised import supervised_task
from cvjax.train import metrics
from cvjax.train.mesh import MeshEngine, check_batch_size
from cvjax.train.optim import make_optimizer
from cvjax.train.pmap import PmapEngine
from cvjax.train.state import create_state
from cvjax.train.step import make_train_step

STEPS, BATCH = 20, 64


@functools.cache
def inputs():
    return Inputs(open_dataset("digits"), 8, BATCH, {"train": None, "test": None}, crop_scale=(0.6, 1.0), flip=True)


def mae():
    model = create_model("mae_vit_tiny_patch16", image_size=8, patch_size=2, in_channels=1, width=16, depth=1, heads=2,
                         decoder_width=16, decoder_depth=1, decoder_heads=2, mask_ratio=0.5)
    return mae_task(model, augment=inputs().augment, preprocess=inputs().preprocess, normalize_pixels=True)


def supervised():
    """Without drop path and mixup, whose draws belong to a batch and so differ between shards."""
    model = create_model("vit_tiny_patch16_224", image_size=8, patch_size=2, in_channels=1, width=16, depth=1, heads=2,
                         num_classes=10, pool="avg")
    return supervised_task(model, augment=inputs().augment, preprocess=inputs().preprocess, label_smoothing=0.1)


def blank():
    return {"image": np.zeros((1, 8, 8, 1), np.uint8), "index": np.zeros(1, np.int64)}


def setup(engine, task, accumulate=1):
    optimizer = make_optimizer("adamw", optax.constant_schedule(1e-3), weight_decay=0.05, b2=0.95, clip_norm=1.0)
    step = make_train_step(task, optimizer, accumulate=accumulate, ema_decay=0.9, axis_name=engine.axis_name)
    state = engine.create(lambda: create_state(lambda rng: task.init(rng, blank()), optimizer, jax.random.key(0), ema=True))
    return state, engine.compile_step(step)


def curve(engine, task, accumulate=1):
    """Training losses of 20 steps, then the loss of the test set and the sum of all averaged parameters' squares."""
    state, step = setup(engine, task, accumulate)
    batches, losses = inputs().train_batches(seed=0, workers=0), []
    for _ in range(STEPS):
        state, values = step(state, engine.put(next(batches)))
        losses.append(metrics.mean(metrics.to_host(values))["loss"])
    batches.close()
    compiled = engine.compile_evaluation(task.evaluate)
    results = (compiled(state.variables, engine.put(batch)) for batch in inputs().eval_batches("test"))
    losses.append(metrics.mean(metrics.sum_over(results))["loss"])
    return [*losses, float(optax.tree.norm(engine.single(state).ema, squared=True))]


def curves() -> dict[str, list[float]]:
    """All curves, in a process with eight devices."""
    assert jax.device_count() == 8
    found = {}
    for name, task in (("mae", mae()), ("supervised", supervised())):
        found[f"{name}, one"] = curve(MeshEngine(jax.devices()[:1]), task)
        found[f"{name}, jit"] = curve(MeshEngine(), task)
        found[f"{name}, pmap"] = curve(PmapEngine(), task)
    found["mae, one, accumulate 4"] = curve(MeshEngine(jax.devices()[:1]), mae(), accumulate=4)
    found["mae, jit, accumulate 4"] = curve(MeshEngine(), mae(), accumulate=4)
    found["mae, pmap, accumulate 4"] = curve(PmapEngine(), mae(), accumulate=4)
    return found


def collectives(accumulate: int) -> dict[str, int]:
    """How often each kind of communication occurs in the compiled step on eight devices."""
    engine = MeshEngine()
    state, step = setup(engine, mae(), accumulate)
    text = step.lower(state, engine.put(next(inputs().train_batches(seed=0, workers=0)))).compile().as_text()
    kinds = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute", "collective-broadcast")
    return {kind: len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in kinds}


@pytest.fixture(scope="module")
def measured(python):
    return python("import json; from tests.train import test_devices as t; print(json.dumps("
                  "{'curves': t.curves(), 'collectives': [t.collectives(1), t.collectives(2)]}))", devices=8)


@pytest.mark.parametrize("name", ["mae", "supervised"])
@pytest.mark.parametrize("other", ["jit", "pmap"])
def test_eight_devices_give_the_loss_curve_of_one(measured, name, other):
    one, eight = (np.array(measured["curves"][f"{name}, {key}"]) for key in ("one", other))
    assert one[0] - one[STEPS - 1] > 0.05 * one[0], "it learns, so the curves are no constants"
    # The order of float32 sums differs: 2**-24 = 6e-8 a step, which AdamW's division lets grow over 20 of them.
    # Measured: see TOLERANCE.
    np.testing.assert_allclose(eight, one, rtol=TOLERANCE)


@pytest.mark.parametrize("key", ["one, accumulate 4", "jit, accumulate 4", "pmap, accumulate 4"])
def test_accumulation_changes_nothing_on_any_devices(measured, key):
    np.testing.assert_allclose(measured["curves"][f"mae, {key}"], measured["curves"]["mae, one"], rtol=TOLERANCE)


@pytest.mark.parametrize("index", [0, 1], ids=["whole batch", "accumulate 2"])
def test_devices_exchange_sums_and_nothing_else(measured, index):
    counts = dict(measured["collectives"][index])
    assert counts.pop("all-reduce") > 0
    assert not any(counts.values()), counts


TOLERANCE = 2e-5  # the largest relative difference measured over all curves above was X


def test_a_step_uses_up_its_state():
    state, step = setup(MeshEngine(jax.devices()[:1]), mae())
    step(state, {k: jnp.asarray(v) for k, v in next(inputs().train_batches(seed=0, workers=0)).items()})
    assert jax.tree.leaves(state.params)[0].is_deleted()


@pytest.mark.parametrize("engine", [MeshEngine, PmapEngine])
def test_single_and_spread_are_inverse(engine):
    engine = engine(jax.devices()[:1])
    state, _ = setup(engine, mae())
    single = engine.single(state)
    back = engine.single(engine.spread(single))
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(back), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("batch, accumulate, devices", [(100, 1, 8), (64, 3, 1), (64, 4, 32)])
def test_a_batch_that_does_not_split_is_refused_in_one_line(batch, accumulate, devices):
    with pytest.raises(ValueError) as error:
        check_batch_size(batch, accumulate=accumulate, devices=devices)
    assert f"--batch-size {batch}" in str(error.value) and f"multiple of {accumulate * devices}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_batch_that_splits_is_accepted():
    check_batch_size(64, accumulate=4, devices=8)
