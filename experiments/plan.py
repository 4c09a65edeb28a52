"""Estimate a training's memory and time on other devices.

`python -m experiments.plan --device h100 --devices 64 supervised deit_small --shard fsdp`: the plan's own options come
first, then an experiment with its preset and options. Nothing is computed or written. Memory is what the device's
own compiler needs, where that is installed (`pip install ".[compile-gpu]"` or `".[compile-tpu]"`), and else reckoned
from the step's trace, mostly within 15 % of it. Unless --data is given, a
preset's data set on disk is replaced by as many blank pictures as ImageNet has (CIFAR-10 by as many as it has; for
segment and detect: by scenes of digits). `--lower tpu cuda rocm` also lowers the step.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Literal

from cvjax.errors import ConfigError
from cvjax.spelling import nearest
from cvjax.workflow.command import command
from cvjax.workflow.config import require
from cvjax.workflow.help import asks_for_help

EXPERIMENTS = ("supervised", "distill", "mae_pretrain", "dino_pretrain", "simsiam_pretrain", "finetune",
               "linear_probe", "segment", "detect")


@dataclasses.dataclass(frozen=True)
class Config:
    """A training on devices that are not here."""

    device: Literal["t4", "l4", "a100", "h100", "h200", "b200", "mi300x", "tpu_v2", "tpu_v3", "tpu_v4", "tpu_v5e",
                    "tpu_v5p", "tpu_v6e"] = "h100"
    """The device whose rates and memory are used; of tpu_v2 and tpu_v3 one core, two of which are a chip."""
    devices: int = 8
    """Number of devices."""
    efficiency: float = 0.4
    """Share of the peak that a step's arithmetic reaches; good code reaches 0.3 to 0.5."""
    compile: bool | None = None
    """Ask the device's own compiler for the memory instead of reckoning it; by default if it is installed. It takes
    half a minute for a GPU, several for a TPU."""
    lower: tuple[Literal["cpu", "tpu", "cuda", "rocm"], ...] = ()
    """Also lower the step for these platforms, whose devices need not be here."""

    def __post_init__(self) -> None:
        require(self.devices >= 1, "devices", self.devices, "at least 1")
        require(0 < self.efficiency <= 1, "efficiency", self.efficiency, "in (0, 1]")


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The plan's own arguments, and those that start with the experiment's name; ConfigError if no experiment is named.
    """
    for position, word in enumerate(arguments):
        if word in EXPERIMENTS:
            return list(arguments[:position]), list(arguments[position:])
    for word in arguments:
        if not word.startswith("-") and (near := nearest(word, EXPERIMENTS, most=1)):
            raise ConfigError(f"unknown training {word!r}: did you mean {near[0]}?")
    raise ConfigError(f"which training? Give one of {', '.join(EXPERIMENTS)}, after the plan's own options")


if __name__ == "__main__":
    try:
        wanted = [word for word in sys.argv[1:] if asks_for_help([word])]
        own, training = split_arguments([*wanted, "supervised"] if wanted else sys.argv[1:])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    command("experiments.plan", "experiments.wiring.plan", own, training=training)
