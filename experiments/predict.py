"""Ask a trained network about your own pictures.

    python -m experiments.predict cat.jpg dog.png --checkpoint runs/supervised/folder
    python -m experiments.predict PHOTOS clip.mp4 --checkpoint runs/detect/scenes --output found
    python -m experiments.predict cat.jpg --model resnet50 --weights hf-hub:timm/resnet50.a1_in1k

The answers are classes, labels, numbers, objects, or a class for each pixel. Without --output they are printed. With
it, they are written to OUTPUT/predictions.jsonl, predictions.csv and, of segmented pictures, label_maps/; OUTPUT/drawn/
has copies of the pictures with the answers on them.

In Python, `cvjax.workflow.prediction.predictor.load(RUN)("cat.jpg")` gives the same numbers.
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
    """Pictures, and the network to ask: --checkpoint, or --model with --weights."""

    images: Annotated[tuple[str, ...], Positional]
    """Image files (JPEG, PNG, WebP, GIF, BMP, TIFF), folders of them, patterns such as "photos/*.jpg", and videos."""
    checkpoint: tuple[str, ...] = ()
    """The folder of a run: supervised, finetune, segment or detect. The answers of several classifiers are averaged."""
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
    output: Path | None = None
    """The folder to write to."""
    draw: bool = True
    """Draw copies of the pictures into --output."""
    top: int | None = None
    """How many names of a picture are reported, by default the 5 likeliest; or how many objects, by default all. Of
    numbers all are."""
    threshold: float | None = None
    """Report all classes or labels of at least this probability instead. Of objects, report those of at least this
    score; by default the one at which their class had its best F1 in the run's test, or 0.3."""
    every: int = 1
    """Of a video, take each frame whose number this divides."""
    batch_size: int | None = None
    """Pictures that go through the network together; by default 8, or as many as there are. The call in Python with the
    same batch size gives the same bits."""
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
        for name in ("image_size", "top", "every", "batch_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")
        require(self.threshold is None or 0 <= self.threshold <= 1, "threshold", self.threshold, "in [0, 1]")
        require(self.figure is None or len(self.checkpoint) <= 1, "figure", self.figure, "left out for an ensemble")
        require(self.figure is None or self.figure.parent.is_dir(), "figure", self.figure, "in a folder that exists")


if __name__ == "__main__":
    command("experiments.predict", "experiments.wiring.predict")
