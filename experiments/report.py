"""Write a run's page again, or one that compares all runs.

    python -m experiments.report runs                        # writes runs/index.html
    python -m experiments.report runs/supervised/digits      # writes runs/supervised/digits/report.html again

The page of all runs has a table for each protocol: numbers that were measured by different ones never share a column,
and runs that differ only in the seed share a row, mean ± standard deviation.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from cvjax.workflow.command import command
from cvjax.workflow.options import Positional


@dataclasses.dataclass(frozen=True)
class Config:
    """Which run, or where the runs are."""

    folder: Annotated[Path, Positional] = Path("runs")
    """The folder of one run, or a folder with runs at any depth, on this machine."""


if __name__ == "__main__":
    command("experiments.report", "experiments.wiring.report")
