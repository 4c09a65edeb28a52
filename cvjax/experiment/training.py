"""The wiring of one training run: devices, state, resume, loop and final numbers."""

import dataclasses
import hashlib
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from cvjax.data.cache import cache_folder
from cvjax.evaluate.collapse import CollapseGuard
from cvjax.experiment.config import ConfigError, config_errors
from cvjax.experiment.inputs import Inputs
from cvjax.experiment.memory import measure_memory, memory_table
from cvjax.experiment.run import RunFolder
from cvjax.layers.partition import spread_axis
from cvjax.train.checkpoint import Checkpointer, read_meta, restore_weights
from cvjax.train.dispatch import compile_dispatch
from cvjax.train.early_stopping import EarlyStopping
from cvjax.train.layout import Layout, check_batch_size, parse_mesh
from cvjax.train.log import RunLog
from cvjax.train.loop import evaluate, fit
from cvjax.train.mesh import MeshEngine
from cvjax.train.optim import make_optimizer
from cvjax.train.pmap import PmapEngine
from cvjax.train.preemption import StopRequest
from cvjax.train.processes import is_first
from cvjax.train.profile import profiled
from cvjax.train.schedules import make_schedule, scaled_learning_rate
from cvjax.train.state import TrainState, create_state
from cvjax.train.step import Lookahead, make_train_step

ENGINES = {"jit": MeshEngine, "pmap": PmapEngine}


@dataclass(frozen=True)
class Trained:
    """A finished training run."""

    variables: Any  # one copy, whatever the number of devices; averages where they are kept
    metrics: dict[str, float]  # `test/NAME`, and `validation/NAME` where a part was held out, for the task's metrics
    steps: int
    seconds: float
    images_per_second: float
    params_sha256: str  # of the final parameters


def make_engine(config: Any) -> Any:
    """The engine that `--parallel`, `--mesh` and `--shard` ask for; ConfigError for what cannot be."""
    with config_errors():
        if config.parallel == "pmap":
            engine = PmapEngine()
            check_batch_size(config.batch_size, accumulate=config.accumulate, devices=engine.layout.data)
            return engine
        return MeshEngine(layout=make_layout(config, jax.device_count()))


