"""One training run, from what is prepared to its final numbers: devices, resume, loop, evaluation."""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from cvjax.data.cache import cache_folder
from cvjax.evaluate.shares import in_words
from cvjax.train.checkpoint import Checkpointer, restore_weights
from cvjax.train.dispatch import compile_dispatch
from cvjax.train.early_stopping import EarlyStopping
from cvjax.train.log import RunLog
from cvjax.train.loop import evaluate, fit
from cvjax.train.observers import (
    Checkpoints,
    EarlyStop,
    Evaluation,
    Log,
    Observer,
    Preemption,
    SkippedSteps,
    Watch,
    restore,
)
from cvjax.train.preemption import StopRequest
from cvjax.train.processes import is_first
from cvjax.train.profile import profiled
from cvjax.train.state import TrainState
from cvjax.waiting import Durations, Line, waiting
from cvjax.workflow.config import config_errors
from cvjax.workflow.devices import Engine, make_engine
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.memory import print_memory
from cvjax.workflow.origin import from_json, sources_json
from cvjax.workflow.prepared import Prepared
from cvjax.workflow.report.live import LivePage
from cvjax.workflow.report.page import REPORT
from cvjax.workflow.restore import evaluated_variables

Dispatch = Callable[[Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Trained:
    """A finished training run."""

    variables: Any  # one copy, whatever the number of devices; averages where they are kept
    metrics: dict[str, float]  # `test/NAME`, and `validation/NAME` where a part was held out, for the task's metrics
    steps: int
    seconds: float
    images_per_second: float
    params_sha256: str  # of the final parameters


def train(prepared: Prepared[Any], folder: RunFolder, stop: StopRequest) -> Trained | None:
    """Train to the end, resuming what is in the run's folder; None in all processes but the first.

    A dry run prints the memory that the training would take instead, and returns None.

    Where the data set has a validation part, evaluations look at that, and the test split sees the checkpoint that was
    best on it; otherwise the test split sees the last one.
    """
    config, inputs = prepared.config, prepared.inputs
    if config.dry_run:
        print_memory(prepared)
        return None
    engine = make_engine(config)
    state = first_state(prepared, engine)
    judge = Judge(prepared, engine)
    batches = inputs.train_batches(seed=config.seed, workers=config.workers, share=engine.share)
    folder.begin()
    with Checkpointer(folder.checkpoints, best_metric=prepared.best_metric,
                      best_mode=prepared.best_mode) as checkpointer:
        state, saved = resume(state, engine, checkpointer, folder, prepared.total_steps)
        if saved:
            batches.restore(saved["data"])
        prepared = dataclasses.replace(prepared, meta=prepared.meta | {
            "total_steps": prepared.total_steps, "sources": sources_json(folder.origins)})
        print(f"a page that follows the run: {folder.place}/{REPORT}")
        log = RunLog(folder.path, every=config.log_every, total_steps=prepared.total_steps,
                     batch_size=config.batch_size, steps_per_epoch=len(inputs.dataset.train) / config.batch_size,
                     start_step=int(engine.single(state).step), writes=is_first())
        page = LivePage(folder, log, total_steps=prepared.total_steps, facts=facts_of(inputs.dataset),
                        start_step=int(engine.single(state).step), writes=is_first())
        observers = make_observers(prepared, engine, judge, log, page, checkpointer, stop)
        restore(observers, saved)
        try:
            dispatch = compile_dispatch(engine, prepared.step, state, steps=config.steps_per_dispatch,
                                        feed=prepared.gather, resident=prepared.resident_arrays)
            dispatch = shown_at_first(dispatch, prepared, log)
            with profiled(dispatch, folder.path / "profile", config.profile,
                          lambda text: log.note(text.replace(str(folder.path), folder.place))
                          ) as dispatch, stop.deferred():
                state = fit(state, dispatch, batches, observers=observers, engine=engine,
                            total_steps=prepared.total_steps, steps_per_dispatch=config.steps_per_dispatch)
        except BaseException as error:
            page.stop(error)
            raise
        finally:
            batches.close()
            log.close()
    variables, metrics, sha256 = final_numbers(prepared, engine, state, judge, folder)
    if inputs.bad.count:
        print(f"{inputs.bad.count} unreadable files were skipped; {folder.place}/{inputs.bad.path.name} names them")
    seconds, steps = log.seconds, int(engine.single(state).step)
    if not is_first():
        return None
    return Trained(variables, metrics, steps, seconds, steps * config.batch_size / seconds, sha256)


def shown_at_first(dispatch: Dispatch, prepared: Prepared[Any], log: RunLog) -> Dispatch:
    """A compiled step whose first call, which compiles it, is shown with its seconds and those of the last time."""
    durations, compiled = Durations(cache_folder() / "compilations.json"), False
    shapes = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), (prepared.state, prepared.batch))
    key = f"{jax.__version__} {jax.default_backend()} {jax.device_count()} {shapes}"

    def call(state: Any, batch: Any) -> tuple[Any, Any]:
        nonlocal compiled
        if compiled:
            return dispatch(state, batch)
        started = time.perf_counter()
        with waiting("compiling the step", line=log, last=durations.last(key)):
            done = dispatch(state, batch)
        durations.note(key, time.perf_counter() - started)
        log.restart_clock()
        compiled = True
        return done

    return call


