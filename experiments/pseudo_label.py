"""Label images of which a trained classifier is sure.

    python -m experiments.pseudo_label --checkpoint runs/supervised/folder --images PATH --output labels.csv
    python -m experiments.supervised folder --data folder:PATH --pseudo-labels labels.csv

Lee 2013 (Pseudo-Label); with a threshold as in FixMatch (Sohn et al. 2020, https://arxiv.org/abs/2001.07685).
"""

import dataclasses
from pathlib import Path

from cvjax.errors import ConfigError
from cvjax.workflow.command import command
from cvjax.workflow.config import require


@dataclasses.dataclass(frozen=True)
class Config:
    """Which images, which classifier, and how sure it must be."""

    checkpoint: tuple[str, ...]
    """Run folders of supervised training; the class probabilities of several are averaged."""
    images: Path
    """A folder of images, searched to any depth; the names of its subfolders are ignored."""
    output: Path
    """The CSV file to write: file, label, probability."""
    threshold: float = 0.95
    """A label is kept if its probability is at least this."""
    batch_size: int = 64
    """Images that are labelled at once."""

    def __post_init__(self) -> None:
        require(0 <= self.threshold <= 1, "threshold", self.threshold, "in [0, 1]")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.output.parent.is_dir() and not self.output.is_dir(), "output", self.output,
                "a file in a folder that exists")
        if not self.checkpoint:
            raise ConfigError("--checkpoint: give at least one run folder")


if __name__ == "__main__":
    command("experiments.pseudo_label", "experiments.wiring.pseudo_label")
