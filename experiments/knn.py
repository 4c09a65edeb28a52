"""Judge features by the nearest neighbours of test images.

    python -m experiments.knn --checkpoint runs/mae_pretrain/digits
    python -m experiments.knn --features runs/embed/NAME                 # those that experiments.embed has kept

Weighted kNN on frozen features (Caron et al. 2021, sec. 4.1): k of 10, 20, 100, 200, temperature 0.07.
"""

import dataclasses
from pathlib import Path
from typing import Any

from cvjax.workflow.command import main
from cvjax.workflow.config import RUN_DATA, require
from cvjax.workflow.frozen.options import NeighbourConfig


@dataclasses.dataclass(frozen=True)
class Config(NeighbourConfig):
    """Neighbours by frozen features, or by those of a run of experiments.embed."""

    features: Path | None = None
    """The run folder of experiments.embed, in place of an encoder and of data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features is not None:
            for name in ("checkpoint", "weights", "pool"):
                require(getattr(self, name) is None, name, getattr(self, name), "left out with --features")
            require(self.data == RUN_DATA, "data", self.data, "left out with --features")


PRESETS: dict[str, dict[str, Any]] = {
    "run": dict(),
    "cifar10": dict(data="folder:cifar10", data_cache=True),
}


if __name__ == "__main__":
    main("experiments.knn", "experiments.wiring.knn")
