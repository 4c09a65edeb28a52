"""Run a stated result again, and compare.

    python -m experiments.reproduce                          # lists the results that there are
    python -m experiments.reproduce mae_digits --seeds 0 1 2

docs/results/NAME/ holds the summaries that a result rests on, a file for each seed, with command, commit and machine.
The same command is run here with other seeds or the same ones, and its numbers are set beside them. Runs that are
complete are not run again.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from cvjax.workflow.command import command
from cvjax.workflow.config import require
from cvjax.workflow.options import Positional


@dataclasses.dataclass(frozen=True)
class Config:
    """Which results, and with which seeds."""

    names: Annotated[tuple[str, ...], Positional] = ()
    """Names of results; without any they are listed."""
    seeds: tuple[int, ...] = (0,)
    """A run for each."""
    output: Path = Path("runs/reproduce")
    """The folder of the runs, OUTPUT/NAME/seed-S."""
    store: bool = False
    """Write the summaries of these runs into docs/results, as the ones that the result rests on from now on, and a
    picture of the first seed."""

    def __post_init__(self) -> None:
        require(len(set(self.seeds)) == len(self.seeds) > 0, "seeds", self.seeds, "one or more different numbers")


if __name__ == "__main__":
    command("experiments.reproduce", "experiments.wiring.reproduce")
