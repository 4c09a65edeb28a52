"""Weighted kNN on frozen features (Caron et al. 2021, sec. 4.1): k of 10, 20, 100, 200, temperature 0.07.

    python -m experiments.knn --checkpoint runs/mae_pretrain/digits
"""

from typing import Any

from cvjax.workflow.command import main
from cvjax.workflow.frozen.options import NeighbourConfig

Config = NeighbourConfig

PRESETS: dict[str, dict[str, Any]] = {
    "run": dict(),
    "cifar10": dict(data="folder:cifar10", data_cache=True),
}


if __name__ == "__main__":
    main("experiments.knn", "experiments.wiring.knn")
