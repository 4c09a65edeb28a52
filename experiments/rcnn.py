"""Train R-CNN or SPP-net: SVMs on features of regions.

R-CNN warps each region and runs the network on it. SPP-net computes the convolutions once and pools each region from
their map. The default detects painted digits and needs no network access: a small network is trained on warped regions
(R-CNN's fine-tuning), and both methods use its features. For trained weights: `--checkpoint` with a run of
experiments.supervised, or `--model alexnet --weights FILE`.
"""

import dataclasses
from typing import Annotated, Any, Literal

from cvjax.data.forms import BOXES
from cvjax.workflow.command import main
from cvjax.workflow.config import DataConfig, PreprocessingOptions, require
from cvjax.workflow.options import Mark


@dataclasses.dataclass(frozen=True)
class Config(PreprocessingOptions, DataConfig):
    """Regions, the network that describes them, and the training on its features."""

    data: Annotated[str, Mark(help=BOXES.help, check=BOXES.find)] = "scenes"
    seed: int = 0
    """Seed of the network, its training regions and the classifiers."""
    batch_size: int = 64
    """Regions per step of the network's training, if it is trained here."""
    methods: tuple[Literal["rcnn", "sppnet"], ...] = ("rcnn", "sppnet")
    """One or both; sppnet needs a network that pools regions."""
    canvas: tuple[int, int] = (96, 96)
    """Height and width of the canvas that pictures are fitted into."""
    training_pictures: int = 300
    """Greatest number of training pictures, evenly spaced."""
    test_pictures: int = 150
    """Greatest number of test pictures, evenly spaced."""
    proposals: Literal["fast", "quality"] = "fast"
    """Mode of selective search."""
    max_proposals: int = 500
    """Greatest number of regions in a picture."""
    max_boxes: int = 64
    """Training sees at most this many objects of a picture."""
    checkpoint: str | None = None
    """The network: a run of experiments.supervised."""
    model: str | None = None
    """The network: a name from list_models(), with --weights. Without --checkpoint or --model it is trained here."""
    weights: str | None = None
    """Its weights: a file (.pth, .safetensors) or hf-hub:OWNER/NAME; FILE#PART for another of its networks, such as
    state_dict_ema."""
    model_fields: tuple[str, ...] = ()
    """Fields of the network to change, such as image_size=64."""
    epochs: float = 12.0
    """Epochs of the network's training on warped regions, if it is trained here."""
    regions_per_picture: int = 16
    """Regions of a picture in that training; at most half of them show objects."""
    context: int = 2
    """How many pixels of the network's input lie around a warped region, on each side; 16 of 227 in the paper."""
    chunk: int = 64
    """Regions that go through R-CNN's network together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.seed < 2**32, "seed", self.seed, "in [0, 2**32)")
        require(len(self.methods) > 0, "methods", self.methods, "one or both of rcnn and sppnet")
        require(min(self.canvas) >= 1, "canvas", self.canvas, "HEIGHT WIDTH of at least 1")
        for name in ("training_pictures", "test_pictures", "max_proposals", "max_boxes", "chunk"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.regions_per_picture >= 2, "regions_per_picture", self.regions_per_picture, "at least 2")
        require(self.context >= 0, "context", self.context, "0 or more")
        require(self.epochs > 0, "epochs", self.epochs, "more than 0")
        require(self.weights is None or self.checkpoint is None, "weights", self.weights, "left out with --checkpoint")
        require((self.weights is None) == (self.model is None), "model", self.model,
                "given with --weights, and only then")
        require(self.checkpoint is None or not self.model_fields, "model_fields", self.model_fields,
                "left out with --checkpoint")


PRESETS: dict[str, dict[str, Any]] = {
    "scenes": dict(),
    # Girshick et al. 2014 without fine-tuning, with published weights of a classifier: --weights FILE.
    "voc_rcnn": dict(data="voc:VOC2007", methods=("rcnn",), canvas=(500, 500), training_pictures=5011,
                     test_pictures=4952, max_proposals=2000, context=16, chunk=128, model="alexnet",
                     weights="alexnet.pth"),
}


if __name__ == "__main__":
    main("experiments.rcnn", "experiments.wiring.rcnn")
