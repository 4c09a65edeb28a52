"""Judge trained classifiers or regressors on a data set.

    python -m experiments.evaluate --checkpoint runs/supervised/digits
    python -m experiments.evaluate --checkpoint runs/supervised/a runs/supervised/b --data folder:PATH

It writes numbers, tables and pictures. The answers of several runs are averaged.
"""

import dataclasses
from typing import Annotated, Any, Literal

from cvjax.workflow.command import main
from cvjax.workflow.config import RUN_DATA, DataConfig, RunData


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
    """Evaluation of supervised runs."""

    data: Annotated[str, RunData] = RUN_DATA
    checkpoint: tuple[str, ...] = ("runs/supervised/digits",)
    """Run folders; the answers of several are averaged."""
    step: Literal["judged", "best", "latest"] = "judged"
    """Which of their checkpoints. judged: the best on the validation part, or the last if there was no such part."""
    part: Literal["train", "test"] = "test"
    """Which split of the data."""


PRESETS: dict[str, dict[str, Any]] = {"run": {}}


if __name__ == "__main__":
    main("experiments.evaluate", "experiments.wiring.evaluate")
