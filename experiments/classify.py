"""Label your own pictures by a trained classifier.

    python -m experiments.classify cat.jpg dog.png --checkpoint runs/supervised/folder
    python -m experiments.classify cat.jpg --model resnet50 --weights hf-hub:timm/resnet50.a1_in1k

A regressor predicts its numbers instead.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from cvjax.errors import ConfigError
from cvjax.workflow.command import command
from cvjax.workflow.config import PreprocessingOptions, require
from cvjax.workflow.options import Positional


@dataclasses.dataclass(frozen=True)
class Config(PreprocessingOptions):
    """Pictures, and the classifier to ask: --checkpoint, or --model with --weights."""

    images: Annotated[tuple[Path, ...], Positional]
    """Image files (JPEG, PNG, WebP, GIF, BMP, TIFF)."""
    checkpoint: tuple[str, ...] = ()
    """The folder of a supervised run; the answers of several runs are averaged."""
    model: str | None = None
    """A name from list_models()."""
    weights: str | None = None
    """Its weights: a .safetensors or .pth file, or hf-hub:OWNER/NAME."""
    model_fields: tuple[str, ...] = ()
    """Fields of that model to change, such as num_classes=21843."""
    image_size: int | None = None
    """Side of the images that it sees; by default the size its weights are judged on, or the model's own."""
    class_names: Path | None = None
    """A text file with the name of a class on each line; only with --weights."""
    top: int = 5
    """How many classes or labels per picture, the likeliest first. Of numbers all are printed."""
    threshold: float | None = None
    """Print all classes or labels of at least this probability, instead of --top."""
    figure: Path | None = None
    """Draw the regions that each answer rests on into this PNG; only for a single classifier."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ConfigError("no images given")
        if bool(self.checkpoint) == bool(self.model or self.weights) or bool(self.model) != bool(self.weights):
            raise ConfigError("give --checkpoint, or --model with --weights")
        require(self.class_names is None or bool(self.weights), "class_names", self.class_names,
                "left out with --checkpoint, which knows its classes")
        for name in ("model_fields", "image_size"):
            value = getattr(self, name)
            require(bool(self.weights) or not value, name, value, "left out with --checkpoint")
        require(self.image_size is None or self.image_size >= 1, "image_size", self.image_size, "at least 1")
        require(self.top >= 1, "top", self.top, "at least 1")
        require(self.threshold is None or 0 <= self.threshold <= 1, "threshold", self.threshold, "in [0, 1]")
        require(self.figure is None or len(self.checkpoint) <= 1, "figure", self.figure, "left out for an ensemble")
        require(self.figure is None or self.figure.parent.is_dir(), "figure", self.figure, "in a folder that exists")


if __name__ == "__main__":
    command("experiments.classify", "experiments.wiring.classify")
