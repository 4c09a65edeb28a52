"""The observers of a training. Each does one small thing, and `cvjax.train.loop.fit` tells a list of them the news.

The loop passes two kinds of news along the list, in order. A `StepRead` is a step whose metrics have arrived on the
host. A `Pause` is a stop between two steps, for whatever looks at the state. An observer may add to the news what later
observers need: the log adds the means of a window, an evaluation adds its results. So the order of the list matters:

    SkippedSteps, Log, Watch, Evaluation, EarlyStop, Checkpoints, Preemption
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from cvjax.errors import TrainingError
from cvjax.train.checkpoint import Checkpointer
from cvjax.train.early_stopping import EarlyStopping
from cvjax.train.log import RunLog
from cvjax.train.preemption import Stopped, StopRequest
from cvjax.train.state import TrainState


@dataclasses.dataclass
class StepRead:
    """A step whose metrics have arrived on the host."""

    number: int  # steps done, this one included
    values: dict[str, tuple[float, float]]  # metrics as (sum, count)
    waited: float  # seconds that the loop waited for the step's input
    examples: Any  # positions of the batch's examples in the training set `(B,)`; None where they are not known
    means: dict[str, float] | None = None  # of the log's window, where one ends with this step


@dataclasses.dataclass
class Pause:
    """A stop between two steps; the metrics of all steps so far have been read."""

    number: int  # steps done
    total_steps: int
    state: TrainState
    ending: bool  # whether the training ends here
    contents: Callable[[], dict[str, Any]]  # the state of batches and observers as they are now, for a checkpoint
    results: dict[str, float] | None = None  # of an evaluation of `state`


class Observer(Protocol):
    """Subclass it and replace what is needed; everything here does nothing."""

    name: str = ""
    """The key of `state()` in checkpoints; empty for an observer without a state."""

    @property
    def ended(self) -> bool:
        """Whether the training must end. A resumed training that has ended already makes no step."""
        return False

    def reads_at(self, number: int) -> bool:
        """Whether to read the metrics of step `number` before the next step starts, not after."""
        return False

    def on_step(self, step: StepRead) -> None:
        """Called once for each step, in order. TrainingError ends the run."""

    def pauses_at(self, number: int) -> bool:
        """Whether the training pauses after step `number`."""
        return False

    def on_pause(self, pause: Pause) -> None:
        """Called at each pause, whoever asked for it."""

    def on_end(self) -> None:
        """Called once after the last step."""

    def state(self) -> Any:
        """What has been seen, as JSON for a checkpoint."""

    def restore(self, saved: Any) -> None:
        """Go on from what `state()` gave."""


def restore(observers: Sequence[Observer], saved: Mapping[str, Any]) -> None:
    """Give the observers their parts of a checkpoint's meta."""
    for observer in observers:
        if observer.name and observer.name in saved:
            observer.restore(saved[observer.name])


class SkippedSteps(Observer):
    """Ends the run at a loss or gradient that is not finite, unless the step skipped it (`skip_nonfinite`).

    At most `allowed` steps in a row may be skipped; the next one ends the run. `note` is told of each. `layer` says
    where the newest step first met such a number (`FirstNonFinite.found`), if the steps are watched.
    """

    name = "skipped"

    def __init__(self, allowed: int, note: Callable[[str], None],
                 layer: Callable[[], str | None] | None = None) -> None:
        self.allowed, self.note, self.layer = allowed, note, layer
        self.in_a_row = 0

    def reads_at(self, number: int) -> bool:
        return self.layer is not None  # the next step would meet what this one left

    def on_step(self, step: StepRead) -> None:
        where = self.layer() if self.layer else None
        first = f"; {where} was not finite first" if where else ""
        bad = [f"{name} {total}" for name, (total, _) in step.values.items() if not math.isfinite(total)]
        if step.values.get("skipped", (0.0, 1.0))[0] > 0:
            self.in_a_row += 1
            bad = ["a loss or gradient that is not finite"]
            self.note(f"step {step.number} gave {bad[0]} and was skipped, {self.in_a_row} in a row{first}; its "
                      f"examples: {_listed(step.examples)}")
        else:
            self.in_a_row = 0
        if bad and not 0 < self.in_a_row <= self.allowed:
            raise TrainingError(
                f"step {step.number} gave {', '.join(bad)}{f', {self.in_a_row} in a row' if self.in_a_row else ''}"
                f"{first}: training stopped, checkpoints before it are kept; a lower learning rate or clip_norm often "
                f"helps; its examples, by position in the training set: {_listed(step.examples)}")

    def state(self) -> int:
        return self.in_a_row

    def restore(self, saved: int) -> None:
        self.in_a_row = saved


def _listed(examples: Any) -> str:
    """Positions of all examples of a batch, because any of them may be the bad one."""
    return "not known" if examples is None else " ".join(map(str, np.asarray(examples).tolist()))


class Log(Observer):
    """Writes each step to the run's log, with the learning rate that the schedule gave it."""

    name = "log"

    def __init__(self, log: RunLog, learning_rate: Callable[[int], Any]) -> None:
        self.log, self.learning_rate = log, learning_rate

    def on_step(self, step: StepRead) -> None:
        rate = float(self.learning_rate(step.number - 1))
        step.means = self.log.step(step.number, step.values, rate, step.waited)

    def state(self) -> dict[str, Any]:
        return self.log.state()

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.log.restore(saved)


