"""Train a detector, and say how well it finds what is in the test pictures.

The default preset learns scenes of painted digits and needs no network access. Your own photos in the folders of VOC
(Annotations, JPEGImages, ImageSets/Main): `python -m experiments.detect bccd_yolov1 --data voc:PATH`. From published
weights: `--pretrained`, of a classifier that is the detector's backbone. A trained run finds objects in any photo:
`cvjax.experiment.detecting.load_detector("runs/detect/NAME").predict(open(PHOTO, "rb").read())`.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

from cvjax.experiment.augmentation import ColourConfig
from cvjax.experiment.config import main, require


@dataclasses.dataclass(frozen=True)
class Config(ColourConfig):
    """Object detection."""

    data: str = "scenes"
    """scenes | scenes:TRAIN,TEST,SIDE | voc:PATH | coco:PATH | tfds:NAME"""
    model: str = "yolo"
    """A name from list_models() of a detector."""
    model_fields: tuple[str, ...] = ()
    """Fields of the model to change, such as backbone=resnet18 maps=2."""
    canvas: tuple[int, int] = (96, 96)
    """Height and width of what the model sees: pictures keep their proportions, the rest is grey."""
    max_boxes: int = 64
    """Objects of a picture at most that are learnt from, the largest ones; evaluation knows all."""
    crop_ratio: float = 4 / 3
    """Up to how many times too wide or too high a training crop is."""
    zoom_out: float = 1.0
    """Least size of a training picture, as a share of the largest that fits the canvas."""
    mosaic: float = 0.0
    """Share of the training examples that are made of four pictures."""
    proposals: Literal["fast", "quality"] | None = None
    """Selective search's mode, for a detector of given regions, which takes fast by default."""
    max_proposals: int | None = None
    """Its regions of a picture at most; 2000 by default."""
    pretrained: str | None = None
    """Start from a run of detect, or, the backbone alone, from a weight file, hf-hub:OWNER/NAME or a run's folder."""
    freeze: str = "none"
    """none | backbone | up-to:NAME (the module NAME, such as backbone/layer1, and all before it)."""
    backbone_rate: float = 1.0
    """Learning rate of the backbone relative to the rest's."""
    score_threshold: float = 0.001
    """What an evaluation counts as found has a score above this."""
    nms_threshold: float = 0.5
    """The largest IoU that two boxes of one class have; where it is larger, the better one stays."""
    max_detections: int = 100
    """Objects that are found in a picture at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(min(self.canvas) >= 1, "canvas", self.canvas, "HEIGHT WIDTH of at least 1")
        for name in ("max_boxes", "max_detections"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.max_proposals is None or self.max_proposals >= 1, "max_proposals", self.max_proposals,
                "at least 1")
        require(self.crop_ratio >= 1, "crop_ratio", self.crop_ratio, "at least 1")
        require(0 < self.zoom_out <= 1, "zoom_out", self.zoom_out, "in (0, 1]")
        for name in ("mosaic", "score_threshold", "nms_threshold"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        require(self.backbone_rate > 0, "backbone_rate", self.backbone_rate, "more than 0; to hold it still, --freeze")


# Redmon et al. 2016, sec. 2.2. Their crops move pictures by up to a fifth of their sides.
YOLO_PAPER = dict(
    canvas=(448, 448), crop_scale=(0.64, 1.0), crop_ratio=1.25, zoom_out=0.8, color_jitter=(0.5, 0.0, 0.5, 0.0),
    epochs=135, batch_size=64, optimizer="momentum", base_learning_rate=0.04, weight_decay=5e-4, decay="all",
    schedule="step", milestones=(75 / 135, 105 / 135), factor=0.1, warmup=2 / 135, start_rate=0.1, workers=16)

# Blood cells (292 photos of 480x640 pixels) from scratch: four minutes each on two cores, seed 0.
BCCD = dict(
    data="voc:bccd", canvas=(240, 320), crop_scale=(0.5, 1.0), zoom_out=0.8, color_jitter=(0.2, 0.2, 0.2, 0.0),
    steps=600, batch_size=8, optimizer="muon", base_learning_rate=0.32, weight_decay=0.05, schedule="one_cycle",
    warmup=0.2, ema_decay=0.99, eval_every=300, checkpoint_every=300)

PRESETS: dict[str, dict[str, Any]] = {
    # Test AP50 94.8, AP 56.7, seed 0, in three minutes of one core. Cells of 16 pixels, which few digits share, on a
    # ResNet of three stages of one block.
    "scenes": dict(
        model_fields=("backbone=resnet18", "backbone_fields={'width':32,'depths':(1,1,1)}", "maps=1", "head_width=128",
                      "head_depth=1"),
        epochs=20, batch_size=16, optimizer="muon", base_learning_rate=0.16, weight_decay=0.02, schedule="one_cycle",
        warmup=0.2, crop_scale=(1.0, 1.0), zoom_out=0.8, flip=False, max_boxes=8),
    # Test AP50 82.4, AP 46.7. Cells of 16 pixels: in larger ones too many platelets would share one with a red cell.
    "bccd_yolov1": dict(BCCD, model_fields=(
        "backbone=resnet18", "backbone_fields={'width':32}", "maps=2", "head_width=128")),
    # Test AP50 89.5, AP 53.4. Anchors of the cells' sizes, on a pyramid of two maps.
    "bccd_faster_rcnn": dict(BCCD, model="faster_rcnn", model_fields=(
        "backbone=resnet18", "backbone_fields={'width':32}", "maps=('layer2','layer3')", "pyramid_width=64",
        "anchor_sizes=((24,),(48,),(96,))", "rpn_width=64", "head_width=256", "canonical_size=64",
        "candidates=(500,300)", "proposals=(200,100)", "sampled_anchors=128", "sampled_regions=64")),
    # From `experiments.supervised --model yolov1_classifier`: --pretrained RUN.
    "voc_yolov1": dict(YOLO_PAPER, data="voc:VOC2007", model="yolov1"),
    "voc_fast_yolov1": dict(YOLO_PAPER, data="voc:VOC2007", model="fast_yolov1"),
    # Girshick 2015 (https://arxiv.org/abs/1504.08083), sec. 2.3: 64 regions of each of two images, from a VGG-16
    # (--pretrained) whose first two stages are held still; 30k iterations at 0.001 and 10k at 0.0001.
    "voc_fast_rcnn_vgg16": dict(
        data="voc:VOC2007", model="fast_rcnn_vgg16", proposals="fast", max_proposals=2000, canvas=(600, 1000),
        crop_scale=(1.0, 1.0), steps=40_000, batch_size=2, optimizer="momentum", base_learning_rate=0.128,
        weight_decay=5e-4, schedule="step", milestones=(3 / 4,), factor=0.1, warmup=0.0,
        freeze="up-to:backbone/conv2_2", score_threshold=0.05, nms_threshold=0.3, workers=8, checkpoint_every=5000),
    # Ren et al. 2015 (https://arxiv.org/abs/1506.01497) as their py-faster-rcnn trains both networks at once, from a
    # VGG-16 that was trained before (--pretrained), whose first two stages are held still.
    "voc_faster_rcnn_vgg16": dict(
        data="voc:VOC2007", model="faster_rcnn_vgg16", canvas=(600, 1000), crop_scale=(1.0, 1.0), steps=70_000,
        batch_size=1, optimizer="momentum", base_learning_rate=0.256, weight_decay=5e-4, schedule="step",
        milestones=(5 / 7,), factor=0.1, warmup=0.0, freeze="up-to:backbone/conv2_2", score_threshold=0.05,
        nms_threshold=0.3, workers=8, checkpoint_every=5000),
    # torchvision's references/detection, from a trained ResNet-50 (--pretrained). There the short side of a picture has
    # 800 pixels and the long one up to 1333; here it fits a square.
    "coco_faster_rcnn_resnet50_fpn": dict(
        data="coco:coco", model="faster_rcnn_resnet50_fpn", canvas=(1024, 1024), max_boxes=100, crop_scale=(1.0, 1.0),
        epochs=26, batch_size=16, optimizer="momentum", base_learning_rate=0.32, weight_decay=1e-4, decay="all",
        schedule="step", milestones=(16 / 26, 22 / 26), factor=0.1, warmup=1000 / 190_580,
        freeze="up-to:backbone/layer1", score_threshold=0.05, workers=16, checkpoint_every=5000),
}


def run(config: Config, name: str, stop: Any) -> None:
    """Train one detector and report."""
    import jax
    import numpy as np

    from cvjax.experiment.augmentation import colour_operations
    from cvjax.experiment.config import as_json
    from cvjax.experiment.detecting import (
        TrainedDetector,
        build_detector,
        build_model,
        build_search,
        load_start,
        protocol,
        put_in,
        report,
        summarize,
    )
    from cvjax.experiment.detection_inputs import make_detection_inputs
    from cvjax.experiment.inputs import held_out
    from cvjax.experiment.run import RunFolder, print_metrics
    from cvjax.experiment.training import ENGINES, enable_compilation_cache, train
    from cvjax.experiment.transfer import frozen_parameters
    from cvjax.tasks.detection import detection_task
    from cvjax.train.optim import head_scale

    enable_compilation_cache()
    folder = RunFolder(config, "detect", name)
    if folder.finished():
        return
    inputs = make_detection_inputs(
        config, canvas=config.canvas, max_boxes=config.max_boxes, folder=folder, prepare=partial(held_out, config),
        crop_scale=config.crop_scale, ratio=(1 / config.crop_ratio, config.crop_ratio), zoom_out=config.zoom_out,
        flip=config.flip, mosaic=config.mosaic, pixel_operations=colour_operations(config))
    described = as_json(config)
    model = build_model(described, channels=inputs.dataset.channels, num_classes=inputs.dataset.num_classes)
    axis_name = ENGINES[config.parallel].axis_name  # of the batch under pmap
    mapped = model.clone(axis_name=axis_name) if hasattr(model, "axis_name") else model
    if config.freeze == "backbone":
        frozen = in_backbone
    else:
        frozen = frozen_parameters(config.freeze, model)
    rates = None if config.backbone_rate == 1 else head_scale(config.backbone_rate, lambda path: not in_backbone(path))
    search = build_search(described, build_detector(described, model))
    if search is not None:
        inputs = search.join(inputs, search=not config.dry_run)
    dataset = inputs.dataset
    start = load_start(config.pretrained, model, config.seed) if config.pretrained else None
    task = detection_task(build_detector(described, mapped), augment=inputs.augment, preprocess=inputs.preprocess,
                          summarize=summarize(inputs), frozen=frozen)
    meta = {"experiment": "detect", "config": described, "channels": dataset.channels,
            "class_names": list(dataset.class_names), "validated": dataset.validation is not None}
    trained = train(config, folder, task, inputs, stop, best_metric="ap50", best_mode="max", meta=meta, frozen=frozen,
                    layer_scale=rates, pretrained=start, adapt=None if start is None else put_in)
    if trained is None:
        return
    detector = TrainedDetector(build_detector(described, model), jax.device_get(trained.variables),
                               dataset.class_names, dataset.channels, config.canvas, search)
    if dataset.test is not None:
        report(detector, inputs, folder.figures)
    print_metrics(trained.metrics)
    parameters = sum(map(np.size, jax.tree.leaves(trained.variables["params"])))
    said = {"pretrained": config.pretrained, "parameters": parameters, "training_images": len(dataset.train),
            "chosen_by": "last step" if dataset.validation is None else "validation/ap50"}
    folder.finish(trained.metrics, protocol(inputs, described, search) | said, trained)


def in_backbone(path: str) -> bool:
    """Whether a parameter is one of the backbone's."""
    return path.startswith("backbone/")


if __name__ == "__main__":
    main(run, "detect", Config, PRESETS, __doc__)
