"""Average the parameters of trained networks (a model soup).

    python -m experiments.average runs/supervised/a runs/supervised/b runs/supervised/c
    python -m experiments.average runs/supervised/* --how greedy

The runs must have the same network, data and preprocessing, and should have started from the same weights; they may
differ in the seed, learning rate or augmentation. The result is a run like any other, which evaluate, predict,
supervised --pretrained and push read. Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.
"""

import dataclasses
import os
from typing import Annotated, Literal

from cvjax.storage import is_address
from cvjax.workflow.command import command
from cvjax.workflow.config import RUN_DATA, DataConfig, RunData, require
from cvjax.workflow.options import Positional


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
    """Which runs, and how they are averaged."""

    data: Annotated[str, RunData] = RUN_DATA
    runs: Annotated[tuple[str, ...], Positional] = ()
    """Folders of at least two runs of supervised or finetune."""
    how: Literal["uniform", "greedy"] = "uniform"
    """uniform: all runs. greedy: from the best on the validation part on, each one that does not make the mean worse
    there. The runs must have been trained with the same --validation; the test split is never asked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.runs) >= 2, "runs", " ".join(self.runs) or "none", "the folders of at least two")
        places = [run if is_address(run) else os.path.realpath(run) for run in self.runs]
        twice = [run for i, run in enumerate(self.runs) if places[i] in places[:i]]
        require(not twice, "runs", twice[0] if twice else "", "given once")


if __name__ == "__main__":
    command("experiments.average", "experiments.wiring.average")
