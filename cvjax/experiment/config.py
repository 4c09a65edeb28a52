"""Configurations as frozen dataclasses, and the command line made from them.

A class below is shown by `--help` field by field; the text under a field is its help. An experiment extends
`TrainingConfig` and names presets: dictionaries of the fields they change.
"""

import contextlib
import dataclasses
import gc
import math
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import tyro

from cvjax.experiment.allocator import keep_freed_memory
from cvjax.train.preemption import Stopped, StopRequest


class ConfigError(Exception):
    """An impossible configuration; the message says what was received and what is allowed, in one line."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What every experiment can be told."""

    data: str = "digits"
    """digits | folder:PATH | tar:PATH | packed:DIR | tfds:NAME | npz:FILE | blank:RECORDS,SIDE,CLASSES (grey)"""
    data_cache: bool = False
    """Decode all images once and keep them in memory; they must have one size."""
    data_max_bad: float = 0.01
    """Share of unreadable files past which the run stops; they are named in bad_files.txt."""
    run_dir: Path | None = None
    """Where the run is written; by default runs/EXPERIMENT/PRESET, with the changed fields in its name."""
    overwrite: bool = False
    """Delete a run that is there already and start anew, instead of resuming it."""
    dry_run: bool = False
    """Build everything, say what would run, and stop before the first step."""
    seed: int = 0
    """Seed of parameters, order of the data, augmentation and probes."""
    batch_size: int = 256
    """Images per step, over all devices."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(not isinstance(value, float) or math.isfinite(value), field.name, value, "finite")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(0 <= self.seed < 2**32, "seed", self.seed, "in [0, 2**32)")
        require(0 <= self.data_max_bad <= 1, "data_max_bad", self.data_max_bad, "in [0, 1]")


@dataclasses.dataclass(frozen=True)
class TrainingConfig(DataConfig):
    """What every training experiment can be told."""

    LARGEST_CROP: ClassVar[float] = 1.0
    """The greatest --crop-scale of an experiment: no field, nothing to choose."""

    workers: int = 0
    """Processes that decode images; 0 decodes in threads of this one."""
    epochs: float = 100.0
    """Passes over the training data."""
    steps: int | None = None
    """Optimizer steps; replaces --epochs."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Share of an image's area that a random training crop keeps; 1 1 for no cropping."""
    flip: bool = True
    """Mirror half of the training images."""
    accumulate: int = 1
    """Split each batch into this many micro-batches, one after the other, to save memory."""
    parallel: Literal["jit", "pmap"] = "jit"
    """jit: one program over a mesh of all devices. pmap: the older way to the same numbers, but for mixup, dropout and
    drop path, which each device then draws for itself."""
    mesh: str | None = None
    """data=N,model=M: split batches over N devices, and each layer of a transformer over M; by default M is 1."""
    shard: Literal["none", "fsdp"] = "none"
    """fsdp: spread parameters, optimizer state and averages over the devices that split the batch."""
    coordinator_address: str | None = None
    """HOST:PORT of the first of several processes. Slurm, Open MPI, Kubernetes and TPU pods need none of these four."""
    num_processes: int | None = None
    """How many processes take part; all run the same command."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    coordinator_timeout: int = 45
    """Seconds within which all processes must have come."""
    resident: bool = False
    """Keep the training images on every device, as uint8, and send positions; for data in memory. The same numbers."""
    steps_per_dispatch: int = 1
    """Steps that one compiled program does in a row; it must divide --log-every, --eval-every and --checkpoint-every.
    The same numbers but for rounding. For accelerators: a CPU is slow at convolutions in a loop."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the model; parameters, norms' statistics and losses stay float32."""
    remat: Literal["none", "dots", "full"] = "none"
    """What to recompute in the backward pass instead of storing it: all but the blocks' inputs (full), or all but these
    and matrix products with weights (dots)."""
    attention: Literal["auto", "xla", "cudnn"] = "auto"
    """cudnn: NVIDIA's fused kernel for a ViT in bfloat16, or an error where it cannot be. auto: it where it can."""
    scan: bool = False
    """Compile one transformer block and loop over it: quick compilation of deep models, for some more memory."""
    optimizer: Literal["sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "lamb", "lars",
                       "lion", "muon"] = "adamw"
    """The optimizer; `cvjax.train.optim` has their papers."""
    base_learning_rate: float = 1.5e-4
    """Peak learning rate at batch size 256; the real one is base * batch size / 256."""
    weight_decay: float = 0.05
    """Decay of what --decay says."""
    decay: Literal["matrices", "all"] = "matrices"
    """matrices: norms, biases, positions and tokens do not decay. all: as recipes older than that habit have it."""
    momentum: float | None = None
    """The optimizer's momentum; by default its own. Likewise the next three."""
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    clip_norm: float | None = None
    """Limit on the global gradient norm."""
    clip_each: float | None = None
    """Limit on the gradient norm of each parameter array by itself."""
    schedule: Literal["constant", "step", "cosine", "one_cycle", "linear", "polynomial"] = "cosine"
    """How the learning rate goes on after the warm-up."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    start_rate: float | None = None
    """Where the warm-up starts, as a share of the peak; 0 by default."""
    final_rate: float | None = None
    """Where cosine, linear and polynomial end, as a share of the peak; 0 by default."""
    milestones: tuple[float, ...] | None = None
    """When schedule step takes its steps, as shares of the run."""
    factor: float | None = None
    """What schedule step multiplies the rate by at each milestone."""
    power: float | None = None
    """Exponent of schedule polynomial; 2 by default."""
    ema_decay: float | None = None
    """Also keep a running average of the parameters with this decay, and evaluate that."""
    lookahead: int = 0
    """Average only every so many steps and go on from the average, whose decay rises to --ema-decay; 0 for never."""
    log_every: int = 20
    """Steps per line in metrics.jsonl."""
    eval_every: int = 0
    """Steps between evaluations, each saved; 0: only at the end. On the validation part, or else the test split."""
    validation: float = 0.0
    """Share of the training images held out to choose the best checkpoint by; the test split then sees that one."""
    patience: int = 0
    """Stop when this many evaluations on the validation part brought nothing better; 0 for never."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    profile: int = 0
    """Trace so many steps (dispatches, with --steps-per-dispatch), into the run's folder `profile`; 0 for none."""
    max_skipped: int = 0
    """Steps in a row whose loss or gradient is not finite that are skipped; one more ends the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("accumulate", "log_every", "checkpoint_every", "steps_per_dispatch"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("eval_every", "workers", "weight_decay", "base_learning_rate", "max_skipped", "lookahead",
                     "profile"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.epochs > 0, "epochs", self.epochs, "more than 0")
        for name in ("momentum", "b1", "b2"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, name, value, "in [0, 1)")
        require(self.eps is None or self.eps > 0, "eps", self.eps, "more than 0")
        for name in ("start_rate", "final_rate"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, name, value, "in [0, 1]")
        require(0 <= self.validation < 1, "validation", self.validation, "in [0, 1)")
        require(self.patience >= 0, "patience", self.patience, "0 or more")
        require(not self.patience or self.eval_every > 0, "patience", self.patience, "0 without --eval-every")
        require(0 <= self.warmup < 1, "warmup", self.warmup, "in [0, 1)")
        low, high = self.crop_scale
        most = self.LARGEST_CROP
        require(0 < low <= high <= most, "crop_scale", self.crop_scale, f"LOW HIGH with 0 < LOW <= HIGH <= {most:g}")
        for name in ("clip_norm", "clip_each"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "more than 0")
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "ema_decay", self.ema_decay, "in (0, 1)")
        require(not self.lookahead or self.ema_decay is not None, "lookahead", self.lookahead, "0 without --ema-decay")
        if self.parallel == "pmap" and (self.mesh or self.shard != "none"):
            raise ConfigError("--parallel pmap holds everything on every device: leave --mesh and --shard out")
        require(self.parallel == "jit" or not self.resident, "resident", self.resident, "False with --parallel pmap")
        together = self.steps_per_dispatch
        require(self.parallel == "jit" or together == 1, "steps_per_dispatch", together, "1 with --parallel pmap")
        for name in ("log_every", "checkpoint_every", "eval_every"):
            every = getattr(self, name)
            require(every % together == 0, "steps_per_dispatch", together,
                    f"a divisor of --{name.replace('_', '-')} {every}")

    def total_steps(self, records: int) -> int:
        """Optimizer steps of the run on a training set of `records` images."""
        return self.steps or max(1, round(self.epochs * records / self.batch_size))


def require(holds: bool, name: str, value: Any, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"--{name.replace('_', '-')} {value}: it must be {allowed}")


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """Within this context a ValueError, whose one line a user can act on, becomes a ConfigError."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from None


