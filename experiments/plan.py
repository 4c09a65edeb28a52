"""Estimate the memory, traffic and time of a training step on devices that are not here, from shapes and makers' rates.

`python -m experiments.plan --device h100 --devices 64 supervised deit_small --shard fsdp`: the plan's own options come
first, then an experiment with its preset and options. Nothing is computed or written. Unless --data is given, a
preset's data set on disk is replaced by as many blank pictures as ImageNet has (for segment and detect: by scenes of
digits). `--lower tpu cuda rocm` also lowers the step.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Literal

from cvjax.errors import ConfigError
from cvjax.workflow.command import command
from cvjax.workflow.config import require

EXPERIMENTS = ("supervised", "mae_pretrain", "dino_pretrain", "simsiam_pretrain", "finetune", "linear_probe", "segment",
               "detect")


@dataclasses.dataclass(frozen=True)
class Config:
    """A training on devices that are not here."""

    device: Literal["a100", "h100", "h200", "b200", "mi300x", "tpu_v4", "tpu_v5e", "tpu_v5p", "tpu_v6e"] = "h100"
    """The device whose rates are used."""
    devices: int = 8
    """Number of devices."""
    efficiency: float = 0.4
    """Share of the peak that a step's arithmetic reaches; good code reaches 0.3 to 0.5."""
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
    raise ConfigError(f"which training? Give one of {', '.join(EXPERIMENTS)}, after the plan's own options")


if __name__ == "__main__":
    try:
        own, training = split_arguments(
            sys.argv[1:] if {"--help", "-h"}.isdisjoint(sys.argv) else ["--help", "supervised"])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    command("experiments.plan", "experiments.wiring.plan", own, training=training)
