"""What a training makes of the machine at hand: the micro-batches that fit its memory (`cvjax.workflow.fitting`), and
as many steps as fit into a number of minutes: measured here, said, and kept when it resumes."""

import contextlib
import dataclasses
import io
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from cvjax.errors import CheckpointError, ConfigError
from cvjax.train.checkpoint import read_meta
from cvjax.train.dispatch import compile_dispatch
from cvjax.train.loop import fit
from cvjax.train.observers import Observer, StepRead
from cvjax.workflow.config import TrainingConfig
from cvjax.workflow.devices import make_engine
from cvjax.workflow.fitting import fitting, memory_here
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.prepared import Prepared
from cvjax.workflow.training import first_state

SHARE = 0.9  # of the time is for steps; the rest is for compiling, judging and pictures
WATCHED = 5.0  # seconds of steps that are watched, and at least LEAST of them
LEAST = 3

Config = TypeVar("Config", bound=TrainingConfig)


def prepare_within(prepare: Callable[[Config, RunFolder], Prepared[Any]], config: Config,
                   folder: RunFolder) -> Prepared[Any]:
    """`prepare(config, folder)`, with as many steps as `--minutes` allows and micro-batches as `--fit` needs.

    A training that goes on makes as many as it was begun with. ConfigError in several processes, which would measure
    different numbers.
    """
    if config.fit:
        config = fitting(prepare, config, folder, devices=jax.device_count(), memory=memory_here())
    if config.minutes is None:
        return prepare(config, folder)
    if jax.process_count() > 1:
        raise ConfigError(f"--minutes {config.minutes:g} is for one process: give --steps or --epochs")
    steps = begun_with(folder)
    if steps is None:
        seconds, epochs = seconds_per_step(prepare, config, folder)
        steps = max(1, round(SHARE * 60 * config.minutes / seconds))
        print(f"--minutes {config.minutes:g}: a step takes {1000 * seconds:.3g} ms here, so {steps:,} steps fit "
              f"({steps * epochs:.1f} epochs)")
    return prepare(dataclasses.replace(config, steps=steps), folder)


def begun_with(folder: RunFolder) -> int | None:
    """The steps of the training in a folder as its checkpoints say them; None where it begins anew."""
    if folder.anew:
        return None
    with contextlib.suppress(CheckpointError):
        return read_meta(folder.checkpoints)["total_steps"]
    return None


def seconds_per_step(prepare: Callable[[Config, RunFolder], Prepared[Any]], config: Config,
                     folder: RunFolder) -> tuple[float, float]:
    """How long a step takes once it is compiled, its input included, and which part of an epoch it is.

    The steps are those of a training that leaves nothing behind.
    """
    dry = dataclasses.replace(config, dry_run=True)
    with contextlib.redirect_stdout(io.StringIO()):  # all of it is said again for the training itself
        prepared = prepare(dry, RunFolder(dry, folder.experiment, folder.name))
    engine = make_engine(prepared.config)
    state = first_state(prepared, engine)
    step = compile_dispatch(engine, prepared.step, state, steps=config.steps_per_dispatch, feed=prepared.gather,
                            resident=prepared.resident_arrays)
    batches = prepared.inputs.train_batches(seed=config.seed, workers=config.workers, share=engine.share)
    watch = _Stopwatch()
    try:
        fit(state, step, batches, observers=[watch], engine=engine, total_steps=2**31,
            steps_per_dispatch=config.steps_per_dispatch)
    finally:
        batches.close()
    return watch.seconds, prepared.config.batch_size / len(prepared.inputs.dataset.train)


class _Stopwatch(Observer):
    """Ends a training once enough steps have been seen."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None  # when a step had been computed, and its number
        self._last = (0.0, 0)

    @property
    def ended(self) -> bool:
        if self._first is None:
            return False
        return self._last[1] - self._first[1] >= LEAST and self._last[0] - self._first[0] >= WATCHED

    @property
    def seconds(self) -> float:
        """Between two steps, in the mean."""
        assert self._first is not None
        return (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])

    def on_step(self, step: StepRead) -> None:
        now = time.perf_counter(), step.number
        if self._first is None and step.number > 1:  # the first one was compiled
            self._first = now
        self._last = now
