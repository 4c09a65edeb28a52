"""Compare finished runs in a table and a plot.

    python -m experiments.compare runs/knn/run runs/knn/run-seed=1 runs/dino_pretrain/digits
    python -m experiments.compare runs/*/digits --metrics 'knn/*' test/loss --output pictures/digits

Of `runs/*/*`, what is unfinished or no run is left out and named.

The table is Markdown. Columns are metrics, and all numbers of a column have one protocol. The encoder's name is not
part of a column's: `knn` holds the number of each run's own encoder, and `knn/random` and `knn/pixels` hold its
baselines. Runs that differ only in the seed (their own, or that of the run they started from) share one row: mean ±
standard deviation.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from cvjax.errors import ConfigError
from cvjax.workflow.command import command
from cvjax.workflow.options import Positional


@dataclasses.dataclass(frozen=True)
class Config:
    """Which runs, and which of their numbers."""

    runs: Annotated[tuple[Path, ...], Positional]
    """Run folders."""
    metrics: tuple[str, ...] = ()
    """Names of metrics or columns, with wildcards; by default the headlines, such as knn and test/top1."""
    mix_protocols: bool = False
    """Put numbers of different protocols into one column all the same, and mark it."""
    output: Path = Path("comparison")
    """The files OUTPUT.md and OUTPUT.png are written."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("no runs given")


if __name__ == "__main__":
    command("experiments.compare", "experiments.wiring.compare")
