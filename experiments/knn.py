"""Weighted kNN on frozen features (Caron et al. 2021, sec. 4.1): k of 10, 20, 100, 200, temperature 0.07.

    python -m experiments.knn --checkpoint runs/mae_pretrain/digits
"""

from typing import Any

from cvjax.experiment.config import main
from cvjax.experiment.frozen import NeighbourConfig as Config
from cvjax.experiment.frozen import run_frozen

PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(data="digits"),
    "cifar10": dict(data="folder:cifar10", data_cache=True),
}


def run(config: Config, name: str, stop: Any) -> None:
    """Extract features, search neighbours, report."""
    run_frozen("knn", config, name, linear=False)


if __name__ == "__main__":
    main(run, "knn", Config, PRESETS, __doc__)
