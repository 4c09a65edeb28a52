"""Pre-train a backbone by SimSiam, without labels.

The method is that of Chen and He 2021 (https://arxiv.org/abs/2011.10566). A probe of the backbone follows.

The default preset learns the 1,437 embedded digits and needs no network access. For your own photos, in one folder or
in class folders: `python -m experiments.simsiam_pretrain folder --data folder:PATH`. Deviation from the authors'
recipe: the learning rate changes with every step, theirs with every epoch.
"""

import dataclasses
from typing import Any

from cvjax.workflow.classification.options import check_color_jitter
from cvjax.workflow.command import main
from cvjax.workflow.config import ContinuedConfig, require
from cvjax.workflow.frozen.options import Pool


@dataclasses.dataclass(frozen=True)
class Config(ContinuedConfig):
    """SimSiam pre-training."""

    model: str = "resnet50"
    """The backbone, a name from list_models(): a ResNet, a ViT, a Swin."""
    model_fields: tuple[str, ...] = ()
    """Fields of the backbone, such as width=32 or stem=cifar."""
    image_size: int | None = None
    """Side of the views; by default the size of the images, if all have the same."""
    dim: int = 2048
    """Width of projections and predictions."""
    projector_layers: int = 3
    """Layers of the projector."""
    projector_hidden: int = 2048
    """Width of all of these layers but the last."""
    predictor_hidden: int = 512
    """Width of the predictor's hidden layer."""
    constant_predictor_rate: bool = True
    """Keep the predictor's learning rate at the peak from the first step to the last; otherwise it follows
    --schedule too."""
    stop_gradient: bool = True
    """Hold projections constant while they are predicted; otherwise training collapses."""
    squeeze: bool = False
    """Squeeze each picture of a file into a square of 1.5 times the views' side, and crop from that on the device. It
    costs sharpness: in crops of photos the gradients have 0.75 to 0.9 of the energy. By default every view is cropped
    from the picture itself, where it is read."""
    color_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    """Strengths of brightness, contrast, saturation and hue, changed in 80 % of the views."""
    grayscale: float = 0.2
    """Share of the views that lose their colours."""
    blur: float = 0.5
    """Share of the views that are blurred."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Least and greatest standard deviation of the blur, in pixels."""
    stop_on_collapse: bool = False
    """End the run when the projections of different images become alike."""
    collapse_patience: int = 5
    """A collapse is reported after this many logged windows in a row that look collapsed."""
    pool: Pool = "token"
    """Features of a ViT to probe: the class token, the mean of the patch tokens, both, or all patch tokens side by
    side."""
    probe_blocks: int = 4
    """Last blocks of a ViT whose features the linear probe sees side by side; kNN sees the last block's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("dim", "projector_layers", "projector_hidden", "predictor_hidden", "collapse_patience",
                     "probe_blocks"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check_color_jitter(self.color_jitter)
        for name in ("grayscale", "blur"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        low, high = self.blur_sigma
        require(0 < low <= high, "blur_sigma", self.blur_sigma, "LOW HIGH with 0 < LOW <= HIGH")


# The authors' main_simsiam.py with --fix-pred-lr: 100 epochs on ImageNet. All parameters decay, norms and biases too.
PAPER: dict[str, Any] = dict(
    data="tfds:imagenet2012", model="resnet50", image_size=224, batch_size=512, epochs=100, optimizer="momentum",
    momentum=0.9, base_learning_rate=0.05, warmup=0.0, weight_decay=1e-4, decay="all", workers=16,
    checkpoint_every=1000)

PRESETS: dict[str, dict[str, Any]] = {
    "digits": dict(
        data="digits", model="resnet20", model_fields=("width=32", "depths=(1,1)"), epochs=80, batch_size=64,
        optimizer="momentum", base_learning_rate=1.2, warmup=0.0, weight_decay=5e-4, decay="all", dim=256,
        projector_layers=2, projector_hidden=256, predictor_hidden=64, crop_scale=(0.4, 1.0), flip=False,
        color_jitter=(0.4, 0.4, 0.0, 0.0), grayscale=0.0, blur=0.0, log_every=40),
    # The paper's appendix D: ResNet-18 with CIFAR's stem, two layers of projector, no blur.
    "cifar10": dict(
        data="folder:cifar10", data_cache=True, model="resnet18", model_fields=("stem=cifar",), batch_size=512,
        epochs=800, optimizer="momentum", momentum=0.9, base_learning_rate=0.03, warmup=0.0, weight_decay=5e-4,
        decay="all", projector_layers=2, blur=0.0),
    "folder": PAPER | dict(data="folder:photos", model="resnet18", batch_size=64, epochs=200, workers=2),
    "resnet50": PAPER,
}


if __name__ == "__main__":
    main("experiments.simsiam_pretrain", "experiments.wiring.simsiam_pretrain")
