"""Keep the features of a data set for your own analyses.

    python -m experiments.embed --checkpoint runs/dino_pretrain/folder
    python -m experiments.embed --data folder:PHOTOS --model vit_small_patch16_224 --weights FILE --projector

The run's folder gets `features.npy`, float32 with a row for each readable picture, and `rows.csv` with the part, file
and class of each row; with --format parquet one file of both, `features.parquet`. A command that was stopped goes on
where it was. `experiments.knn --features RUN` finds neighbours by the file and gives the numbers that it gives by the
network.
"""

import dataclasses
from typing import Any, Literal

from cvjax.workflow.command import main
from cvjax.workflow.frozen.options import FrozenConfig


@dataclasses.dataclass(frozen=True)
class Config(FrozenConfig):
    """Keeping features."""

    format: Literal["npy", "parquet"] = "npy"
    """parquet: one table of part, file, label, class and features, for pandas and the like; it needs pyarrow."""
    projector: bool = False
    """Also write what TensorBoard's projector shows: `tensorboard --logdir RUN/projector`."""


PRESETS: dict[str, dict[str, Any]] = {"run": dict()}


if __name__ == "__main__":
    main("experiments.embed", "experiments.wiring.embed")