class Rule(Protocol):
    """A judge of logged means; `cvjax.evaluate.collapse` has one."""

    warning: str | None  # what is wrong, in one line

    @property
    def stopped(self) -> bool:
        """Whether the run must end."""
        ...

    def update(self, means: Mapping[str, float]) -> None:
        """Take in the means of a logged window."""

    def state(self) -> dict[str, Any]:
        """What has been seen, as JSON for a checkpoint."""
        ...

    def restore(self, state: Mapping[str, Any], /) -> None:
        """Go on from what `state()` gave."""


class Watch(Observer):
    """Shows a rule the means of every logged window, says once what it warns of, and ends the run where it says so."""

    def __init__(self, name: str, rule: Rule, log: RunLog) -> None:
        self.name, self.rule, self.log = name, rule, log

    @property
    def ended(self) -> bool:
        return self.rule.stopped

    def reads_at(self, number: int) -> bool:
        return number % self.log.every == 0  # so that what it says ends every run after the same step

    def on_step(self, step: StepRead) -> None:
        if step.means is None:
            return
        warned = self.rule.warning is not None
        self.rule.update(step.means)
        if (self.rule.warning is not None) != warned:  # once, though figures in the warning may change
            self.log.note(f"step {step.number}: {self.rule.warning or f'no sign of {self.name} any more'}")

    def state(self) -> dict[str, Any]:
        return self.rule.state()

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.rule.restore(saved)


class Evaluation(Observer):
    """Evaluates the state every `every` steps (0: only after the last) and writes the results to the log.

    evaluate(state) -> {name: value}. part: the data that it looks at, for the log.
    """

    def __init__(self, evaluate: Callable[[TrainState], dict[str, float]], log: RunLog, *, every: int = 0,
                 part: str = "test") -> None:
        self.evaluate, self.log, self.every, self.part = evaluate, log, every, part

    def pauses_at(self, number: int) -> bool:
        return self.every > 0 and number % self.every == 0

    def on_pause(self, pause: Pause) -> None:
        if not (pause.ending or self.pauses_at(pause.number)):
            return
        with self.log.paused():
            pause.results = self.evaluate(pause.state)
            if pause.results:
                self.log.write(pause.number, {f"{self.part}/{name}": value for name, value in pause.results.items()})


class EarlyStop(Observer):
    """Ends the training when the evaluations' value called `metric` has not improved for too long.

    part: the data that the evaluations look at, for the log. in_words: how a person reads a value of a metric.
    """

    name = "early_stopping"

    def __init__(self, metric: str, rule: EarlyStopping, log: RunLog, *, part: str,
                 in_words: Callable[[str, float | None], str]) -> None:
        self.metric, self.rule, self.log, self.part, self.in_words = metric, rule, log, part, in_words
        self._reason: str | None = None

    @property
    def ended(self) -> bool:
        return self.rule.stopped

    def on_pause(self, pause: Pause) -> None:
        if not pause.results:
            return
        self.rule = self.rule.update(pause.results[self.metric])
        if self.rule.stopped and not pause.ending:
            pause.ending = True
            best = self.in_words(self.metric, self.rule.best)
            self._reason = (f"stopped early at step {pause.number} of {pause.total_steps}: {self.part}/{self.metric} "
                            f"was best at {best}, {self.rule.waited} evaluations ago")

    def on_end(self) -> None:
        if self._reason:
            self.log.note(self._reason)

    def state(self) -> dict[str, Any]:
        return self.rule.state()

    def restore(self, saved: Mapping[str, Any]) -> None:
        self.rule = dataclasses.replace(self.rule, **saved)


class Checkpoints(Observer):
    """Saves the state at every pause, at least every `every` steps: an evaluated step too, so that the best one exists.

    single(state): the state as checkpoints hold it. meta: goes into every checkpoint, next to what batches and
    observers save.
    """

    def __init__(self, checkpointer: Checkpointer, log: RunLog, *, every: int, meta: Mapping[str, Any],
                 single: Callable[[TrainState], TrainState]) -> None:
        self.checkpointer, self.log, self.every, self.meta, self.single = checkpointer, log, every, meta, single

    def pauses_at(self, number: int) -> bool:
        return number % self.every == 0

    def on_pause(self, pause: Pause) -> None:
        with self.log.paused():
            self.log.sync()  # after a power cut, a checkpoint finds the lines up to its step
            self.checkpointer.save(self.single(pause.state), {**self.meta, **pause.contents()}, pause.results)

    def on_end(self) -> None:
        self.checkpointer.wait()


class Preemption(Observer):
    """Ends the training once the process has been asked to stop; raises Stopped when the state is saved."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop
        self._where: str | None = None

    def pauses_at(self, number: int) -> bool:
        return self.stop.after(number)

    def on_pause(self, pause: Pause) -> None:
        if self.stop.after(pause.number) and not pause.ending:
            pause.ending = True
            self._where = f"saved at step {pause.number} of {pause.total_steps}"

    def on_end(self) -> None:
        if self._where:
            raise Stopped(self._where)
