"""Configurations as frozen dataclasses, and the command line made from them.

A class below is shown by `--help` field by field; the text under a field is its help. An experiment extends
`TrainingConfig` and names presets: dictionaries of the fields they change.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from cvjax.data.forms import IMAGES
from cvjax.errors import ConfigError
from cvjax.workflow.options import Mark


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The options of every experiment."""

    data: Annotated[str, Mark(help=IMAGES.help, check=IMAGES.find)] = "digits"
    data_cache: bool = False
    """Decode all images once and keep them in memory; they must have one size."""
    channels: int | None = None
    """Take the images in files with this many channels and all bits, as they are stored: 1 for grey, 4 for RGBA, or the
    pages of a TIFF. By default files are photos, made 8-bit RGB; arrays keep their channels."""
    data_max_bad: float = 0.01
    """The run stops if more than this share of the files is unreadable, and more than 5 (or half of fewer than 10); 0
    allows none. bad_files.txt names them."""
    run_dir: Annotated[str | None, Mark(metavar="PATH")] = None
    """The folder of the run, also at s3:// or gs://; by default runs/EXPERIMENT/PRESET, with the changed fields in its
    name."""
    overwrite: bool = False
    """Delete the run in the folder and start anew; by default it is resumed."""
    dry_run: bool = False
    """Say what would run and stop: everything is built, but no step is done."""
    batch_size: int = 256
    """Images per step, over all devices."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(not isinstance(value, float) or math.isfinite(value), field.name, value, "finite")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.channels is None or self.channels >= 1, "channels", self.channels, "at least 1")
        require(0 <= self.data_max_bad <= 1, "data_max_bad", self.data_max_bad, "in [0, 1]")


@dataclasses.dataclass(frozen=True)
class TrainingConfig(DataConfig):
    """The options of every experiment that trains."""

    LARGEST_CROP: ClassVar[float] = 1.0
    """The greatest --crop-scale that an experiment allows; a constant, not an option."""
    HEADINGS: ClassVar[dict[str, str]] = {
        "seed": "Length, order and cropping of the training data", "accumulate": "Devices, memory and speed",
        "optimizer": "Optimizer and learning rate", "ema_decay": "Average of the parameters",
        "log_every": "Log, evaluations and checkpoints"}
    """The headings of --help-all, each with the option at which it begins; a constant, not an option."""

    seed: int = 0
    """Seed of all that is random: parameters, order of the data, augmentation and probes."""
    workers: int = 0
    """Processes that decode images; with 0, threads of the main process decode them."""
    epochs: float = 100.0
    """Passes over the training data."""
    steps: int | None = None
    """Optimizer steps; replaces --epochs."""
    minutes: float | None = None
    """Make as many steps as fit into these minutes on this machine, which is measured first; replaces --epochs."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Least and greatest share of an image's area that a random training crop keeps; 1 1 for no cropping."""
    flip: bool = True
    """Mirror half of the training images."""
    accumulate: int = 1
    """Split each batch into this many micro-batches, one after the other, to save memory."""
    fit: bool = False
    """Choose --accumulate: the least that fits the memory of the devices at hand, as reckoned. Batch norms see one
    micro-batch at a time."""
    parallel: Literal["jit", "pmap"] = "jit"
    """jit: one program over a mesh of all devices. pmap: the older way. Its numbers are the same, except that
    each device draws mixup, dropout and drop path for itself."""
    mesh: str | None = None
    """data=N,model=M: split batches over N devices, and each layer of a transformer over M; by default M is 1."""
    shard: Literal["none", "fsdp"] = "none"
    """fsdp: spread parameters, optimizer state and averages over the devices that split the batch."""
    coordinator_address: str | None = None
    """HOST:PORT of the first of several processes. Leave out this option and the next three under Slurm, Open MPI,
    Kubernetes and on TPU pods."""
    num_processes: int | None = None
    """How many processes take part; all run the same command."""
    process_id: int | None = None
    """The number of this process, from 0."""
    coordinator_timeout: int = 45
    """Seconds to wait until all processes have joined."""
    resident: bool = False
    """Keep the training images on every device as uint8, and send only positions for each batch. It needs data in
    memory; the numbers stay the same."""
    steps_per_dispatch: int = 1
    """Steps that one compiled program does in a row; it must divide --log-every, --eval-every and --checkpoint-every.
    The numbers stay the same up to rounding. It is meant for accelerators: a CPU is slow at convolutions in a loop."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the model; parameters, norms' statistics and losses stay float32."""
    remat: Literal["none", "dots", "full"] = "none"
    """full: the backward pass recomputes everything except the blocks' inputs, to save memory. dots: it keeps matrix
    products with weights, too."""
    attention: Literal["auto", "xla", "cudnn"] = "auto"
    """cudnn: NVIDIA's fused kernel for a ViT in bfloat16; an error where it cannot run. auto: that kernel where it can
    run. xla: never that kernel."""
    scan: bool = False
    """Compile one transformer block and loop over it: deep models compile faster, but take somewhat more memory."""
    optimizer: Literal["sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "lamb", "lars",
                       "lion", "muon"] = "adamw"
    """The optimizer; `cvjax.train.optim` cites the papers."""
    base_learning_rate: float = 1.5e-4
    """Peak learning rate at batch size 256; the real one is base * batch size / 256."""
    weight_decay: float = 0.05
    """Weight decay of what --decay selects."""
    decay: Literal["matrices", "no_bias_or_norm", "all"] = "matrices"
    """matrices: norms, biases, positions and tokens do not decay. no_bias_or_norm: positions and tokens decay, as in
    DINO's code. all: every parameter decays, as in older recipes."""
    bias_rate: float = 1.0
    """Learning rate of the biases relative to the others'; 2 in most of Caffe's recipes."""
    momentum: float | None = None
    """Momentum; by default the optimizer's own, as for the next three options."""
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    clip_norm: float | None = None
    """Limit on the global gradient norm."""
    clip_each: float | None = None
    """Limit on the gradient norm of each parameter array by itself."""
    schedule: Literal["constant", "step", "cosine", "one_cycle", "linear", "polynomial", "dino"] = "cosine"
    """Course of the learning rate after the warm-up. dino: the cosine of DINO's authors, whose warm-up reaches the peak
    a step earlier."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    start_rate: float | None = None
    """Learning rate at the start of the warm-up, as a share of the peak; 0 by default."""
    final_rate: float | None = None
    """Learning rate at the end of cosine, dino, linear and polynomial, as a share of the peak; 0 by default."""
    milestones: tuple[float, ...] | None = None
    """Times at which schedule step changes the rate, as shares of the run."""
    factor: float | None = None
    """Schedule step multiplies the rate by this factor at each milestone."""
    power: float | None = None
    """Exponent of schedule polynomial; 2 by default."""
    ema_decay: float | None = None
    """Also keep a running average of the parameters with this decay, and evaluate the average."""
    ema_every: int = 1
    """Update the average only once in this many steps."""
    ema_start: float = 0.0
    """Share of the steps before which the average is the newest parameters, so that it forgets the first ones."""
    lookahead: int = 0
    """Update the average only once in this many steps, and train on from it; its decay rises to --ema-decay. 0 for
    never."""
    log_every: int = 20
    """Steps per line in metrics.jsonl."""
    eval_every: int = 0
    """Steps between evaluations, each with a checkpoint; 0: only at the end. They use the validation part, or the test
    split if there is none."""
    validation: float = 0.0
    """Share of the training images held out; they choose the best checkpoint, which the test split then judges."""
    patience: int = 0
    """Stop after this many evaluations in a row without a better result on the validation part; 0 for never."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    profile: int = 0
    """Trace this many steps (dispatches, with --steps-per-dispatch) into the run's folder `profile`; 0 for none."""
    debug_nans: bool = False
    """When a step gives a loss or gradient that is not finite, name the first layer that met one. It takes time."""
    max_skipped: int = 0
    """How many steps in a row may be skipped because their loss or gradient is not finite; one more ends the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.seed < 2**32, "seed", self.seed, "in [0, 2**32)")
        for name in ("accumulate", "log_every", "checkpoint_every", "steps_per_dispatch", "ema_every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("eval_every", "workers", "weight_decay", "base_learning_rate", "max_skipped", "lookahead",
                     "profile"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.epochs > 0, "epochs", self.epochs, "more than 0")
        require(self.minutes is None or self.minutes > 0, "minutes", self.minutes, "more than 0")
        for name in ("momentum", "b1", "b2"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, name, value, "in [0, 1)")
        require(self.bias_rate > 0, "bias_rate", self.bias_rate, "more than 0")
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
        require(0 <= self.ema_start < 1, "ema_start", self.ema_start, "in [0, 1)")
        for name, none in (("ema_every", 1), ("ema_start", 0), ("lookahead", 0)):
            value = getattr(self, name)
            require(value == none or self.ema_decay is not None, name, value, f"{none} without --ema-decay")
        for name, none in (("ema_every", 1), ("ema_start", 0)):
            value = getattr(self, name)
            require(value == none or not self.lookahead, name, value, f"{none} with --lookahead")
        if self.parallel == "pmap" and (self.mesh or self.shard != "none"):
            raise ConfigError("--parallel pmap holds everything on every device: leave --mesh and --shard out")
        require(self.parallel == "jit" or not self.resident, "resident", self.resident, "False with --parallel pmap")
        together = self.steps_per_dispatch
        require(not self.debug_nans or (together == 1 and not self.scan), "debug_nans", self.debug_nans,
                "False with --steps-per-dispatch or --scan")
        require(self.parallel == "jit" or together == 1, "steps_per_dispatch", together, "1 with --parallel pmap")
        for name in ("log_every", "checkpoint_every", "eval_every"):
            every = getattr(self, name)
            require(every % together == 0, "steps_per_dispatch", together,
                    f"a divisor of --{name.replace('_', '-')} {every}")

    def total_steps(self, records: int) -> int:
        """Optimizer steps of the run on a training set of `records` images."""
        return self.steps or max(1, round(self.epochs * records / self.batch_size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreprocessingOptions:
    """What images become before the network sees them; by default as the weights were trained, or ImageNet's."""

    mean: tuple[float, ...] | None = None
    """Means of the channels of pixels in [0, 1], which are taken away. By default those of the weights; without weights
    those of ImageNet for 8-bit RGB, and for other images those that are measured on the training part."""
    std: tuple[float, ...] | None = None
    """Deviations of the channels, by which the rest is divided; defaults as for the means."""
    crop: float | None = None
    """In evaluations, the central share of a resized image that is seen; by default that of the weights, or 0.875."""
    interpolation: Literal["bicubic", "bilinear"] | None = None
    """How images are resized in evaluations; by default that of the weights, or bicubic."""


