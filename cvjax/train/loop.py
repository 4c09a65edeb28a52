"""The training loop, the only one: it knows steps, batches, logs and checkpoints, but no model, task or data set."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np

from cvjax.train import metrics
from cvjax.train.checkpoint import Checkpointer
from cvjax.train.dispatch import draw, steps_ahead
from cvjax.train.early_stopping import EarlyStopping
from cvjax.train.log import RunLog
from cvjax.train.preemption import Stopped, StopRequest
from cvjax.train.state import TrainState


class TrainingError(Exception):
    """Training cannot go on; the message says why, in one line."""


def evaluate(task: Any, engine: Any) -> Callable[[Any, Iterable[Mapping[str, np.ndarray]]], dict[str, float]]:
    """Compile `evaluation(variables, batches) -> {name: number}` of a task over a whole data set."""
    compiled = engine.compile_evaluation(task.evaluate, by_example=task.summarize is not None)

    def evaluation(variables: Any, batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
        outputs = (compiled(variables, engine.put(batch)) for batch in batches)
        if task.summarize is not None:
            return task.summarize(metrics.examples_of(outputs))
        return metrics.mean(metrics.sum_over(outputs))

    return evaluation


class CollapseRule(Protocol):
    """What `fit` asks of a rule that watches for collapse: `cvjax.evaluate.collapse` has DINO's."""

    warning: str | None  # what is wrong, in one line
    stopped: bool  # whether the run shall end for it

    def update(self, means: Mapping[str, float]) -> None:
        """Take in a logged window."""

    def state(self) -> dict[str, Any]:
        """What was seen, as JSON for a checkpoint."""


