"""The loop and its observers against fakes that record what is asked of them, and in which order."""

import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.errors import DataError, TrainingError
from cvjax.tasks.task import Task
from cvjax.train.early_stopping import EarlyStopping
from cvjax.train.loop import evaluate, fit
from cvjax.train.mesh import MeshEngine
from cvjax.train.observers import (
    Checkpoints,
    EarlyStop,
    Evaluation,
    Log,
    Preemption,
    SkippedSteps,
    Watch,
    restore,
)
from cvjax.train.pmap import PmapEngine
from cvjax.train.preemption import Stopped, StopRequest


class Engine:
    """Everything lives on the host."""

    def put(self, batch):
        return batch

    def single(self, state):
        return state


class Value:
    """A device scalar that notes when it is fetched."""

    def __init__(self, diary, name, value):
        self.diary, self.name, self.value = diary, name, value

    def __array__(self, *_, **__):
        self.diary.append(f"fetch {self.name}")
        return np.asarray(self.value, np.float32)


class State:
    def __init__(self, step):
        self.step = np.int32(step)


class Batches:
    drawn = 0

    def __next__(self):
        self.drawn += 1
        return {"number": self.drawn}

    def state(self):
        return {"next_batch": self.drawn}


class FakeLog:
    def __init__(self, diary):
        self.diary, self.lines = diary, []

    def step(self, step, values, learning_rate, waited):
        self.diary.append(f"log {step}")
        self.lines.append((step, values["loss"], learning_rate))

    def write(self, step, values):
        self.diary.append(f"write {step}")
        self.lines.append((step, values))

    def sync(self):
        self.diary.append("sync")

    def note(self, text):
        self.diary.append(text)

    def paused(self):
        return contextlib.nullcontext()

    def state(self):
        return {"lines": len(self.lines)}


class FakeCheckpointer:
    def __init__(self, diary):
        self.diary, self.saved = diary, {}

    def save(self, state, meta, metrics=None):
        self.diary.append(f"save {int(state.step)}")
        self.saved[int(state.step)] = (meta, metrics)

    def wait(self):
        self.diary.append("wait")


class World:
    """A training of `total` steps whose step n has loss n, or what `losses` says."""

    def __init__(self, losses=None):
        self.diary, self.losses = [], losses or {}
        self.log, self.checkpoints = FakeLog(self.diary), FakeCheckpointer(self.diary)
        self.skipped = None  # numbers of the steps that are skipped, in a training where steps can be

    def step(self, state, batch):
        number = int(state.step) + 1
        self.diary.append(f"step {number}")
        loss = self.losses.get(number, float(number))
        if self.skipped is None:
            return State(number), {"loss": (Value(self.diary, number, loss), 1)}
        left_out = number in self.skipped
        return State(number), {"loss": (Value(self.diary, number, 0.0 if left_out else loss), 1 - left_out),
                               "skipped": (Value([], number, float(left_out)), 1)}

    def observers(self, engine, *, evaluate=None, eval_every=0, part="test", early_stopping=None, collapse=None,
                  max_skipped=0, checkpoint_every=100, stop=None, saved=None):
        log, found = self.log, [SkippedSteps(max_skipped, self.log.note), Log(self.log, lambda step: 10.0 * step)]
        found += [Watch("collapse", collapse, log)] if collapse else []
        found += [Evaluation(evaluate, log, every=eval_every, part=part)] if evaluate else []
        found += [EarlyStop(*early_stopping, log, part=part, in_words="{}={:.2f}".format)] if early_stopping else []
        found += [Checkpoints(self.checkpoints, log, every=checkpoint_every, meta={"experiment": "fake"},
                              single=engine.single)]
        found += [Preemption(stop)] if stop else []
        restore(found, saved or {})
        return found

    engine, together = Engine(), {}

    def fit(self, total, first=0, batches=None, **options):
        return fit(State(first), self.step, batches or Batches(), self.observers(self.engine, **options),
                   engine=self.engine, total_steps=total, **self.together)


def test_a_step_is_fetched_after_the_next_one_is_on_its_way():
    world = World()
    world.fit(4)
    assert world.diary[:9] == ["step 1", "step 2", "fetch 1", "log 1", "step 3", "fetch 2", "log 2", "step 4",
                               "fetch 3"]
    assert world.diary[9:] == ["log 3", "fetch 4", "log 4", "sync", "save 4", "wait"]


def test_the_learning_rate_in_the_log_is_the_one_the_step_used():
    world = World()
    world.fit(3)
    assert world.log.lines == [(1, (1.0, 1.0), 0.0), (2, (2.0, 1.0), 10.0), (3, (3.0, 1.0), 20.0)]