def parse(experiment: str, config: type, presets: Mapping[str, Mapping[str, Any]], description: str,
          arguments: Sequence[str] | None = None) -> tuple[Any, str]:
    """The configuration a command line asks for, and a name for its run.

    The command line is `[PRESET] [--field value]...`; the first preset is the default. Prints and exits as argparse
    does on `--help` and on mistakes. The run's name is the preset and the fields changed on the command line.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    preset = next(iter(presets))
    if arguments and not arguments[0].startswith("-"):
        preset = arguments.pop(0)
        if preset not in presets:
            raise ConfigError(f"unknown preset {preset!r}: it must be one of {', '.join(presets)}")
    given = {argument.split("=")[0] for argument in arguments}
    if {"--steps", "--epochs"} <= given:
        raise ConfigError("--steps and --epochs both given: give one of them")
    base = config(**presets[preset])
    if "--epochs" in given and getattr(base, "steps", None):  # they come in place of a preset's steps
        base = dataclasses.replace(base, steps=None)
    text = f"{textwrap.dedent(description).strip()}\n\nPresets: {', '.join(presets)} (default: {next(iter(presets))})."
    parsed = tyro.cli(config, default=base, args=arguments, description=text,
                      prog=f"python -m experiments.{experiment} [{'|'.join(presets)}]")
    return parsed, _run_name(preset, base, parsed)


def _run_name(preset: str, base: Any, parsed: Any) -> str:
    """`digits`, or `digits-seed=1-epochs=10` when fields were changed."""
    changed = [f.name for f in dataclasses.fields(base) if f.name not in PLACE and f.name not in FREE
               and getattr(base, f.name) != getattr(parsed, f.name)]
    parts = [f"{name}={getattr(parsed, name)}" for name in changed]
    return "".join(c if c.isalnum() or c in "-_.=" else "_" for c in "-".join([preset, *parts]))[:120]


# Where and whether a run is written, not what it computes.
PLACE = ("run_dir", "overwrite", "dry_run", "coordinator_address", "num_processes", "process_id", "coordinator_timeout")
# What may change when a run is resumed.
FREE = ("workers", "log_every", "data_max_bad", "parallel", "mesh", "shard", "checkpoint_every", "resident",
        "steps_per_dispatch", "profile")


def as_json(config: Any) -> dict[str, Any]:
    """The fields that make a run what it is, JSON-able."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config) if f.name not in PLACE}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(map(_plain, value)) if isinstance(value, tuple) else value


