"""Measure how a ViT's loss falls with its size and data.

Every rung is a run of `experiments.supervised` for the same number of steps, so a small share of the data is seen more
often. The law is L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, eq. 2,
https://arxiv.org/abs/2203.15556) for N parameters without the head and D training images. With few rungs it describes
these rungs and predicts little beyond them.

    python -m experiments.scaling
"""

import dataclasses
from typing import Any

from cvjax.workflow.command import main
from cvjax.workflow.config import require
from experiments.supervised import Config as SupervisedConfig


@dataclasses.dataclass(frozen=True)
class Config(SupervisedConfig):
    """A ladder of widths and of data shares."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Widths of the ViT; each must be a multiple of its heads."""
    fractions: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    """Shares of the training images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        widths, fractions = set(self.widths), set(self.fractions)
        require(len(widths) >= 2, "widths", self.widths, "at least two different widths")
        require(len(fractions) >= 2 and all(0 < f <= 1 for f in fractions), "fractions", self.fractions,
                "at least two different shares in (0, 1]")
        require(len(widths) * len(fractions) >= 5, "fractions", self.fractions,
                f"more shares with {len(widths)} widths: the law has five unknowns, and these shares make fewer rungs")
        require(self.fraction == 1, "fraction", self.fraction, "left out: --fractions gives the shares")
        require(not self.folds, "folds", self.folds, "left out: every rung is one run")
        require(self.minutes is None, "minutes", self.minutes, "left out: all rungs make the same number of steps")


PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(
        data="digits", model="vit_tiny_patch16_224", model_fields=("patch_size=2", "depth=3", "heads=4"), steps=400,
        batch_size=64, optimizer="adamw", base_learning_rate=8e-3, weight_decay=0.05, warmup=0.1,
        crop_scale=(0.7, 1.0), flip=False, log_every=100),
    "cifar10": dict(
        data="folder:cifar10", data_cache=True, model="vit_tiny_patch16_224",
        model_fields=("patch_size=4", "depth=6", "heads=4"), widths=(32, 64, 128, 256), steps=10000, batch_size=256,
        optimizer="adamw", base_learning_rate=1e-3, weight_decay=0.05, crop_scale=(0.3, 1.0), log_every=100),
}


if __name__ == "__main__":
    main("experiments.scaling", "experiments.wiring.scaling")