def test_checkpoints_hold_what_was_logged_and_drawn_until_then():
    world = World()
    world.fit(7, checkpoint_every=3)
    assert list(world.checkpoints.saved) == [3, 6, 7]
    for step, (meta, metrics) in world.checkpoints.saved.items():
        assert meta == {"experiment": "fake", "data": {"next_batch": step}, "log": {"lines": step}, "skipped": 0}
        assert metrics is None


def test_evaluates_every_so_often_and_at_the_end_and_writes_before_saving():
    world = World()
    world.fit(5, checkpoint_every=4, eval_every=2, evaluate=lambda state: {"top1": int(state.step) / 10})
    assert [line for line in world.log.lines if len(line) == 2] == [
        (2, {"test/top1": 0.2}), (4, {"test/top1": 0.4}), (5, {"test/top1": 0.5})]
    assert {step: metrics for step, (_, metrics) in world.checkpoints.saved.items()} == {
        2: {"top1": 0.2}, 4: {"top1": 0.4}, 5: {"top1": 0.5}}, "an evaluated step is saved, or it could not be the best"
    fourth = [world.diary.index(news) for news in ("log 4", "write 4", "save 4")]
    assert fourth == sorted(fourth)
    before = [world.diary[i - 1] for i, news in enumerate(world.diary) if news.startswith("save")]
    assert before == ["sync"] * 3, "a power cut may leave a checkpoint without the lines before it"


def test_without_an_interval_it_evaluates_at_the_end_only():
    world, seen = World(), []
    world.fit(4, evaluate=lambda state: seen.append(int(state.step)) or {"loss": 1.0})
    assert seen == [4]


def test_goes_on_where_the_state_stands():
    world = World()
    assert world.fit(6, first=4).step == 6
    assert [entry for entry in world.diary if entry.startswith("step")] == ["step 5", "step 6"]
    assert [line[0] for line in world.log.lines] == [5, 6]


def test_a_finished_state_is_left_alone():
    world = World()
    assert world.fit(4, first=4).step == 4
    assert world.diary == ["wait"] and not world.checkpoints.saved


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_in_one_line_and_keeps_earlier_checkpoints(value):
    world = World(losses={6: value})
    with pytest.raises(TrainingError) as error:
        world.fit(20, checkpoint_every=3)
    assert str(error.value).startswith(f"step 6 gave loss {value}: ") and "\n" not in str(error.value)
    assert list(world.checkpoints.saved) == [3], "the state after the bad step is not saved"


def test_a_stop_is_saved_at_once_and_says_where():
    world, stop = World(), StopRequest()

    def step(state, batch):
        stop.requested = int(state.step) + 1 == 3
        return World.step(world, state, batch)

    world.step = step
    with pytest.raises(Stopped, match="saved at step 3 of 20"):
        world.fit(20, stop=stop)
    assert list(world.checkpoints.saved) == [3] and world.diary[-1] == "wait"
    assert world.checkpoints.saved[3][0]["log"] == {"lines": 3}


def test_a_stop_during_an_evaluation_is_saved_too():
    world, stop = World(), StopRequest()

    def evaluation(state):
        stop.requested = True
        return {"loss": 1.0}

    with pytest.raises(Stopped, match="saved at step 2 of 20"):
        world.fit(20, stop=stop, eval_every=2, evaluate=evaluation)
    assert list(world.checkpoints.saved) == [2], "it says saved at step 2"


def test_a_stop_at_the_last_step_finishes_the_training():
    world, stop = World(), StopRequest()
    stop.requested = True
    assert world.fit(1, stop=stop).step == 1


# Early stopping: step n has validation accuracy ACCURACY[n].
ACCURACY = {2: 0.5, 4: 0.7, 6: 0.6, 8: 0.7, 10: 0.9}


def fit_watching(world, rule, first=0, total=10, **options):
    return world.fit(total, first, eval_every=2, part="validation", early_stopping=("top1", rule),
                     evaluate=lambda state: {"loss": 9.0, "top1": ACCURACY[int(state.step)]}, **options)


def test_stops_when_patience_is_at_its_end_and_says_so():
    world = World()
    assert fit_watching(world, EarlyStopping(2, "max")).step == 8
    assert world.diary[-2:] == ["stopped early at step 8 of 10: validation/top1 was best at top1=0.70, 2 evaluations "
                                "ago", "wait"]
    assert world.log.lines[-1] == (8, {"validation/loss": 9.0, "validation/top1": 0.7})
    assert list(world.checkpoints.saved) == [2, 4, 6, 8], "the best and the last are saved"
    assert world.checkpoints.saved[8][1] == {"loss": 9.0, "top1": 0.7}


