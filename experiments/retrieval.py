"""Judge features by finding images of the same class.

    python -m experiments.retrieval --checkpoint runs/mae_pretrain/digits
    python -m experiments.retrieval --data folder:PATH --model vit_small_patch16_224 --weights FILE

It reports mean average precision and precision at 1, 5 and 10, and draws `figures/neighbours.png`: queries beside the
training images that are most similar to them.
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
    main("experiments.retrieval", "experiments.wiring.retrieval")