def fit(state: TrainState, step: Callable[[TrainState, Any], tuple[TrainState, dict]], batches: Any, *, engine: Any,
        total_steps: int, learning_rate: Callable[[int], Any], log: RunLog, checkpointer: Checkpointer, meta: dict,
        checkpoint_every: int, evaluate: Callable[[TrainState], dict[str, float]] | None = None, eval_every: int = 0,
        part: str = "test", early_stopping: tuple[str, EarlyStopping] | None = None,
        collapse: CollapseRule | None = None, max_skipped: int = 0, skipped_before: int = 0,
        stop: StopRequest | None = None, steps_per_dispatch: int = 1) -> TrainState:
    """Train from `state.step` to `total_steps`, or until it stops early, and return the final state.

    step: a compiled training step. batches: an iterator with `state()`, whose state goes into checkpoints next to
    the log's and `meta`. learning_rate: the schedule, for the log. evaluate(state) -> {name: value} runs every
    `eval_every` steps (0: only after the last); that step is saved, and the values decide which checkpoint is best.
    part: the data that `evaluate` looks at, for the log. early_stopping: the name of the value that it watches, and the
    rule with what it has seen so far, which goes into checkpoints.
    collapse: sees the means of every logged window, says what is wrong, and may end the run; what it has seen goes into
    checkpoints.
    max_skipped: so many steps in a row may be skipped by a step that does so (`skip_nonfinite`), the next one ends the
    run; skipped_before: the length of the row that a resumed run is in.
    steps_per_dispatch: with more than one, `step` does as many steps (see `compile_dispatch`), up to its next multiple;
    it must divide `log.every`, `checkpoint_every` and `eval_every`, and a stop waits for a multiple of it.
    Metrics of a step are fetched after the next one is on its way, so the device never waits for the host.
    Raises TrainingError when a loss or gradient is not finite too often, Stopped after a requested stop was saved.
    """
    stop = stop or StopRequest()
    first = int(np.asarray(engine.single(state.step)))
    several = steps_per_dispatch > 1
    put = partial(engine.put, several=True) if several else engine.put
    pending: tuple[int, dict, float, Any] | None = None
    skipped = skipped_before
    watched, rule = early_stopping or ("", None)
    if any(r is not None and r.stopped for r in (rule, collapse)):  # saved, not acted upon: killed in between
        return state

    def read_pending() -> None:
        nonlocal pending
        if pending is None:
            return
        (done, device_metrics, waited, examples), pending = pending, None
        if not several:
            read(done, metrics.to_host(device_metrics), waited, examples)
            return
        found = metrics.each_to_host(device_metrics)
        for i, values in enumerate(found):
            read(done - len(found) + 1 + i, values, waited / len(found), None if examples is None else examples[i])

    def read(done: int, values: dict[str, tuple[float, float]], waited: float, examples: Any) -> None:
        nonlocal skipped
        bad = [f"{name} {total}" for name, (total, _) in values.items() if not math.isfinite(total)]
        left_out = values.get("skipped", (0.0, 1.0))[0] > 0
        if left_out:
            skipped += 1
            bad = ["a loss or gradient that is not finite"]
            log.note(f"step {done} gave {bad[0]} and was skipped, {skipped} in a row; its examples: "
                     f"{_listed(examples)}")
        else:
            skipped = 0
        if bad and not 0 < skipped <= max_skipped:
            raise TrainingError(
                f"step {done} gave {', '.join(bad)}{f', {skipped} in a row' if skipped else ''}: training "
                "stopped, checkpoints before it are kept; a lower learning rate or --clip-norm often helps; its "
                f"examples, by position in the training set: {_listed(examples)}")
        means = log.step(done, values, float(learning_rate(done - 1)), waited)
        if collapse is not None and means is not None:
            warned = collapse.warning is not None
            collapse.update(means)
            if (collapse.warning is not None) != warned:  # once, though figures in the warning may change
                log.note(f"step {done}: {collapse.warning or 'no sign of collapse any more'}")

    def save(results: dict[str, float] | None) -> None:
        seen = {} if rule is None else {"early_stopping": rule.state()}
        seen |= {} if collapse is None else {"collapse": collapse.state()}
        state_of_data = {"data": batches.state(), "log": log.state(), "skipped": skipped}
        checkpointer.save(engine.single(state), meta | state_of_data | seen, results)

    with stop.deferred():
        number = first
        while number < total_steps:
            count = steps_ahead(number, total_steps, steps_per_dispatch)
            asked = time.perf_counter()
            batch = draw(batches, count) if several else next(batches)
            examples, batch = batch.get("index"), put(batch)
            waited = time.perf_counter() - asked
            state, device_metrics = step(state, batch)
            read_pending()
            number += count
            pending = number, device_metrics, waited, examples
            if collapse is not None and number % log.every == 0:
                read_pending()  # at once, so that what it says ends every run after the same step

            last = number == total_steps or (collapse is not None and collapse.stopped)
            evaluating = evaluate is not None and (last or (eval_every and number % eval_every == 0))
            if not (evaluating or number % checkpoint_every == 0 or last or stop.after(number)):
                continue
            read_pending()
            paused = time.perf_counter()
            results = evaluate(state) if evaluating else None
            if results:
                log.write(number, {f"{part}/{name}": value for name, value in results.items()})
                rule = rule and rule.update(results[watched])
            save(results)  # an evaluated step is saved too, so that the best one exists
            log.pause_clock(time.perf_counter() - paused)
            if rule is not None and rule.stopped and not last:
                log.note(f"stopped early at step {number} of {total_steps}: {part}/{watched} was best at "
                         f"{rule.best:.4f}, {rule.waited} evaluations ago")
                break
            if collapse is not None and collapse.stopped:
                break
            if stop.after(number) and not last:
                checkpointer.wait()
                raise Stopped(f"saved at step {number} of {total_steps}")
        checkpointer.wait()
    return state


def _listed(examples: Any) -> str:
    """Positions of a batch's examples, all of them: whoever looks for the bad one needs every one."""
    return "not known" if examples is None else " ".join(map(str, np.asarray(examples).tolist()))