def main(run: Callable[[Any, str, Any], None], experiment: str, config: type, presets: Mapping[str, Mapping[str, Any]],
         description: str) -> None:
    """Entry point of an experiment: parse, run, and turn expected errors into one line and exit status 2.

    A requested stop that was saved exits with 0.
    """
    stop = StopRequest().install()
    # Libraries and a traced step are a million small objects that stay; to look through them for garbage again and
    # again takes a sixth of the start.
    gc.set_threshold(100_000, 20, 100)
    try:
        parsed, name = parse(experiment, config, presets, description)
    except ConfigError as error:
        sys.exit(_complain(error))
    if getattr(parsed, "dry_run", False) and getattr(parsed, "parallel", "jit") == "pmap":
        print("a dry run shows what --parallel jit would do")
        parsed = dataclasses.replace(parsed, parallel="jit")
    _run(lambda: run(parsed, name, stop), parsed)


def command(run: Callable[[Any], None], experiment: str, config: type, description: str) -> None:
    """Entry point of a command that leaves no run behind: no presets, and arguments may stand by themselves."""
    try:
        parsed = tyro.cli(config, description=textwrap.dedent(description).strip(),
                          prog=f"python -m experiments.{experiment}")
    except ConfigError as error:
        sys.exit(_complain(error))
    _run(lambda: run(parsed))


def _run(body: Callable[[], None], config: Any = None) -> None:
    """config: of an experiment; a training may be one of several processes, which end all together, or none before its
    time."""
    keep_freed_memory()  # before jax starts its threads
    import jax

    from cvjax.experiment.run import EXPECTED_ERRORS
    from cvjax.train.processes import ProcessError, is_first, join, launcher, leave, wait_to_be_ended

    try:
        if isinstance(config, TrainingConfig):
            join(config.coordinator_address, config.num_processes, config.process_id,
                 timeout=config.coordinator_timeout)
            if not is_first():
                sys.stdout = open(os.devnull, "w")  # it speaks for all
        elif config is not None and launcher() in ("Slurm", "Open MPI"):
            raise ProcessError(f"{launcher()} started several processes, and this experiment runs in one; all of them "
                               "would write the same folder")
        body()
    except Stopped as saved:
        print(f"{saved}; the same command resumes", file=sys.stderr)
    except EXPECTED_ERRORS as error:
        status = _complain(error)
        leave(status)
        sys.exit(status)
    except BaseException as error:
        if jax.process_count() > 1:
            if isinstance(error, jax.errors.JaxRuntimeError):
                wait_to_be_ended()
            traceback.print_exc()
            leave(1)
        raise
    leave(0)


def _complain(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2
