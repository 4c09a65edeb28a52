"""Judge features by the nearest neighbours of test images.

    python -m experiments.knn --checkpoint runs/mae_pretrain/digits

Weighted kNN on frozen features (Caron et al. 2021, sec. 4.1): k of 10, 20, 100, 200, temperature 0.07.
"""

from typing import Any

from cvjax.workflow.command import main
from cvjax.workflow.frozen.options import NeighbourConfig

Config = NeighbourConfig

PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(data="digits"),
    "cifar10": dict(data="folder:cifar10", data_cache=True),
}


if __name__ == "__main__":
    main("experiments.knn", "experiments.wiring.knn")
