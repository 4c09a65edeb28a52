"""The training loop, the only one: it knows steps, batches, logs and checkpoints, but no model, task or data set."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from cvjax.train import metrics
from cvjax.train.checkpoint import Checkpointer
from cvjax.train.early_stopping import EarlyStopping
from cvjax.train.log import RunLog
from cvjax.train.preemption import Stopped, StopRequest
from cvjax.train.state import TrainState


class TrainingError(Exception):
    """Training cannot go on; the message says why, in one line."""


def evaluate(compiled: Callable[[Any, Any], Any], engine: Any, variables: Any,
             batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Means over a whole data set of a task's metrics; `compiled` comes from `engine.compile_evaluation`."""
    return metrics.mean(metrics.sum_over(compiled(variables, engine.put(batch)) for batch in batches))


def fit(state: TrainState, step: Callable[[TrainState, Any], tuple[TrainState, dict]], batches: Any, *, engine: Any,
        total_steps: int, learning_rate: Callable[[int], Any], log: RunLog, checkpointer: Checkpointer, meta: dict,
        checkpoint_every: int, evaluate: Callable[[TrainState], dict[str, float]] | None = None, eval_every: int = 0,
        part: str = "test", early_stopping: tuple[str, EarlyStopping] | None = None,
        stop: StopRequest | None = None) -> TrainState:
    """Train from `state.step` to `total_steps`, or until it stops early, and return the final state.

    step: a compiled training step. batches: an iterator with `state()`, whose state goes into checkpoints next to
    the log's and `meta`. learning_rate: the schedule, for the log. evaluate(state) -> {name: value} runs every
    `eval_every` steps (0: only after the last); that step is saved, and the values decide which checkpoint is best.
    part: the data that `evaluate` looks at, for the log. early_stopping: the name of the value that it watches, and the
    rule with what it has seen so far, which goes into checkpoints.
    Metrics of a step are fetched after the next one is on its way, so the device never waits for the host.
    Raises TrainingError when the loss is not finite, Stopped after a requested stop was saved.
    """
    stop = stop or StopRequest()
    first = int(np.asarray(engine.single(state.step)))
    pending: tuple[int, dict, float] | None = None
    watched, rule = early_stopping or ("", None)
    if rule is not None and rule.stopped:  # saved, but not acted upon: the run was killed in between
        return state

    def read_pending() -> None:
        nonlocal pending
        if pending is None:
            return
        done, device_metrics, waited = pending
        values, pending = metrics.to_host(device_metrics), None
        if not all(math.isfinite(total) for total, _ in values.values()):
            bad = ", ".join(f"{name} {total}" for name, (total, _) in values.items() if not math.isfinite(total))
            raise TrainingError(f"step {done} gave {bad}: training stopped, checkpoints before it are kept; "
                                "a lower learning rate or --clip-norm often helps")
        log.step(done, values, float(learning_rate(done - 1)), waited)

    def save(results: dict[str, float] | None) -> None:
        seen = {} if rule is None else {"early_stopping": rule.state()}
        checkpointer.save(engine.single(state), meta | {"data": batches.state(), "log": log.state()} | seen, results)

    with stop.deferred():
        for number in range(first + 1, total_steps + 1):
            asked = time.perf_counter()
            batch = engine.put(next(batches))
            waited = time.perf_counter() - asked
            state, device_metrics = step(state, batch)
            read_pending()
            pending = number, device_metrics, waited

            last = number == total_steps
            evaluating = evaluate is not None and (last or (eval_every and number % eval_every == 0))
            if not (evaluating or number % checkpoint_every == 0 or last or stop.requested):
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
            if stop.requested and not last:
                checkpointer.wait()
                raise Stopped(f"saved at step {number} of {total_steps}")
        checkpointer.wait()
    return state
