"""The training loop, the only one: it makes steps and tells observers. It knows no model, task or data set."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from cvjax.errors import CvjaxError
from cvjax.train import metrics
from cvjax.train.dispatch import draw, steps_ahead
from cvjax.train.observers import Observer, Pause, StepRead
from cvjax.train.state import TrainState


def evaluate(task: Any, engine: Any) -> Callable[[Any, Iterable[Mapping[str, np.ndarray]]], dict[str, float]]:
    """Compile `evaluation(variables, batches) -> {name: number}` of a task over a whole data set."""
    compiled = engine.compile_evaluation(task.evaluate, by_example=task.summarize is not None)

    def evaluation(variables: Any, batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
        outputs = (compiled(variables, engine.put(batch)) for batch in batches)
        if task.summarize is not None:
            return task.summarize(metrics.examples_of(outputs))
        return metrics.mean(metrics.sum_over(outputs))

    return evaluation


def fit(state: TrainState, step: Callable[[TrainState, Any], tuple[TrainState, dict]], batches: Any,
        observers: Sequence[Observer], *, engine: Any, total_steps: int, steps_per_dispatch: int = 1) -> TrainState:
    """Train from `state.step` to `total_steps`, or until an observer ends it, and return the final state.

    step: a compiled training step. batches: an iterator with `state()`, which goes into checkpoints as "data".
    observers: told in this order, see `cvjax.train.observers`. What they raise ends the training.
    steps_per_dispatch: with more than one, `step` makes several steps (see `compile_dispatch`), up to the next multiple
    of this number. It must divide the steps at which observers read or pause; a requested stop waits for a multiple.
    The metrics of a step are read after the next one is on its way, so that the device never waits for the host.
    If `batches` fails, the steps done are saved, unless other processes would have to take part in that.
    """
    if any(observer.ended for observer in observers):  # saved, not acted upon: the run was killed in between
        return state
    number, several = int(np.asarray(engine.single(state.step))), steps_per_dispatch > 1
    put = partial(engine.put, several=True) if several else engine.put
    sent, paused = None, number
    while number < total_steps:
        count = steps_ahead(number, total_steps, steps_per_dispatch)
        asked, position = time.perf_counter(), batches.state()
        try:
            batch = draw(batches, count) if several else next(batches)
        except CvjaxError:
            if number > paused and jax.process_count() == 1:
                _tell(observers, sent)
                _pause(observers, Pause(number, total_steps, state, False, partial(_contents, position, observers)))
            raise
        examples, batch = batch.get("index"), put(batch)
        waited = time.perf_counter() - asked
        state, device_metrics = step(state, batch)
        _tell(observers, sent)
        number += count
        sent = _Sent(number, device_metrics, waited, examples, several)
        if any(observer.reads_at(number) for observer in observers):
            sent = _tell(observers, sent)

        ending = number == total_steps or any(observer.ended for observer in observers)
        if not (ending or any(observer.pauses_at(number) for observer in observers)):
            continue
        sent = _tell(observers, sent)
        pause = Pause(number, total_steps, state, ending, partial(_contents, batches.state(), observers))
        _pause(observers, pause)
        paused = number
        if pause.ending:
            break
    for observer in observers:
        observer.on_end()
    return state


class _Sent(NamedTuple):
    """One dispatch on its way: one step, or several in a row."""

    number: int  # steps done once it has arrived
    device_metrics: dict
    waited: float
    examples: Any
    several: bool

    def read(self) -> Iterator[StepRead]:
        """Its steps, in order; waits until they are computed."""
        if not self.several:
            yield StepRead(self.number, metrics.to_host(self.device_metrics), self.waited, self.examples)
            return
        found = metrics.each_to_host(self.device_metrics)
        for i, values in enumerate(found):
            examples = None if self.examples is None else self.examples[i]
            yield StepRead(self.number - len(found) + 1 + i, values, self.waited / len(found), examples)


def _tell(observers: Sequence[Observer], sent: _Sent | None) -> None:
    """Read what was sent, if anything, and tell the observers step by step; nothing is on its way afterwards."""
    if sent is not None:
        for step in sent.read():
            for observer in observers:
                observer.on_step(step)


def _pause(observers: Sequence[Observer], pause: Pause) -> None:
    for observer in observers:
        observer.on_pause(pause)


def _contents(position: Mapping[str, Any], observers: Sequence[Observer]) -> dict[str, Any]:
    """What a checkpoint holds besides the state. position: of the batches that come next."""
    return {"data": position} | {observer.name: observer.state() for observer in observers if observer.name}
