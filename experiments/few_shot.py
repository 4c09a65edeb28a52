"""Judge features by a few labelled images per class.

Ridge regression on frozen features. The accuracy is the mean over several draws of these images, with its standard
deviation.

As in Big Vision's few-shot evaluation (Dosovitskiy et al. 2021, sec. 4.1); see `cvjax.evaluate.few_shot`.

    python -m experiments.few_shot --checkpoint runs/mae_pretrain/digits
"""

import dataclasses
from typing import Any

from cvjax.workflow.command import main
from cvjax.workflow.config import require
from cvjax.workflow.frozen.options import FrozenConfig


@dataclasses.dataclass(frozen=True)
class Config(FrozenConfig):
    """Few-shot classification on a pre-trained encoder."""

    shots: tuple[int, ...] = (1, 5, 10)
    """Training images per class."""
    draws: int = 5
    """How many times these images are drawn anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.shots) > 0 and min(self.shots) >= 1, "shots", self.shots, "one or more numbers of at least 1")
        require(self.draws >= 2, "draws", self.draws, "at least 2, for a standard deviation")


PRESETS: dict[str, dict[str, Any]] = {
    "run": dict(),
    "cifar10": dict(data="folder:cifar10", data_cache=True),
}


if __name__ == "__main__":
    main("experiments.few_shot", "experiments.wiring.few_shot")
