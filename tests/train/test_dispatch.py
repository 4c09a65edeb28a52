"""Several steps in one program and data on the device: the same numbers as one step at a time from the host."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvjax.data.bad_files import BadFiles
from cvjax.data.preprocessing import Preprocessing
from cvjax.data.sources import open_dataset
from cvjax.models import create_model
from cvjax.tasks.supervised import supervised_task
from cvjax.train import metrics
from cvjax.train.dispatch import check_room, compile_dispatch, draw, steps_ahead
from cvjax.train.mesh import MeshEngine
from cvjax.train.pmap import PmapEngine
from cvjax.train.state import create_state
from cvjax.train.step import Lookahead, make_train_step
from cvjax.workflow.augmentation import Augmentation
from cvjax.workflow.gather import resident_arrays
from cvjax.workflow.image_inputs import ImageInputs
from tests.train.test_devices import KINDS

STEPS, BATCH = 7, 32


@functools.cache
def inputs(resident=False):
    dataset = open_dataset("digits")
    return ImageInputs(dataset, 8, BATCH, BadFiles(1797), Preprocessing.of(1),
                       Augmentation(flip=True, alternating=True),
                       resident=resident_arrays(dataset.train, "digits") if resident else None)


def run(engine, *, steps=1, resident=False, count=STEPS):
    """Losses of each step, and the averages at the end, of a linear classifier."""
    model = create_model("linear", image_size=8, in_channels=1)
    task = supervised_task(model, augment=inputs().augment, preprocess=inputs().preprocess)
    optimizer = optax.sgd(0.3, momentum=0.9)
    step = make_train_step(task, optimizer, accumulate=2, ema_decay=0.9, lookahead=Lookahead(3, STEPS),
                           skip_nonfinite=True, axis_name=engine.axis_name)
    blank = {"image": np.zeros((1, 8, 8, 1), np.uint8), "index": np.zeros(1, np.int64)}
    state = engine.create(lambda: create_state(lambda rng: task.init(rng, blank), optimizer, jax.random.key(0),
                                               ema=True))
    data = inputs(resident)
    dispatch = compile_dispatch(engine, step, state, steps=steps, feed=data.gather(5), resident=data.resident)
    batches, losses, done = data.train_batches(seed=5, workers=0), [], 0
    while done < count:
        ahead = steps_ahead(done, count, steps)
        if steps == 1:
            state, values = dispatch(state, engine.put(next(batches)))
            values = [metrics.to_host(values)]
        else:
            state, values = dispatch(state, engine.put(draw(batches, ahead), several=True))
            values = metrics.each_to_host(values)
        losses += [metrics.mean(each)["loss"] for each in values]
        done += ahead
    batches.close()
    return losses, [np.asarray(x) for x in jax.tree.leaves(engine.single(state).variables)]


@functools.cache
def plain():
    return run(MeshEngine(jax.devices()[:1]))


def test_images_on_the_device_give_the_very_numbers_of_those_from_the_host():
    losses, variables = run(MeshEngine(jax.devices()[:1]), resident=True)
    assert losses == plain()[0] and losses[-1] < 0.9 * losses[0]
    for a, b in zip(variables, plain()[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("resident", [False, True])
def test_steps_in_a_row_give_the_numbers_of_single_ones(resident):
    """Equal up to rounding, 6e-8 a sum, because the compiler fuses other operations. The last program has one step:
    7 = 3 + 3 + 1."""
    losses, variables = run(MeshEngine(jax.devices()[:1]), steps=3, resident=resident)
    np.testing.assert_allclose(losses, plain()[0], rtol=1e-6)
    for a, b in zip(variables, plain()[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_pmap_takes_turns_with_the_flip_too():
    np.testing.assert_allclose(run(PmapEngine(jax.devices()[:1]))[0], plain()[0], rtol=1e-6)


class Recording(MeshEngine):
    """Keeps the program that it runs."""

    program = None

    def compile_step(self, *arguments, **options):
        jitted = super().compile_step(*arguments, **options)

        def call(*arguments):
            self.program = self.program or jitted.lower(*arguments).compile()
            return self.program(*arguments)

        return call


def main():
    """Print losses and how often each kind of communication occurs; for a process with eight devices."""
    engine = Recording()
    losses, _ = run(engine, steps=3, resident=True, count=6)
    text = engine.program.as_text()
    print(json.dumps({"losses": losses,
                      "kinds": {kind: len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in KINDS}}))


def test_eight_devices_gather_their_own_rows_and_exchange_sums_alone(python):
    found = python("from tests.train import test_dispatch; test_dispatch.main()", devices=8)
    np.testing.assert_allclose(found["losses"], plain()[0][:6], rtol=2e-6)  # as in test_devices
    counts = found["kinds"]
    assert counts.pop("all-reduce") > 0
    assert not any(counts.values()), counts


def test_each_image_is_fed_from_one_side_in_every_other_epoch_and_not_flipped_again():
    images, index = inputs().dataset.train.images, np.arange(200)

    @jax.jit
    def seen(epoch, arrays):
        batch = inputs(resident=True).gather(5)({"index": jnp.asarray(index), "epoch": jnp.full(200, epoch)}, arrays)
        augmented = jax.vmap(inputs().augment)(jax.random.split(jax.random.key(epoch), 200), batch["image"])
        return batch, augmented

    mirrored = []
    for epoch in range(4):
        batch, augmented = seen(epoch, inputs(resident=True).resident)
        assert batch.keys() == {"image", "label", "index"}
        np.testing.assert_array_equal(batch["label"], inputs().dataset.train.labels[:200])
        np.testing.assert_allclose(augmented, inputs().preprocess(batch["image"]), atol=1e-6)
        is_mirrored = (np.asarray(batch["image"]) == images[:200, :, ::-1]).all((1, 2, 3))
        np.testing.assert_array_equal(np.asarray(batch["image"])[~is_mirrored], images[:200][~is_mirrored])
        mirrored.append(is_mirrored)
    assert (mirrored[0] != mirrored[1]).all() and (mirrored[0] == mirrored[2]).all()  # no digit is its own mirror image
    assert 0.35 < mirrored[0].mean() < 0.65  # 200 coins: four deviations of 0.035


def test_a_dispatch_ends_at_the_next_multiple_or_at_the_end():
    def ends(first, total, steps):
        found = [first]
        while found[-1] < total:
            found.append(found[-1] + steps_ahead(found[-1], total, steps))
        return found[1:]

    assert ends(0, 10, 4) == [4, 8, 10] and ends(3, 10, 4) == [4, 8, 10] and ends(8, 9, 4) == [9]
    assert ends(0, 3, 1) == [1, 2, 3] and ends(0, 2, 5) == [2]


def test_metrics_of_steps_in_a_row_are_taken_apart():
    pairs = {"loss": (jnp.array([1.5, 2.0]), jnp.array([3.0, 4.0])), "x": (jnp.array([0.0, jnp.inf]), jnp.ones(2))}
    assert metrics.each_to_host(pairs) == [{"loss": (1.5, 3.0), "x": (0.0, 1.0)},
                                           {"loss": (2.0, 4.0), "x": (float("inf"), 1.0)}]


class Device:
    device_kind = "TPU v0"

    def __init__(self, memory):
        self.memory = memory

    def memory_stats(self):
        return self.memory


def test_data_that_a_device_has_no_room_for_is_refused_with_its_bytes():
    arrays = {"image": np.zeros((10, 8, 8, 3), np.uint8), "label": np.zeros(10, np.int32)}  # 1,920 and 40 bytes
    check_room(arrays, [Device(None), Device({}), Device({"bytes_limit": 1960})], "digits")
    with pytest.raises(ValueError) as error:
        check_room(arrays, [Device({"bytes_limit": 2000, "bytes_in_use": 41})], "digits")
    assert str(error.value) == "digits has 1,960 bytes, TPU v0 has 1,959 free: it must fit"
