"""What a training takes on devices that are not here: memory, traffic and time per step, from shapes and stated rates.

`python -m experiments.plan --device h100 --devices 64 supervised deit_small --shard fsdp`: the plan's own options come
first, then an experiment with its preset and options. Nothing is computed or written; data sets that a preset names are
taken for as many blank pictures as ImageNet has (with label maps or boxes: scenes of digits), unless --data is given.
`--lower tpu cuda rocm` also lowers the step.
"""

import dataclasses
import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from cvjax.experiment.config import ConfigError, command, parse, require

EXPERIMENTS = ("supervised", "mae_pretrain", "dino_pretrain", "finetune", "linear_probe", "segment", "detect")
BLANK = dict.fromkeys(("segment", "detect"), "scenes:256,1,32")  # what stands for a preset's data set
IMAGENET = "blank:1281167,256,1000"


@dataclasses.dataclass(frozen=True)
class Config:
    """A training on devices that are not here."""

    device: Literal["a100", "h100", "h200", "b200", "mi300x", "tpu_v4", "tpu_v5e", "tpu_v5p", "tpu_v6e"] = "h100"
    """Whose rates to reckon with."""
    devices: int = 8
    """How many of them."""
    efficiency: float = 0.4
    """Share of the peak that a step's arithmetic reaches; 0.3 to 0.5 is what good code does."""
    lower: tuple[Literal["cpu", "tpu", "cuda", "rocm"], ...] = ()
    """Also lower the step for these platforms, whose devices need not be here."""

    def __post_init__(self) -> None:
        require(self.devices >= 1, "devices", self.devices, "at least 1")
        require(0 < self.efficiency <= 1, "efficiency", self.efficiency, "in (0, 1]")


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The plan's own arguments, and those from the experiment's name on; ConfigError without one."""
    for position, word in enumerate(arguments):
        if word in EXPERIMENTS:
            return list(arguments[:position]), list(arguments[position:])
    raise ConfigError(f"which training? Give one of {', '.join(EXPERIMENTS)}, after the plan's own options")


def prepare(experiment: str, arguments: Sequence[str]) -> Any:
    """The `Prepared` of a training command, by a dry run of it."""
    from cvjax.experiment.training import dry_run
    from cvjax.train.preemption import StopRequest

    module = importlib.import_module(f"experiments.{experiment}")
    config, name = parse(experiment, module.Config, module.PRESETS, module.__doc__, arguments)
    given = {argument.split("=")[0] for argument in arguments}
    if config.data.partition(":")[0] in ("tfds", "folder", "voc", "coco") and "--data" not in given:
        config = dataclasses.replace(config, data=BLANK.get(experiment, IMAGENET), data_cache=False)
    found: list[Any] = []
    token = dry_run.set(found.append)
    try:
        # What a run of this name is or has is no matter of a plan; nor does a plan tell pmap from jit.
        with tempfile.TemporaryDirectory() as nowhere:
            module.run(dataclasses.replace(config, dry_run=True, parallel="jit", run_dir=Path(nowhere) / name), name,
                       StopRequest())
    finally:
        dry_run.reset(token)
    if not found:
        raise ConfigError(f"{experiment}: this command trains no network step by step, there is nothing to plan")
    return found[0]


def run(config: Config, experiment: str, arguments: Sequence[str]) -> None:
    """Print the plan."""
    from cvjax.experiment.config import config_errors
    from cvjax.experiment.lowering import lower_step
    from cvjax.experiment.planning import DEVICES, make_plan, plan_table
    from cvjax.experiment.training import make_layout

    prepared = prepare(experiment, arguments)
    with config_errors():
        layout = make_layout(prepared.config, config.devices)
        plan = make_plan(prepared, layout, DEVICES[config.device], config.efficiency)
    print(plan_table(plan, config.device, config.efficiency, prepared.config.batch_size))
    if config.lower:
        exported = lower_step(prepared, config.lower)
        print(f"lowered for {', '.join(config.lower)}: {len(exported.mlir_module_serialized):,} bytes of StableHLO")


if __name__ == "__main__":
    try:
        own, rest = split_arguments(sys.argv[1:] if {"--help", "-h"}.isdisjoint(sys.argv) else ["--help", "supervised"])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = own
    command(lambda config: run(config, rest[0], rest[1:]), "plan", Config, __doc__)
