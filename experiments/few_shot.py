"""A handful of labels per class: ridge regression on frozen features, mean and deviation over draws of the examples.

As in Big Vision's few-shot evaluation (Dosovitskiy et al. 2021, sec. 4.1); see `cvjax.evaluate.few_shot`.

    python -m experiments.few_shot --checkpoint runs/mae_pretrain/digits
"""

import dataclasses
from typing import Any

from cvjax.experiment.config import main, require
from cvjax.experiment.frozen import FrozenConfig, run_frozen


@dataclasses.dataclass(frozen=True)
class Config(FrozenConfig):
    """Few-shot classification on a pre-trained encoder."""

    shots: tuple[int, ...] = (1, 5, 10)
    """Training images per class."""
    draws: int = 5
    """How often to draw them anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.shots) > 0 and min(self.shots) >= 1, "shots", self.shots, "one or more numbers from 1 on")
        require(self.draws >= 2, "draws", self.draws, "at least 2, to have a deviation")


PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(data="digits"),
    "cifar10": dict(data="folder:cifar10", data_cache=True),
}


def run(config: Config, name: str, stop: Any) -> None:
    """Extract features, draw, fit, report."""
    run_frozen("few_shot", config, name, linear=False, knn=False, shots=config.shots, draws=config.draws)


if __name__ == "__main__":
    main(run, "few_shot", Config, PRESETS, __doc__)