def first_state(prepared: Prepared[Any], engine: Engine) -> TrainState:
    """The state before the first step, on the devices; ConfigError where the model does not split over them."""
    with config_errors():
        if engine.layout.model > 1:  # whether heads split over devices is known once the model is traced
            engine.compile_step(prepared.step, prepared.state).eval_shape(prepared.state, prepared.batch)
        return engine.create(prepared.initialize, prepared.pretrained, prepared.constants)


def resume(state: TrainState, engine: Engine, checkpointer: Checkpointer, folder: RunFolder, total_steps: int
           ) -> tuple[TrainState, dict[str, Any]]:
    """The newest checkpoint's state and meta; `state` and {} where there is none."""
    restored = checkpointer.restore_latest(engine.single(state))
    if restored is None:
        return state, {}
    single, saved = restored
    print(f"resuming {folder.place} at step {int(single.step)} of {total_steps}")
    folder.goes_on_from(from_json(saved.get("sources", [])))
    return engine.spread(single), saved


class Judge:
    """Evaluates variables on a part of the data; `latest` is what it found last, empty before."""

    def __init__(self, prepared: Prepared[Any], engine: Engine) -> None:
        self.inputs, self.share = prepared.inputs, engine.share
        self.evaluation = evaluate(prepared.task, engine)
        self.latest: dict[str, float] = {}

    def __call__(self, part: str, variables: Any, line: Line | None = None) -> dict[str, float]:
        """line: where it is said that this takes time; None for stderr."""
        with waiting(f"judging by the {part} part", line=line) if is_first() else contextlib.nullcontext():
            self.latest = self.evaluation(variables, self.inputs.eval_batches(part, self.share))
        return self.latest


def make_observers(prepared: Prepared[Any], engine: Engine, judge: Judge, log: RunLog, page: LivePage,
                   checkpointer: Checkpointer, stop: StopRequest) -> list[Observer]:
    """What watches the training, in the order that `cvjax.train.observers` asks for."""
    config, part = prepared.config, prepared.watched
    layer = prepared.first_nonfinite.found if prepared.first_nonfinite else None
    observers: list[Observer] = [SkippedSteps(config.max_skipped, log.note, layer),
                                 Log(log, prepared.rates.__getitem__)]
    observers += [Watch(name, rule, log) for name, rule in prepared.rules.items()]
    if getattr(prepared.inputs.dataset, part) is not None:
        observers.append(Evaluation(lambda state: judge(part, {**state.variables, **state.constants}, log), log,
                                    every=config.eval_every, part=part))
    if config.patience:
        rule = EarlyStopping(config.patience, prepared.best_mode)
        observers.append(EarlyStop(prepared.best_metric, rule, log, part=part, in_words=in_words))
    observers.append(Checkpoints(checkpointer, log, every=config.checkpoint_every, meta=prepared.meta,
                                 single=engine.single))
    return [*observers, page, Preemption(stop)]


def facts_of(dataset: Any) -> dict[str, int]:
    """How much data there is, in the words of a protocol (see `cvjax.evaluate.protocol`)."""
    return {"training_images": len(dataset.train), "test_images": len(dataset.test or ()),
            "classes": dataset.num_classes or 0}


def final_numbers(prepared: Prepared[Any], engine: Engine, state: TrainState, judge: Judge, folder: RunFolder
                  ) -> tuple[Any, dict[str, float], str]:
    """The variables that count, their metrics (see `Trained`), and the hash of the final parameters."""
    single = engine.single(state)
    variables, metrics = engine.whole(single.variables), {}
    sha256 = params_sha256(engine.whole(single.params))
    if prepared.watched == "validation":
        variables = evaluated_variables(restore_weights(folder.checkpoints, "best")[0])
        found = judge("validation", {**engine.spread(variables), **state.constants})
        metrics |= {f"validation/{name}": value for name, value in found.items()}
    if prepared.inputs.dataset.test is not None:
        if prepared.watched == "validation" or not judge.latest:  # empty where the run was resumed at its end
            judge("test", {**engine.spread(variables), **state.constants})
        metrics |= {f"test/{name}": value for name, value in judge.latest.items()}
    return variables, metrics, sha256


def params_sha256(params: Any) -> str:
    """Hash of all parameters with their paths: equal for equal runs on equal devices."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()


def enable_compilation_cache() -> None:
    """Keep compiled programs on disk, so that the second start of an experiment is quick.

    They are kept where JAX's own settings say (such as JAX_COMPILATION_CACHE_DIR), else in the user's cache folder.
    """
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]  # jax adds it at run time
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
