"""Write the page of a run again, or one page that compares all runs below a folder.

    python -m experiments.report runs                        # writes runs/index.html
    python -m experiments.report runs/supervised/digits      # writes runs/supervised/digits/report.html again

The page of all runs has a table for each protocol: numbers that were measured by different ones never share a column,
and runs that differ only in the seed share a row, mean ± standard deviation.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from cvjax.workflow.command import command


@dataclasses.dataclass(frozen=True)
class Config:
    """Which run, or where the runs are."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("runs")
    """The folder of one run, or a folder with runs at any depth, on this machine."""


if __name__ == "__main__":
    command("experiments.report", "experiments.wiring.report")
