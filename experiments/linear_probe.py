"""A linear probe: softmax regression on frozen, standardised features (He et al. 2022, app. A.1).

Learning rate and weight decay are chosen on a held-out part of the training set, never on the test set.

    python -m experiments.linear_probe --checkpoint runs/mae_pretrain/digits
"""

import dataclasses
from typing import Any

from cvjax.experiment.config import main, require
from cvjax.experiment.frozen import FrozenConfig, run_frozen


@dataclasses.dataclass(frozen=True)
class Config(FrozenConfig):
    """Linear probe of a pre-trained encoder."""

    epochs: int = 100
    """Passes over the features, in the sweep and in the final fit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")


PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(data="digits"),
    "cifar10": dict(data="folder:cifar10", data_cache=True, epochs=50),
}


def run(config: Config, name: str, stop: Any) -> None:
    """Extract features, sweep, fit, report."""
    run_frozen("linear_probe", config, name, knn=False, epochs=config.epochs)


if __name__ == "__main__":
    main(run, "linear_probe", Config, PRESETS, __doc__)
