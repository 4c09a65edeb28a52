"""Write a trained network for use without cvjax.

    python -m experiments.export runs/supervised/folder --output DIR
    python -m experiments.export resnet50 --format safetensors --output DIR
    python -m experiments.export runs/supervised/folder --format onnx --preprocessing --output DIR

stablehlo: a program that JAX alone runs, on CPUs, NVIDIA's GPUs and TPUs. onnx: one for ONNX Runtime and others; it
needs `pip install ".[export-onnx]"`. safetensors: the parameters in the names of timm, torchvision or the authors.
Programs take any number of images. Beside them are labels.json, preprocessing.json, export.json with the run's numbers
and their protocol, and how_to_load.md.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from cvjax.workflow.command import command
from cvjax.workflow.config import require
from cvjax.workflow.export.formats import Format
from cvjax.workflow.options import Positional


@dataclasses.dataclass(frozen=True)
class Config:
    """The network, and what it becomes."""

    source: Annotated[str, Positional]
    """The folder of a run, or a name from list_models() with published weights."""
    output: Path
    """The folder to write to, new or empty."""
    format: Format = "stablehlo"
    """What is written, see above."""
    preprocessing: bool = False
    """The program takes pixels uint8 and normalises them itself; otherwise it takes normalised images float32."""
    layout: str | None = None
    """Whose names the parameters get: timm, torchvision or official, where the model has them; only of safetensors."""
    weights: str | None = None
    """Of a model's name, its weights: a .safetensors or .pth file, or hf-hub:OWNER/NAME; by default those of timm."""
    model_fields: tuple[str, ...] = ()
    """Fields of that model to change; num_classes=0 for the features of weights without a head."""
    image_size: int | None = None
    """Side of the images that it sees; by default the size its weights are judged on, or the model's own."""
    class_names: Path | None = None
    """A text file with the name of a class on each line; by default those that come with the weights, or numbers."""

    def __post_init__(self) -> None:
        parameters = self.format == "safetensors"
        require(not (self.preprocessing and parameters), "preprocessing", self.preprocessing,
                "left out of safetensors, which hold no program")
        require(self.layout is None or parameters, "layout", self.layout, "left out of programs")
        require(self.image_size is None or self.image_size >= 1, "image_size", self.image_size, "at least 1")


if __name__ == "__main__":
    command("experiments.export", "experiments.wiring.export")