def test_more_patience_sees_the_later_improvement_and_ends_as_usual():
    world = World()
    assert fit_watching(world, EarlyStopping(3, "max")).step == 10
    assert not any(entry.startswith("stopped early") for entry in world.diary)


def test_an_evaluation_at_the_last_step_is_no_early_stop():
    world = World()
    assert fit_watching(world, EarlyStopping(2, "max"), total=8).step == 8
    assert not any(entry.startswith("stopped early") for entry in world.diary)


def test_checkpoints_hold_what_the_rule_has_seen_also_between_evaluations():
    world = World()
    fit_watching(world, EarlyStopping(2, "max"), checkpoint_every=3)
    seen = {step: meta["early_stopping"] for step, (meta, _) in world.checkpoints.saved.items()}
    assert seen == {2: {"best": 0.5, "waited": 0}, 3: {"best": 0.5, "waited": 0}, 4: {"best": 0.7, "waited": 0},
                    6: {"best": 0.7, "waited": 1}, 8: {"best": 0.7, "waited": 2}}
    world = World()
    world.fit(2)
    assert "early_stopping" not in world.checkpoints.saved[2][0]


@pytest.mark.parametrize("killed_after", [2, 4, 6, 8])
def test_a_resumed_run_stops_where_an_uninterrupted_one_does(killed_after):
    """Also one that was killed after the deciding save and before it could act upon it."""
    first = World()
    fit_watching(first, EarlyStopping(2, "max"))
    saved = first.checkpoints.saved[killed_after][0]["early_stopping"]
    second = World()
    rule = EarlyStopping(2, "max")
    assert fit_watching(second, rule, first=killed_after, saved={"early_stopping": saved}).step == 8
    assert list(second.checkpoints.saved) == [step for step in (4, 6, 8) if step > killed_after]


def test_evaluation_divides_once_over_all_batches():
    batches = [{"x": np.array([1.0, 2.0, 3.0, 4.0]), "mask": np.ones(4, bool)},
               {"x": np.array([10.0, 99.0, 99.0, 99.0]), "mask": np.array([True, False, False, False])}]

    def total(variables, batch):
        x, mask = jnp.asarray(batch["x"]), jnp.asarray(batch["mask"])
        return {"x": (jnp.where(mask, x * variables, 0).sum(), mask.sum())}

    assert evaluate(Task(None, None, total), MeshEngine(jax.devices()[:1]))(2.0, batches) == {"x": 2 * 20 / 5}


@pytest.mark.parametrize("engine", [MeshEngine, PmapEngine])
def test_what_is_no_mean_is_made_of_all_examples_that_are_there(engine):
    """Under jit and pmap: every example once, in order, and no row that only pads."""
    batches = [{"x": np.arange(8).reshape(4, 2), "mask": np.ones(4, bool)},
               {"x": np.arange(8, 16).reshape(4, 2), "mask": np.array([True, True, True, False])}]

    def by_example(variables, batch):
        return {"x": batch["x"] * variables, "mask": batch["mask"]}

    def summarize(parts):
        seen = np.concatenate([part["x"] for part in parts])
        assert np.array_equal(seen, 3 * np.arange(14).reshape(7, 2))
        return {"middle": float(np.median(seen))}

    task = Task(None, None, by_example, summarize=summarize)
    engine = engine(jax.devices())
    assert evaluate(task, engine)(engine.spread(jnp.int32(3)), batches) == {"middle": 19.5}


class Indexed(Batches):
    """Batch n holds the examples n0 and n1."""

    def __next__(self):
        return super().__next__() | {"index": np.array([10 * self.drawn, 10 * self.drawn + 1])}


class Failing(Indexed):
    """Ends with an error where batch 6 is due."""

    def __next__(self):
        if self.drawn == 5:
            raise DataError("no more")
        return super().__next__()


def test_what_was_done_before_the_data_failed_is_saved():
    world = World()
    with pytest.raises(DataError, match="no more"):
        world.fit(9, batches=Failing())
    assert {step: meta["data"] for step, (meta, _) in world.checkpoints.saved.items()} == {5: {"next_batch": 5}}
    assert [line[0] for line in world.log.lines] == [1, 2, 3, 4, 5]


