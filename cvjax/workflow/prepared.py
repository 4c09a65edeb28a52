"""A training before it touches a device: everything that follows from its configuration, task and data.

`cvjax.workflow.training.train` runs it. A dry run and `experiments.plan` only look at it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import jax
import numpy as np
import optax

from cvjax.errors import ConfigError
from cvjax.tasks.task import Task
from cvjax.text import printable
from cvjax.train.first_nonfinite import FirstNonFinite
from cvjax.train.observers import Rule
from cvjax.train.optim import bias_scale, make_optimizer, product
from cvjax.train.schedules import make_schedule, scaled_learning_rate
from cvjax.train.state import TrainState, create_state
from cvjax.train.step import Lookahead, Step, make_train_step
from cvjax.workflow.config import TrainingConfig, config_errors
from cvjax.workflow.devices import ENGINES
from cvjax.workflow.gather import Gather
from cvjax.workflow.inputs import Inputs, with_batches_of

Data = TypeVar("Data", bound=Inputs)


@dataclass(frozen=True)
class Prepared(Generic[Data]):
    """A training that could start."""

    config: TrainingConfig
    task: Task
    inputs: Data
    total_steps: int
    rates: list[float]  # the learning rate of each step
    step: Step  # the whole training step, not compiled
    initialize: Callable[[Any, Any], TrainState]  # initialize(pretrained, constants): the first state; to be compiled
    pretrained: Any  # parameters to start from
    constants: Any  # what the loss reads and no step changes, see `TrainState`; None for nothing
    state: TrainState  # shapes of the first state
    batch: dict[str, jax.ShapeDtypeStruct]  # shapes of a batch of all processes together
    gather: Gather | None  # what becomes of a batch on the device before the step
    best_metric: str
    best_mode: Literal["min", "max"]
    meta: dict[str, Any]
    rules: Mapping[str, Rule] = field(default_factory=dict)
    model: Any = None
    protocol: dict[str, Any] = field(default_factory=dict)
    first_nonfinite: FirstNonFinite | None = None  # what watches the step, with --debug-nans

    @property
    def resident_arrays(self) -> Mapping[str, np.ndarray] | None:
        """Training data that is sent to every device once."""
        return self.gather.arrays if self.gather else None

    @property
    def resident(self) -> int:
        """Bytes of training data on every device."""
        return sum(array.nbytes for array in (self.resident_arrays or {}).values())

    @property
    def watched(self) -> str:
        """The part of the data that evaluations look at during the training."""
        return watched_part(self.inputs)


def prepare_training(config: TrainingConfig, task: Task, inputs: Data, *, best_metric: str,
                     best_mode: Literal["min", "max"], meta: dict[str, Any],
                     adapt: Callable[[Any, Any], Any] | None = None, pretrained: Any = None,
                     constants: Mapping[str, Any] | None = None,
                     rules: Mapping[str, Rule] | None = None, model: Any = None,
                     protocol: dict[str, Any] | None = None, frozen: Callable[[str], bool] | None = None,
                     **optimizer_options: Any) -> Prepared[Data]:
    """Prepare to train `task`, and print what is about to run.

    best_metric, best_mode: which checkpoint is the best, and when to stop early.
    meta: goes into every checkpoint, for whoever reads it without this configuration at hand.
    adapt(variables, pretrained) -> variables: puts pretrained parameters into fresh ones.
    constants: see `TrainState`; a resumed training must be given the same ones.
    rules: name -> a judge of the logged means, see `cvjax.train.observers.Watch`.
    model, protocol: what the experiment needs after the training (its network, what the summary says of it); the
    training does not read them.
    frozen(path): parameters that stand still. optimizer_options: see `build_optimizer`.
    Raises ConfigError for a configuration that cannot be trained.
    """
    if config.patience and watched_part(inputs) == "test":
        raise ConfigError(f"--patience {config.patience} needs a validation part: give --validation SHARE")
    config = with_batches_of(config, inputs)
    total_steps = config.total_steps(len(inputs.dataset.train))
    with config_errors():
        optimizer, schedule = build_optimizer(config, total_steps, frozen=frozen, **optimizer_options)

    def initialize(pretrained: Any, constants: Any) -> TrainState:
        def variables(rng: jax.Array) -> Any:
            fresh = task.init(rng, example_batch(inputs))
            return adapt(fresh, pretrained) if adapt else fresh

        return create_state(variables, optimizer, jax.random.key(config.seed), ema=config.ema_decay is not None,
                            constants=constants)

    lookahead = Lookahead(config.lookahead, total_steps) if config.lookahead else None
    step = make_train_step(task, optimizer, accumulate=config.accumulate, ema_decay=config.ema_decay,
                           ema_every=config.ema_every, ema_start=int(config.ema_start * total_steps),
                           lookahead=lookahead, skip_nonfinite=config.max_skipped > 0, frozen=frozen,
                           axis_name=ENGINES[config.parallel].axis_name)
    first_nonfinite = FirstNonFinite() if config.debug_nans else None
    if first_nonfinite:
        step = first_nonfinite.watching(step)
    rates = np.asarray(jax.jit(jax.vmap(schedule))(np.arange(total_steps))).tolist()  # no device work while logging
    with config_errors():
        shapes = jax.eval_shape(initialize, pretrained, constants)
    describe(config, inputs, shapes, total_steps, max(rates))
    return Prepared(config, task, inputs, total_steps, rates, step, initialize, pretrained, constants, shapes,
                    inputs.batch_shapes(), inputs.gather(config.seed), best_metric, best_mode, meta, rules or {}, model,
                    protocol or {}, first_nonfinite)


def watched_part(inputs: Inputs) -> str:
    """The part of the data that evaluations look at: "validation" where there is one, else "test"."""
    return "test" if inputs.dataset.validation is None else "validation"


def build_optimizer(config: TrainingConfig, total_steps: int, *,
                    layer_scale: Callable[[str], float] | None = None, **options: Any
                    ) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and the learning-rate schedule of a training configuration.

    layer_scale: learning rates of parameters by path; that of biases is multiplied by the configuration's.
    options: of `make_optimizer`, besides what the configuration says or instead of it.
    """
    schedule = schedule_of(config, total_steps)
    said: dict[str, Any] = dict(
        weight_decay=config.weight_decay, decay=config.decay, momentum=config.momentum, b1=config.b1, b2=config.b2,
        eps=config.eps, clip_norm=config.clip_norm, clip_each=config.clip_each,
        layer_scale=product(layer_scale, None if config.bias_rate == 1 else bias_scale(config.bias_rate)))
    return make_optimizer(config.optimizer, schedule, **said | options), schedule