@dataclasses.dataclass(frozen=True)
class ContinuedConfig(TrainingConfig):
    """Learnt weights from which a pre-training goes on."""

    pretrained: str | None = None
    """Go on from a weight file, hf-hub:OWNER/NAME, or the folder of a run: supervised, MAE, DINO or SimSiam. What they
    lack starts fresh: the heads, an MAE's decoder."""
    head_warmup_epochs: float = 1.0
    """With --pretrained: epochs at the start in which only what is fresh learns."""
    backbone_rate: float = 1.0
    """With --pretrained: learning rate of what is learnt already, relative to the rest's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.head_warmup_epochs >= 0, "head_warmup_epochs", self.head_warmup_epochs, "0 or more")
        require(self.backbone_rate > 0, "backbone_rate", self.backbone_rate, "more than 0")
        for name in ("head_warmup_epochs", "backbone_rate"):
            value = getattr(self, name)
            require(self.pretrained is not None or value == getattr(ContinuedConfig, name), name, value,
                    "left out without --pretrained")


RUN_DATA = "run"  # --data: what the run that is read learnt from
RunData = Mark(help=f"By default ({RUN_DATA}) the data that the run of --checkpoint learnt from. {IMAGES.help}",
               check=lambda spec: spec == RUN_DATA or IMAGES.find(spec))
Options = TypeVar("Options", bound=DataConfig)


def on_data_of(config: Options, learnt: Mapping[str, Any]) -> Options:
    """The configuration on the data that a run learnt from, if it asks for `--data run`.

    learnt: the configuration of that run, {} for published weights. ConfigError if it does not say.
    """
    if config.data != RUN_DATA:
        return config
    if "data" not in learnt:
        raise ConfigError(f"--data {RUN_DATA}: these weights do not say what they learnt from; give --data")
    return dataclasses.replace(
        config, data=learnt["data"], data_cache=config.data_cache or learnt.get("data_cache", False),
        channels=learnt.get("channels") if config.channels is None else config.channels)


class NetworkOptions(Protocol):
    """The options that describe a network; every configuration that trains a network by its name has them."""

    @property
    def model(self) -> str: ...
    @property
    def model_fields(self) -> tuple[str, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def remat(self) -> str: ...
    @property
    def scan(self) -> bool: ...
    @property
    def attention(self) -> str: ...


def require(holds: bool, name: str, value: Any, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"--{name.replace('_', '-')} {value}: it must be {allowed}")


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """Within this context, a ValueError whose one line a user can act on becomes a ConfigError that names flags."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(with_flags(str(error))) from None


def with_flags(message: str) -> str:
    """A message about parameters in the words of the command line: `batch_size 3` becomes `--batch-size 3`.

    Options of a training are recognised at the start of the message, and elsewhere when their names have an underscore.
    """
    names = {field.name for field in dataclasses.fields(TrainingConfig)}

    def flag(word: re.Match[str]) -> str:
        name = word[0]
        is_option = name in names and ("_" in name or word.start() == 0)
        return f"--{name.replace('_', '-')}" if is_option else name

    return re.sub(r"(?<![\w/.-])\w+(?![\w/.])", flag, message)


# Where and whether a run is written, not what it computes.
PLACE = ("run_dir", "overwrite", "dry_run", "coordinator_address", "num_processes", "process_id", "coordinator_timeout")

STARTED = "started"  # in config.json, beside the fields: how the run was started last, see `RunFolder`

# What may change when a run is resumed.
FREE = (STARTED, "workers", "log_every", "data_max_bad", "parallel", "mesh", "shard", "checkpoint_every",
        "resident", "steps_per_dispatch", "profile", "debug_nans")


def as_json(config: Any) -> dict[str, Any]:
    """The fields that define a run, as JSON."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config) if f.name not in PLACE}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(map(_plain, value)) if isinstance(value, tuple) else value