def make_layout(config: Any, devices: int) -> Layout:
    """The layout over so many devices that `--mesh` and `--shard` ask for; ValueError for what cannot be.

    Batches, too, must split over it.
    """
    model = parse_mesh(config.mesh, devices) if config.mesh else 1
    check_batch_size(config.batch_size, accumulate=config.accumulate, devices=devices // model)
    return Layout(devices // model, model, config.shard, spread_axis)


@dataclass(frozen=True)
class Prepared:
    """A training that could start: what a dry run has to look at."""

    config: Any
    task: Any
    step: Any  # the whole training step, not compiled
    state: TrainState  # shapes
    batch: dict[str, jax.ShapeDtypeStruct]  # global
    resident: int = 0  # bytes of training data on every device


def print_memory(prepared: Prepared) -> None:
    """Print what the training takes on each of the devices at hand; ConfigError where it cannot run on them."""
    with config_errors():
        layout = make_layout(prepared.config, jax.device_count())
        print(memory_table(measure_memory(prepared, layout)))


# What a dry run does with what it has prepared; `experiments.plan` does other things.
dry_run: ContextVar[Callable[[Prepared], None]] = ContextVar("dry_run", default=print_memory)


def enable_compilation_cache() -> None:
    """Keep compiled programs, so that the second start of an experiment is quick: where JAX's own settings say (such as
    JAX_COMPILATION_CACHE_DIR), or else in the user's cache folder."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def params_sha256(params: Any) -> str:
    """Hash of all parameters with their paths: equal for equal runs on equal devices."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()


def build_optimizer(config: Any, total_steps: int, **options: Any) -> tuple[optax.GradientTransformation, Any]:
    """The optimizer and the learning-rate schedule of a training configuration.

    options: of `make_optimizer`, besides what the configuration says or instead of it.
    """
    peak = scaled_learning_rate(config.base_learning_rate, config.batch_size)
    final = None if config.final_rate is None else config.final_rate * peak
    warmup_steps = int(config.warmup * total_steps)
    too_short = config.warmup > 0 and not warmup_steps  # then the run has no warm-up, and no rate that it starts from
    start = None if config.start_rate is None or too_short else config.start_rate * peak
    schedule = make_schedule(config.schedule, peak, warmup_steps=warmup_steps,
                             total_steps=total_steps, start=start, final=final, milestones=config.milestones,
                             factor=config.factor, power=config.power)
    said = dict(weight_decay=config.weight_decay, decay=config.decay, momentum=config.momentum, b1=config.b1,
                b2=config.b2, eps=config.eps, clip_norm=config.clip_norm, clip_each=config.clip_each)
    return make_optimizer(config.optimizer, schedule, **said | options), schedule


def example_batch(inputs: Inputs) -> dict[str, np.ndarray]:
    """A batch of one blank example, to make parameters with."""
    return {name: np.zeros((1, *array.shape[1:]), array.dtype) for name, array in inputs.batch_shapes().items()}


def train(config: Any, run: RunFolder, task: Any, inputs: Inputs, stop: StopRequest, *, best_metric: str,
          best_mode: str, meta: dict[str, Any], adapt: Callable[[Any, Any], Any] | None = None,
          pretrained: Any = None, collapse: CollapseGuard | None = None, **optimizer_options: Any) -> Trained | None:
    """Train `task` to the end, resuming what is in the run's folder.

    None on a dry run, and in all processes but the first.

    Where the data set has a validation part, evaluations look at that, and the test split sees the checkpoint that was
    best on it; otherwise the test split sees the last one.
    meta: goes into every checkpoint, for whoever reads it without this configuration at hand.
    adapt(variables, pretrained) -> variables: puts pretrained parameters into fresh ones.
    collapse: watches the logged means. optimizer_options: see `build_optimizer`.
    """
    part = "test" if inputs.dataset.validation is None else "validation"
    if config.patience and part == "test":
        raise ConfigError(f"--patience {config.patience} needs a validation part: give --validation SHARE")
    total_steps = config.total_steps(len(inputs.dataset.train))
    with config_errors():
        optimizer, schedule = build_optimizer(config, total_steps, **optimizer_options)

    def initialize(pretrained: Any) -> TrainState:
        def variables(rng: jax.Array) -> Any:
            fresh = task.init(rng, example_batch(inputs))
            return adapt(fresh, pretrained) if adapt else fresh

        return create_state(variables, optimizer, jax.random.key(config.seed), ema=config.ema_decay is not None)

    lookahead = Lookahead(config.lookahead, total_steps) if config.lookahead else None
    step = make_train_step(task, optimizer, accumulate=config.accumulate, ema_decay=config.ema_decay,
                           lookahead=lookahead, skip_nonfinite=config.max_skipped > 0,
                           axis_name=ENGINES[config.parallel].axis_name)
    rates = np.asarray(jax.jit(jax.vmap(schedule))(np.arange(total_steps))).tolist()  # no device work while logging
    with config_errors():
        shapes = jax.eval_shape(initialize, pretrained)
    describe(config, inputs, shapes.params, total_steps, max(rates))
    resident = inputs.resident_arrays(config.data) if config.resident else None
    if config.dry_run:
        size = sum(array.nbytes for array in (resident or {}).values())
        dry_run.get()(Prepared(config, task, step, shapes, inputs.batch_shapes(), size))
        return None

    engine = make_engine(config)
    with config_errors():
        if engine.layout.model > 1:  # whether heads split over devices is known once the model is traced
            engine.compile_step(step, shapes).eval_shape(shapes, inputs.batch_shapes())
        state = engine.create(initialize, pretrained)
    batches = inputs.train_batches(seed=config.seed, workers=config.workers, resident=config.resident,
                                   share=engine.share)
    with Checkpointer(run.checkpoints, best_metric=best_metric, best_mode=best_mode) as checkpointer:
        restored = checkpointer.restore_latest(engine.single(state))
        first, saved = 0, {}
        if restored:
            single, saved = restored
            state, first = engine.spread(single), int(single.step)
            batches.restore(saved["data"])
            print(f"resuming {run.path} at step {first} of {total_steps}")
        log = RunLog(run.path, every=config.log_every, total_steps=total_steps, batch_size=config.batch_size,
                     steps_per_epoch=len(inputs.dataset.train) / config.batch_size, start_step=first,
                     resumed=saved.get("log"), writes=is_first())
        evaluation = evaluate(task, engine)
        results: dict[str, float] = {}  # of the last evaluation

        def evaluate_on(part: str, variables: Any) -> dict[str, float]:
            found = evaluation(variables, inputs.eval_batches(part, engine.share))
            results.clear()
            results.update(found)
            return found

        early_stopping = None
        if config.patience:
            rule = EarlyStopping(config.patience, best_mode)
            early_stopping = best_metric, dataclasses.replace(rule, **saved.get("early_stopping", {}))
        if collapse is not None and "collapse" in saved:
            collapse.restore(saved["collapse"])
        evaluates = getattr(inputs.dataset, part) is not None
        try:
            dispatch = compile_dispatch(engine, step, state, steps=config.steps_per_dispatch,
                                        feed=inputs.feed(config.seed), resident=resident)
            with profiled(dispatch, run.path / "profile", config.profile, log.note) as dispatch:
                state = fit(state, dispatch, batches, engine=engine, total_steps=total_steps,
                            steps_per_dispatch=config.steps_per_dispatch,
                            learning_rate=rates.__getitem__, log=log, checkpointer=checkpointer, meta=meta,
                            checkpoint_every=config.checkpoint_every, part=part, early_stopping=early_stopping,
                            evaluate=(lambda state: evaluate_on(part, state.variables)) if evaluates else None,
                            eval_every=config.eval_every, collapse=collapse, max_skipped=config.max_skipped,
                            skipped_before=saved.get("skipped", 0), stop=stop)
        finally:
            batches.close()
            log.close()
    single = engine.single(state)
    variables, metrics = engine.whole(single.variables), {}
    sha256 = params_sha256(engine.whole(single.params))
    if part == "validation":
        variables = evaluated_variables(restore_weights(run.checkpoints, "best")[0])
        found = evaluate_on(part, engine.spread(variables))
        metrics |= {f"validation/{name}": value for name, value in found.items()}
    if inputs.dataset.test is not None:
        if part == "validation" or not results:  # not evaluated where the last checkpoint was the end of the run
            evaluate_on("test", engine.spread(variables))
        metrics |= {f"test/{name}": value for name, value in results.items()}
    if inputs.bad.count:
        print(f"{inputs.bad.count} unreadable files were skipped; {inputs.bad.path} names them")
    seconds, steps = log.seconds, int(single.step)
    if not is_first():
        return None
    return Trained(variables, metrics, steps, seconds, steps * config.batch_size / seconds, sha256)


def evaluated_variables(weights: Any) -> Any:
    """What an evaluation of a checkpoint's weights (see `restore_weights`) uses: the averages where they are kept."""
    return weights["ema"] or {"params": weights["params"], **weights["model_state"]}


def finished_run(run: Path, experiment: str, step: str | int = "judged") -> tuple[Any, dict[str, Any]]:
    """The variables of a run of `experiment`, the averages where it kept them, and what its checkpoints say of it.

    step: "judged" (what the run's own test numbers are of; its meta says whether it was `validated`), "best", "latest"
    or a number. Raises ConfigError or CheckpointError where there is none.
    """
    folder = Path(run) / "checkpoints"
    if not folder.is_dir():
        raise ConfigError(f"{run}: no checkpoints in it; give the folder of a run of {experiment}")
    if step == "judged":
        step = "best" if read_meta(folder).get("validated") else "latest"
    weights, meta = restore_weights(folder, step)
    if meta["experiment"] != experiment:
        raise ConfigError(f"{run} is a run of {meta['experiment']}; it must be one of {experiment}")
    return evaluated_variables(weights), meta


def describe(config: Any, inputs: Inputs, params: Any, total_steps: int, peak: float) -> None:
    """Print what is about to run, in a few lines; `peak`: the highest learning rate."""
    dataset = inputs.dataset
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    others = [f" and {len(part):,} {name}" for name, part in
              (("validation", dataset.validation), ("test", dataset.test)) if part is not None]
    classes = f"{dataset.num_classes} classes" if dataset.num_classes else "no labels"
    print(f"data {config.data}: {len(dataset.train):,} training{''.join(others)} images, {classes}, seen at "
          f"{'x'.join(map(str, inputs.seen_shape))}")
    if dataset.ignored:
        print(f"data ignored: {dataset.ignored}")
    print(f"model: {count:,} parameters, {config.dtype} on {jax.device_count()} {jax.default_backend()} "
          f"device{'s' if jax.device_count() > 1 else ''} by {config.parallel}")
    print(f"training: {total_steps:,} steps of {config.batch_size} images "
          f"({total_steps * config.batch_size / len(dataset.train):.1f} epochs), {config.optimizer} to learning rate "
          f"{peak:.2e}, seed {config.seed}")