def test_a_step_that_is_saved_already_is_neither_saved_nor_evaluated_again():
    world, seen = World(), []
    with pytest.raises(DataError, match="no more"):
        world.fit(9, batches=Failing(), eval_every=5, checkpoint_every=5,
                  evaluate=lambda state: seen.append(int(state.step)) or {"loss": 1.0})
    assert seen == [5] and world.diary.count("save 5") == 1


def skipping(*steps):
    world = World()
    world.skipped = steps
    return world


def notes(world):
    return [entry for entry in world.diary if entry.startswith("step ") and " gave " in entry]


def test_skipped_steps_are_noted_with_their_examples_and_the_run_goes_on():
    world = skipping(2, 4, 5)
    assert world.fit(6, max_skipped=2, batches=Indexed()).step == 6
    assert [entry.split(" gave ")[0] for entry in notes(world)] == ["step 2", "step 4", "step 5"]
    assert notes(world)[2].endswith("was skipped, 2 in a row; its examples: 50 51")
    assert [line[0] for line in world.log.lines] == [1, 2, 3, 4, 5, 6], "the log counts them itself"


def test_one_more_in_a_row_than_allowed_ends_the_run_and_names_its_examples():
    world = skipping(1, 3, 4, 5)
    with pytest.raises(TrainingError) as error:
        world.fit(9, max_skipped=2, batches=Indexed(), checkpoint_every=2)
    message = str(error.value)
    assert message.startswith("step 5 gave a loss or gradient that is not finite, 3 in a row: training stopped")
    assert message.endswith("its examples, by position in the training set: 50 51") and "\n" not in message
    assert list(world.checkpoints.saved) == [2, 4]


def test_batches_without_positions_are_said_to_have_none():
    with pytest.raises(TrainingError, match="by position in the training set: not known$"):
        skipping(1).fit(2)


def test_by_default_no_step_may_be_skipped():
    with pytest.raises(TrainingError, match="step 2 gave a loss or gradient that is not finite, 1 in a row"):
        skipping(2).fit(3)


@pytest.mark.parametrize("killed_after", [2, 3, 4])
def test_a_resumed_row_of_skipped_steps_ends_where_an_uninterrupted_one_does(killed_after):
    first = skipping(3, 4, 5)
    with pytest.raises(TrainingError, match="step 5 gave .* 3 in a row"):
        first.fit(9, max_skipped=2, checkpoint_every=1)
    before = {step: meta["skipped"] for step, (meta, _) in first.checkpoints.saved.items()}
    assert before == {1: 0, 2: 0, 3: 1, 4: 2}
    second = skipping(3, 4, 5)
    with pytest.raises(TrainingError, match="step 5 gave .* 3 in a row"):
        second.fit(9, first=killed_after, max_skipped=2, saved={"skipped": before[killed_after]})
    fine = skipping(5)
    assert fine.fit(6, first=4, max_skipped=2, saved={"skipped": 1}).step == 6


def test_what_is_not_finite_and_not_skipped_ends_the_run_whatever_is_allowed():
    world = skipping(1)
    world.losses = {3: math.nan}
    with pytest.raises(TrainingError, match="step 3 gave loss nan: training stopped"):
        world.fit(5, max_skipped=5)


class Windows(FakeLog):
    """Closes a window of two steps, whose mean is that of the last."""

    every = 2

    def step(self, step, values, learning_rate, waited):
        super().step(step, values, learning_rate, waited)
        return {"loss": values["loss"][0]} if step % self.every == 0 else None


class Rule:
    """Warns from a loss on, with a figure that changes, and ends the run where `stop` is set."""

    def __init__(self, at, stop=False, warning=None):
        self.at, self.stop, self.warning = at, stop, warning

    @property
    def stopped(self):
        return self.stop and self.warning is not None

    def update(self, means):
        self.warning = f"loss {means['loss']}" if means["loss"] in self.at else None

    def state(self):
        return {"warning": self.warning}


def watched(world=None):
    world = world or World()
    world.log = Windows(world.diary)
    return world


def test_a_collapse_is_said_once_and_so_is_its_end():
    world = watched()
    assert world.fit(12, collapse=Rule(at=(4.0, 6.0, 8.0))).step == 12
    assert [entry for entry in world.diary if "loss" in entry or "collapse" in entry] == [
        "step 4: loss 4.0", "step 10: no sign of collapse any more"]


