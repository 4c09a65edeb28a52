"""Train a network that gives a class for each pixel.

The default preset learns scenes of painted digits and needs no network access. For CamVid, or your own photos in
folders like CamVid's (train, trainannot, val, valannot, test, testannot): `python -m experiments.segment camvid --data
folder:PATH`.

To start from published weights: `--pretrained FILE`, with those of the whole network or of a classifier that is its
backbone. To judge the features of a frozen network by a linear layer at each position, as DINOv2's authors do:

    python -m experiments.segment --frozen --pretrained RUN
    python -m experiments.segment camvid --frozen --data folder:PATH --model vit_small_patch14_dinov2 --model-fields

`--model-fields` without a value takes away those of the preset.
"""

import dataclasses
from typing import Annotated, Any, Literal

from cvjax.data.forms import LABEL_MAPS
from cvjax.workflow.classification.options import ColourConfig
from cvjax.workflow.command import main
from cvjax.workflow.config import PreprocessingOptions, require
from cvjax.workflow.options import Mark


@dataclasses.dataclass(frozen=True)
class Config(PreprocessingOptions, ColourConfig):
    """Semantic segmentation."""

    LARGEST_CROP = 16.0

    data: Annotated[str, Mark(help=LABEL_MAPS.help, check=LABEL_MAPS.find)] = "scenes"
    ignore_label: int | None = None
    """Label of pixels that do not count, besides 255. For CamVid it is known. 255 confirms that 255 does not count."""
    mask_values: tuple[int, ...] = ()
    """The numbers that stand for the classes in label maps, in their order, such as 0 255 for masks of 0 and 255; by
    default each number stands for itself."""
    model: str = "fcn"
    """A name from list_models(): a network that gives a class for each pixel; with --frozen, the frozen one."""
    model_fields: tuple[str, ...] = ()
    """Fields of the model to change, such as backbone=resnet18 maps=3."""
    crop_size: tuple[int, int] = (96, 96)
    """Height and width of training crops; evaluation sees whole images."""
    crop_scale: tuple[float, float] = (0.25, 1.0)
    """Least and greatest area of a random training crop, in areas of its image; beyond 1, the pixels that lie outside
    the image do not count."""
    crop_ratio: float = 1.0
    """A training crop's aspect ratio is distorted by at most this factor."""
    class_weights: Literal["none", "median_frequency"] = "none"
    """median_frequency: rare classes weigh more in the loss (Eigen and Fergus 2015)."""
    pretrained: str | None = None
    """Start from a weight file, hf-hub:OWNER/NAME, or a supervised run's folder: the network's or its backbone's."""
    frozen: bool = False
    """Learn only a batch norm and a linear layer at each position of a frozen network: that of a run (--pretrained
    RUN), or --model and --model-fields with the weights of --pretrained, or with those that timm takes for it."""
    map: str | None = None
    """With --frozen: the named map that is judged; by default a ViT's last patch tokens, or the last map."""
    backbone_rate: float = 1.0
    """Learning rate of the backbone relative to the rest's."""
    auxiliary_rate: float = 1.0
    """Learning rate of a second head, which only training has, relative to the rest's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.ignore_label is None or 0 <= self.ignore_label <= 255, "ignore_label", self.ignore_label,
                "in [0, 255]")
        require(min(self.crop_size) >= 1, "crop_size", self.crop_size, "HEIGHT WIDTH of at least 1")
        require(self.crop_ratio >= 1, "crop_ratio", self.crop_ratio, "at least 1")
        for name in ("backbone_rate", "auxiliary_rate"):
            require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
            require(not self.frozen or getattr(self, name) == 1, name, getattr(self, name), "left out with --frozen")
        require(self.frozen or self.map is None, "map", self.map, "left out without --frozen")


# For a GPU: "heavy" learning of Shelhamer et al. 2017 (https://arxiv.org/abs/1605.06211), sec. 4.3, of all streams at
# once, from a trained VGG-16 (--pretrained). Their loss is the sum over an image's pixels, here it is the mean. So the
# rate is theirs, 1e-10, times the 187,500 pixels of a VOC image, and the decay, 5e-4, is divided by them. Their pixels
# go up to 255. Here they have a deviation of 1, which is 57 times less, so skips are scaled by 57 times more.
FCN8S = dict(model="fcn8s_vgg16", model_fields=("skip_scales=(0.57,0.0057)",), flip=False, batch_size=1,
             optimizer="momentum", momentum=0.99, base_learning_rate=0.0048, weight_decay=5e-4 / 187_500, bias_rate=2.0,
             schedule="constant", warmup=0.0, checkpoint_every=4000, eval_every=4000)

PRESETS: dict[str, dict[str, Any]] = {
    # The ResNet has one block per stage and does not stride before its second stage; a skip leaves each of its four
    # sizes.
    "scenes": dict(
        data="scenes:2000,500,64", crop_size=(64, 64),
        model_fields=("backbone=resnet18", "backbone_fields={'stem':'cifar','width':16,'depths':(1,1,1,1)}", "maps=4",
                      "dropout=0.0"),
        epochs=7, batch_size=16, optimizer="muon", base_learning_rate=0.16, weight_decay=0.02, schedule="one_cycle",
        warmup=0.2, crop_scale=(1.0, 1.0), flip=False),
    # CamVid (367 street scenes of 360x480 pixels) from scratch: test mIoU 53.2 % (validation 61.2 %), pixel accuracy
    # 86.9 %, in 58 minutes on two cores that other work shared, seed 0. The scale of crops is 0.7 to 1.5 times that of
    # the whole images that evaluation sees.
    "camvid": dict(
        data="folder:camvid", model_fields=("backbone=resnet18", "backbone_fields={'width':32}", "maps=5"),
        crop_size=(240, 320), crop_scale=(0.2, 0.9), crop_ratio=1.2, color_jitter=(0.3, 0.3, 0.3, 0.0), steps=2500,
        batch_size=8, optimizer="muon", base_learning_rate=0.32, weight_decay=0.05, schedule="one_cycle", warmup=0.2,
        ema_decay=0.998, eval_every=500, checkpoint_every=500),
    # A square holds pictures of 375x500 and of 500x375 pixels whole, in their own pixels.
    "voc_fcn8s": dict(FCN8S, data="voc:VOC2012", crop_size=(500, 500), crop_scale=(4 / 3, 4 / 3), steps=300_000),
    # Weighted as SegNet's authors do.
    "camvid_fcn8s": dict(FCN8S, data="folder:camvid", crop_size=(360, 480), crop_scale=(1.0, 1.0), steps=100_000,
                         class_weights="median_frequency"),
    # torchvision's references/segmentation, for GPUs, from a trained ResNet-50 (--pretrained).
    "fcn_resnet50": dict(
        data="voc:VOC2012", model="fcn_resnet50", crop_size=(480, 480), crop_scale=(0.16, 2.6), epochs=30,
        batch_size=32, optimizer="momentum", base_learning_rate=0.16, auxiliary_rate=10.0, weight_decay=1e-4,
        decay="all", schedule="polynomial", power=0.9, warmup=0.0, workers=16, dtype="bfloat16"),
}


if __name__ == "__main__":
    main("experiments.segment", "experiments.wiring.segment")
