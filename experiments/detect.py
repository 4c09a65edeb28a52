"""Train a detector, and judge it on the test pictures.

The default preset learns scenes of painted digits and needs no network access. For your own photos in folders like
VOC's (Annotations, JPEGImages, ImageSets/Main): `python -m experiments.detect bccd_yolov1 --data voc:PATH`.

To start from published weights: `--pretrained`, with a classifier that is the detector's backbone. A trained run finds
objects in any photo: `python -m experiments.predict photo.jpg --checkpoint runs/detect/NAME`.
"""

import dataclasses
from typing import Annotated, Any, Literal

from cvjax.data.forms import BOXES
from cvjax.workflow.classification.options import ColourConfig
from cvjax.workflow.command import main
from cvjax.workflow.config import PreprocessingOptions, require
from cvjax.workflow.options import Mark


@dataclasses.dataclass(frozen=True)
class Config(PreprocessingOptions, ColourConfig):
    """Object detection."""

    data: Annotated[str, Mark(help=BOXES.help, check=BOXES.find)] = "scenes"
    model: str = "yolo"
    """The name of a detector from list_models()."""
    model_fields: tuple[str, ...] = ()
    """Fields of the model to change, such as backbone=resnet18 maps=2."""
    canvas: tuple[int, int] = (96, 96)
    """Height and width of the canvas that the model sees: pictures keep their proportions, the rest is grey."""
    sides: tuple[int, int] | None = None
    """SHORT LONG: pixels of a picture's short side, and of its long one at most, as in R-CNN's papers; by default it is
    as large as fits the canvas. For pictures of both orientations the canvas must be a LONG x LONG square, which costs
    LONG / SHORT times as much as pictures of one orientation on theirs."""
    max_boxes: int = 64
    """Training sees at most this many objects of a picture, the largest ones; evaluation sees all."""
    crop_ratio: float = 4 / 3
    """A training crop's aspect ratio is distorted by at most this factor."""
    zoom_out: float = 1.0
    """Least size of a training picture, as a share of the largest that fits the canvas."""
    mosaic: float = 0.0
    """Share of the training examples that are composed of four pictures."""
    proposals: Literal["fast", "quality"] | None = None
    """Mode of selective search, for a detector that is given its regions; by default fast."""
    max_proposals: int | None = None
    """Greatest number of its regions in a picture; by default 2000."""
    pretrained: str | None = None
    """Start from a run of detect; or only the backbone from a weight file, hf-hub:OWNER/NAME or a run's folder."""
    freeze: str = "none"
    """none | backbone | up-to:NAME (the module NAME, such as backbone/layer1, and all before it)."""
    backbone_rate: float = 1.0
    """Learning rate of the backbone relative to the rest's."""
    score_threshold: float = 0.001
    """An evaluation counts a detection only if its score is above this."""
    nms_threshold: float = 0.5
    """If two boxes of one class have a larger IoU than this, only the better one stays."""
    max_detections: int = 100
    """Greatest number of detections in a picture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(min(self.canvas) >= 1, "canvas", self.canvas, "HEIGHT WIDTH of at least 1")
        require(self.sides is None or 1 <= self.sides[0] <= self.sides[1], "sides", self.sides,
                "SHORT LONG with 1 <= SHORT <= LONG")
        require(self.sides is None or self.mosaic == 0, "mosaic", self.mosaic, "0 with --sides")
        for name in ("max_boxes", "max_detections"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.max_proposals is None or self.max_proposals >= 1, "max_proposals", self.max_proposals,
                "at least 1")
        require(self.crop_ratio >= 1, "crop_ratio", self.crop_ratio, "at least 1")
        require(0 < self.zoom_out <= 1, "zoom_out", self.zoom_out, "in (0, 1]")
        for name in ("mosaic", "score_threshold", "nms_threshold"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        require(self.backbone_rate > 0, "backbone_rate", self.backbone_rate, "more than 0; --freeze keeps it fixed")


# Redmon et al. 2016, sec. 2.2, and Darknet. What differs is in experiments/recipes/detect.py, as for all recipes below
# that are others'.
YOLO_PAPER = dict(
    data="voc:VOC2007+VOC2012", canvas=(448, 448), crop_scale=(0.64, 1.0), crop_ratio=1.25, zoom_out=0.8,
    exposure_jitter=(1.5, 1.5), epochs=135, batch_size=64, optimizer="momentum", base_learning_rate=0.04,
    weight_decay=5e-4, schedule="step", milestones=(75 / 135, 105 / 135), factor=0.1, warmup=2 / 135, start_rate=0.1,
    workers=16)

# R-CNN's authors' Caffe code: pictures of 600 pixels, biases that learn twice as fast, from a VGG-16 (--pretrained)
# whose first two stages are frozen. Pictures of both orientations share one square, for 5 / 3 of the computation.
RCNN = dict(
    data="voc:VOC2007", canvas=(1000, 1000), sides=(600, 1000), crop_scale=(1.0, 1.0), batch_size=2,
    optimizer="momentum", base_learning_rate=0.128, weight_decay=5e-4, bias_rate=2.0, schedule="step", factor=0.1,
    warmup=0.0, freeze="up-to:backbone/conv2_2", score_threshold=0.05, nms_threshold=0.3, workers=8,
    checkpoint_every=5000)

# Blood cells (292 photos of 480x640 pixels) from scratch: four minutes each on two cores, seed 0.
BCCD = dict(
    data="voc:bccd", canvas=(240, 320), crop_scale=(0.5, 1.0), zoom_out=0.8, color_jitter=(0.2, 0.2, 0.2, 0.0),
    steps=600, batch_size=8, optimizer="muon", base_learning_rate=0.32, weight_decay=0.05, schedule="one_cycle",
    warmup=0.2, ema_decay=0.99, eval_every=300, checkpoint_every=300)

PRESETS: dict[str, dict[str, Any]] = {
    # The cells have 8 pixels, so that few digits share one. The ResNet has three stages of one block.
    "scenes": dict(
        data="scenes:2000,500,64", canvas=(64, 64),
        model_fields=("backbone=resnet18", "backbone_fields={'width':32,'depths':(1,1,1)}", "maps=2", "head_width=128",
                      "head_depth=1"),
        epochs=12, batch_size=16, optimizer="muon", base_learning_rate=0.16, weight_decay=0.02, schedule="one_cycle",
        warmup=0.2, crop_scale=(1.0, 1.0), zoom_out=0.8, flip=False, max_boxes=8),
    # Test AP50 82.4, AP 46.7. The grid's cells have 16 pixels: too many platelets would share larger ones with a red
    # blood cell.
    "bccd_yolov1": dict(BCCD, model_fields=(
        "backbone=resnet18", "backbone_fields={'width':32}", "maps=2", "head_width=128")),
    # Test AP50 89.5, AP 53.4. The anchors have the sizes of blood cells, on a pyramid of two maps.
    "bccd_faster_rcnn": dict(BCCD, model="faster_rcnn", model_fields=(
        "backbone=resnet18", "backbone_fields={'width':32}", "maps=('layer2','layer3')", "pyramid_width=64",
        "anchor_sizes=((24,),(48,),(96,))", "rpn_width=64", "head_width=256", "canonical_size=64",
        "candidates=(500,300)", "proposals=(200,100)", "sampled_anchors=128", "sampled_regions=64")),
    # From `experiments.supervised --model yolov1_classifier`: --pretrained RUN.
    "voc_yolov1": dict(YOLO_PAPER, model="yolov1"),
    "voc_fast_yolov1": dict(YOLO_PAPER, model="fast_yolov1"),
    # Girshick 2015 (https://arxiv.org/abs/1504.08083), sec. 2.3: 64 regions of each of two images.
    "voc_fast_rcnn_vgg16": dict(RCNN, model="fast_rcnn_vgg16", proposals="fast", max_proposals=2000, steps=40_000,
                                milestones=(3 / 4,)),
    # Ren et al. 2015 (https://arxiv.org/abs/1506.01497), as py-faster-rcnn trains both networks at once: two images,
    # one after the other, for each step. Its biases decay.
    "voc_faster_rcnn_vgg16": dict(RCNN, model="faster_rcnn_vgg16", accumulate=2, decay="all", steps=70_000,
                                  milestones=(5 / 7,)),
    # torchvision's references/detection, from a trained ResNet-50 (--pretrained). A square of whole strides holds
    # pictures of both orientations, for 1.7 times the computation of one.
    "coco_faster_rcnn_resnet50_fpn": dict(
        data="coco:coco", model="faster_rcnn_resnet50_fpn", canvas=(1344, 1344), sides=(800, 1333), max_boxes=100,
        crop_scale=(1.0, 1.0), epochs=26, batch_size=16, optimizer="momentum", base_learning_rate=0.32,
        weight_decay=1e-4, decay="all", schedule="step", milestones=(16 / 26, 22 / 26), factor=0.1,
        warmup=1000 / 190_580, start_rate=1e-3, freeze="up-to:backbone/layer1", score_threshold=0.05, workers=16,
        checkpoint_every=5000),
}


if __name__ == "__main__":
    main("experiments.detect", "experiments.wiring.detect")