def test_a_rule_that_stops_ends_the_run_at_its_window_evaluated_and_saved():
    world = watched()
    rule = Rule(at=(4.0,), stop=True)
    assert world.fit(12, collapse=rule, evaluate=lambda state: {"loss": 1.0}).step == 4
    assert world.diary.count("step 5") == 0, "no step is made after the one that tells"
    assert world.checkpoints.saved == {4: (
        {"experiment": "fake", "data": {"next_batch": 4}, "log": {"lines": 5}, "skipped": 0,
         "collapse": {"warning": "loss 4.0"}}, {"loss": 1.0})}
    assert world.diary[-1] == "wait"


def test_a_resumed_run_that_was_stopped_for_collapse_returns_at_once():
    world = watched()
    assert world.fit(12, first=4, collapse=Rule(at=(), stop=True, warning="loss 4.0")).step == 4
    assert world.diary == [] and not world.checkpoints.saved
    warned = watched()
    assert warned.fit(6, first=4, collapse=Rule(at=(6.0,), warning="loss 4.0")).step == 6
    assert not any(entry.startswith("step 6:") for entry in warned.diary), "it was said before the run was resumed"


def test_a_stop_request_with_the_collapse_finishes_the_run():
    stop = StopRequest()
    stop.requested = True
    world = watched()
    world.log.every = 1
    assert world.fit(12, collapse=Rule(at=(1.0,), stop=True), stop=stop).step == 1


# Several steps per dispatch.


class Together(Engine):
    """Counts what is sent at once."""

    def __init__(self, diary):
        self.diary = diary

    def put(self, batch, *, several):
        assert several
        self.diary.append(f"put {batch['number'].tolist()}")
        return batch


class ManyAtOnce(World):
    """Step n has loss n, whether or not it comes in a row with others."""

    def step(self, state, batch):
        numbers = [int(state.step) + 1 + i for i in range(len(batch["number"]))]
        losses = np.array([self.losses.get(number, float(number)) for number in numbers], np.float32)
        found = {"loss": (losses, np.ones(len(numbers), np.float32))}
        if self.skipped is not None:
            left_out = np.array([number in self.skipped for number in numbers], np.float32)
            found |= {"skipped": (left_out, np.ones_like(left_out))}
        return State(numbers[-1]), found

    together = {"steps_per_dispatch": 3}

    def __init__(self, losses=None):
        super().__init__(losses)
        self.engine = Together(self.diary)

    def fit(self, total, first=0, batches=None, **options):
        return super().fit(total, first, batches or Indexed(), **options)


def test_steps_in_a_row_are_logged_one_by_one_and_saved_where_a_row_ends():
    world = ManyAtOnce()
    assert world.fit(8, checkpoint_every=6, evaluate=lambda state: {"top1": float(state.step)}, eval_every=3).step == 8
    sent = [entry for entry in world.diary if entry.startswith("put")]
    assert sent == ["put [1, 2, 3]", "put [4, 5, 6]", "put [7, 8]"]
    assert [line for line in world.log.lines if len(line) == 3] == [
        (number, (float(number), 1.0), 10.0 * (number - 1)) for number in range(1, 9)]
    assert {step: meta["data"] for step, (meta, _) in world.checkpoints.saved.items()} == {
        step: {"next_batch": step} for step in (3, 6, 8)}
    assert world.checkpoints.saved[6][1] == {"top1": 6.0}


def test_a_row_that_the_data_cannot_fill_is_not_counted_as_drawn():
    world = ManyAtOnce()
    with pytest.raises(DataError, match="no more"):
        world.fit(9, batches=Failing())
    assert {step: meta["data"] for step, (meta, _) in world.checkpoints.saved.items()} == {3: {"next_batch": 3}}


def test_a_row_after_a_resume_ends_at_the_next_multiple_and_so_does_one_that_is_asked_to_stop():
    world, stop = ManyAtOnce(), StopRequest()
    stop.requested = True
    with pytest.raises(Stopped, match="saved at step 6 of 20"):
        world.fit(20, first=4, stop=stop)
    assert [entry for entry in world.diary if entry.startswith("put")] == ["put [1, 2]"]


def test_a_bad_step_in_a_row_is_named_with_its_own_examples():
    world = ManyAtOnce(losses={5: math.nan})
    with pytest.raises(TrainingError, match="^step 5 gave loss nan: .* its examples, .*: 50 51$"):
        world.fit(9, checkpoint_every=3)
    assert list(world.checkpoints.saved) == [3]
    world = ManyAtOnce()
    world.skipped = (2, 3, 4, 6)
    with pytest.raises(TrainingError, match="^step 4 gave .* 3 in a row"):
        world.fit(9, max_skipped=2)
    assert [entry.split(" gave ")[0] for entry in notes(world)] == ["step 2", "step 3", "step 4"]
