"""Judge one trained classifier or regressor, or several averaged, on a data set: numbers, tables and pictures.

    python -m experiments.evaluate --checkpoint runs/supervised/digits
    python -m experiments.evaluate --checkpoint runs/supervised/a runs/supervised/b --data folder:PATH
"""

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from cvjax.workflow.command import main
from cvjax.workflow.config import RUN_DATA, RUN_DATA_HELP, DataConfig


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
    """Evaluation of supervised runs."""

    data: Annotated[str, tyro.conf.arg(help=RUN_DATA_HELP)] = RUN_DATA
    checkpoint: tuple[str, ...] = ("runs/supervised/digits",)
    """Run folders; the answers of several are averaged."""
    step: Literal["judged", "best", "latest"] = "judged"
    """Which of their checkpoints. judged: the best on the validation part, or the last if there was no such part."""
    part: Literal["train", "test"] = "test"
    """Which split of the data."""


PRESETS: dict[str, dict[str, Any]] = {"run": {}}


if __name__ == "__main__":
    main("experiments.evaluate", "experiments.wiring.evaluate")