def schedule_of(config: TrainingConfig, total_steps: int) -> optax.Schedule:
    """The learning rate of each of so many steps, as a configuration describes it."""
    peak = scaled_learning_rate(config.base_learning_rate, config.batch_size)
    final = None if config.final_rate is None else config.final_rate * peak
    warmup_steps = int(config.warmup * total_steps)
    too_short = config.warmup > 0 and not warmup_steps  # then there is no warm-up, and no rate that it starts from
    start = None if config.start_rate is None or too_short else config.start_rate * peak
    return make_schedule(config.schedule, peak, warmup_steps=warmup_steps, total_steps=total_steps, start=start,
                         final=final, milestones=config.milestones, factor=config.factor, power=config.power)


def example_batch(inputs: Inputs) -> dict[str, Any]:
    """A batch of one blank example, to make parameters with."""
    return {name: np.zeros((1, *array.shape[1:]), array.dtype) for name, array in inputs.batch_shapes().items()}


def describe(config: TrainingConfig, inputs: Inputs, state: TrainState, total_steps: int, peak: float) -> None:
    """Print what is about to run, in a few lines; `state`: its shapes; `peak`: the highest learning rate."""
    dataset = inputs.dataset
    learnt, frozen = (sum(leaf.size for leaf in jax.tree.leaves(tree))
                      for tree in (state.params, state.model_state.get("frozen", {}).get("params", {})))
    count = f"{learnt:,} of {learnt + frozen:,} parameters learn" if frozen else f"{learnt:,} parameters"
    others = [f" and {len(part):,} {name}" for name, part in
              (("validation", dataset.validation), ("test", dataset.test)) if part is not None]
    classes = f"{dataset.num_classes} classes" if dataset.num_classes else "no labels"
    if dataset.targets is not None:
        classes = f"{len(dataset.targets.names)} {dataset.targets.kind} ({', '.join(dataset.targets.names)})"
    print(f"data {config.data}: {len(dataset.train):,} training{''.join(others)} images, {printable(classes)}, seen at "
          f"{'x'.join(map(str, inputs.seen_shape))}")
    if dataset.ignored:
        print(f"data ignored: {printable(dataset.ignored)}")
    if dataset.noticed:
        print(f"data noticed: {printable(dataset.noticed)}")
    if inputs.bad.count:
        print(f"data unreadable: {inputs.bad.count} of {inputs.bad.total:,} files, such as {inputs.bad.examples(3)}")
    print(f"model: {count}, {config.dtype} on {jax.device_count()} {jax.default_backend()} "
          f"device{'s' if jax.device_count() > 1 else ''} by {config.parallel}")
    print(f"training: {total_steps:,} steps of {config.batch_size} images "
          f"({total_steps * config.batch_size / len(dataset.train):.1f} epochs), {config.optimizer} to learning rate "
          f"{peak:.2e}, seed {config.seed}")
