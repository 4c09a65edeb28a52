"""Train a network that says of each pixel what it belongs to, and judge it against what needs no network.

The default preset learns scenes of painted digits and needs no network access. CamVid, or your own photos in its
folders (train, trainannot, val, valannot, test, testannot): `python -m experiments.segment camvid --data folder:PATH`.
From published weights: `--pretrained FILE`, of the whole network or of a classifier that is its backbone.
"""

import dataclasses
from typing import Any, Literal

from cvjax.experiment.augmentation import ColourConfig
from cvjax.experiment.config import main, require


@dataclasses.dataclass(frozen=True)
class Config(ColourConfig):
    """Semantic segmentation."""

    LARGEST_CROP = 16.0

    data: str = "scenes"
    """scenes | scenes:TRAIN,TEST,SIDE | folder:PATH (CamVid's folders, or images and labels) | voc:PATH | tfds:NAME"""
    ignore_label: int | None = None
    """Label of pixels that do not count, besides 255; CamVid's is known."""
    model: str = "fcn"
    """A name from list_models() of a network that gives a class for each pixel."""
    model_fields: tuple[str, ...] = ()
    """Fields of the model to change, such as backbone=resnet18 maps=3."""
    crop_size: tuple[int, int] = (96, 96)
    """Height and width of training crops; evaluation sees whole images."""
    crop_scale: tuple[float, float] = (0.25, 1.0)
    """Area of a random training crop in areas of its image; beyond 1 what it shows beside the image does not count."""
    crop_ratio: float = 1.0
    """Up to how many times too wide or too high a training crop is."""
    class_weights: Literal["none", "median_frequency"] = "none"
    """median_frequency: rare classes weigh more in the loss (Eigen and Fergus 2015)."""
    pretrained: str | None = None
    """Start from a weight file, hf-hub:OWNER/NAME, or a supervised run's folder: of the network or its backbone."""
    backbone_rate: float = 1.0
    """Learning rate of the backbone relative to the rest's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.ignore_label is None or 0 <= self.ignore_label < 255, "ignore_label", self.ignore_label,
                "in [0, 255)")
        require(min(self.crop_size) >= 1, "crop_size", self.crop_size, "HEIGHT WIDTH of at least 1")
        require(self.crop_ratio >= 1, "crop_ratio", self.crop_ratio, "at least 1")
        require(self.backbone_rate > 0, "backbone_rate", self.backbone_rate, "more than 0")


# For a GPU: "heavy" learning of Shelhamer et al. 2017 (https://arxiv.org/abs/1605.06211), sec. 4.3, all streams at once
# from a VGG-16 that was trained before (--pretrained). Their loss is the sum over an image's pixels, here it is the
# mean: their rate of 1e-10 times the 187,500 pixels of a VOC image, and by as much less decay. Their pixels go to 255,
# here they have a deviation of 1, 57 times less: skips are scaled by as much more. Whole images come in one shape here.
FCN8S = dict(model="fcn8s_vgg16", model_fields=("skip_scales=(0.57,0.0057)",), crop_scale=(1.0, 1.0), batch_size=1,
             steps=100_000, optimizer="momentum", momentum=0.99, base_learning_rate=0.0048, weight_decay=0.0,
             schedule="constant", warmup=0.0, checkpoint_every=4000, eval_every=4000)

PRESETS: dict[str, dict[str, Any]] = {
    # Test mIoU 86.8 % in under three minutes on two shared cores, seed 0. A ResNet of one block a stage that does not
    # stride before its second, with a skip from each of its four sizes.
    "scenes": dict(
        model_fields=("backbone=resnet18", "backbone_fields={'stem':'cifar','width':16,'depths':(1,1,1,1)}", "maps=4",
                      "dropout=0.0"),
        epochs=5, batch_size=16, optimizer="muon", base_learning_rate=0.16, weight_decay=0.02, schedule="one_cycle",
        warmup=0.2, crop_scale=(1.0, 1.0), flip=False),
    # CamVid (367 street scenes of 360x480 pixels) from scratch: test mIoU 53.2 % (validation 61.2 %), pixel accuracy
    # 86.9 %, in 58 minutes on two cores that other work shared, seed 0. Crops have the scale of the whole images that
    # evaluation sees, between 0.7 and 1.5 times.
    "camvid": dict(
        data="folder:camvid", model_fields=("backbone=resnet18", "backbone_fields={'width':32}", "maps=5"),
        crop_size=(240, 320), crop_scale=(0.2, 0.9), crop_ratio=1.2, color_jitter=(0.3, 0.3, 0.3, 0.0), steps=2500,
        batch_size=8, optimizer="muon", base_learning_rate=0.32, weight_decay=0.05, schedule="one_cycle", warmup=0.2,
        ema_decay=0.998, eval_every=500, checkpoint_every=500),
    "voc_fcn8s": dict(FCN8S, data="voc:VOC2012", crop_size=(384, 512)),
    # Weighted as SegNet's authors do.
    "camvid_fcn8s": dict(FCN8S, data="folder:camvid", crop_size=(360, 480), class_weights="median_frequency"),
    # torchvision's references/segmentation, for GPUs. There the short side becomes 260 to 1040 pixels before a crop of
    # 480x480, here windows have these scales; the auxiliary head learns ten times as fast there. From a trained
    # ResNet-50: --pretrained.
    "fcn_resnet50": dict(
        data="voc:VOC2012", model="fcn_resnet50", crop_size=(480, 480), crop_scale=(0.16, 2.6), epochs=30,
        batch_size=32, optimizer="momentum", base_learning_rate=0.16, weight_decay=1e-4, decay="all",
        schedule="polynomial", power=0.9, warmup=0.0, workers=16, dtype="bfloat16"),
}


def run(config: Config, name: str, stop: Any) -> None:
    """Train one model and report."""
    import jax
    import numpy as np
    from flax.traverse_util import flatten_dict

    from cvjax.data.segmentation_sources import label_maps
    from cvjax.evaluate.mean_iou import segmentation_scores
    from cvjax.experiment.augmentation import colour_operations
    from cvjax.experiment.config import ConfigError, as_json, config_errors
    from cvjax.experiment.run import RunFolder, print_metrics
    from cvjax.experiment.segmenting import (
        Segmenter,
        baselines,
        build_segmenter,
        make_segmentation_inputs,
        protocol,
        report,
    )
    from cvjax.experiment.training import ENGINES, enable_compilation_cache, train
    from cvjax.experiment.transfer import load_pretrained
    from cvjax.losses.segmentation import median_frequency_weights
    from cvjax.tasks.segmentation import segmentation_task
    from cvjax.train.optim import head_scale

    enable_compilation_cache()
    folder = RunFolder(config, "segment", name)
    if folder.finished():
        return
    inputs = make_segmentation_inputs(config, folder, pixel_operations=colour_operations(config))
    dataset, described = inputs.dataset, as_json(config)
    model = build_segmenter(described, channels=dataset.channels, num_classes=dataset.num_classes)
    axis_name = ENGINES[config.parallel].axis_name  # of the batch under pmap
    mapped = model.clone(axis_name=axis_name) if hasattr(model, "axis_name") else model
    weights = None
    if config.class_weights == "median_frequency":
        with config_errors():
            weights = median_frequency_weights(label_maps(dataset.train), dataset.num_classes).tolist()
    pretrained = load_pretrained(config.pretrained, model, config.seed) if config.pretrained else None
    if config.backbone_rate != 1 and not hasattr(model, "make_backbone"):
        raise ConfigError(f"--backbone-rate {config.backbone_rate}: {config.model} has no backbone")
    rates = None
    if config.backbone_rate != 1:
        rates = head_scale(config.backbone_rate, lambda path: not path.startswith("backbone/"))
    task = segmentation_task(mapped, augment=inputs.augment, preprocess=inputs.preprocess, class_weights=weights,
                             scores=lambda confusion: segmentation_scores(confusion, dataset.class_names),
                             axis_name=axis_name)
    meta = {"experiment": "segment", "config": described, "channels": dataset.channels,
            "class_names": list(dataset.class_names), "validated": dataset.validation is not None}
    trained = train(config, folder, task, inputs, stop, best_metric="miou", best_mode="max", meta=meta,
                    layer_scale=rates, pretrained=pretrained,
                    adapt=None if pretrained is None else lambda fresh, pretrained: {**fresh, **pretrained})
    if trained is None:
        return
    segmenter = Segmenter(model, jax.device_get(trained.variables), dataset.class_names, dataset.channels)
    metrics = dict(trained.metrics) | baselines(inputs)
    metrics |= {f"test/{name}": value for name, value in report(segmenter, inputs, folder.figures).items()}
    print_metrics(metrics)
    parameters = sum(np.size(leaf) for leaf in flatten_dict(trained.variables["params"]).values())
    said = {"pretrained": config.pretrained, "parameters": parameters, "training_images": len(dataset.train),
            "class_weights": weights, "chosen_by": "last step" if dataset.validation is None else "validation/miou"}
    folder.finish(metrics, protocol(inputs) | said, trained)


if __name__ == "__main__":
    main(run, "segment", Config, PRESETS, __doc__)
