"""The work of `python -m experiments.detect`; its options are in experiments/detect.py."""

import dataclasses
from functools import partial

import jax
import numpy as np

from cvjax.models.image_model import with_axis_name
from cvjax.tasks.detection import detection_task
from cvjax.train.optim import head_scale
from cvjax.train.preemption import StopRequest
from cvjax.workflow.augmentation import Recoloring
from cvjax.workflow.budget import prepare_within
from cvjax.workflow.classification.augmentation import colour_operations
from cvjax.workflow.classification.transfer import frozen_parameters
from cvjax.workflow.detection.inputs import DetectionInputs, make_detection_inputs
from cvjax.workflow.detection.model import (
    TrainedDetector,
    build_detector,
    build_model,
    build_search,
    load_start,
    open_start,
    put_in,
    thresholds,
)
from cvjax.workflow.detection.report import protocol, report, summarize
from cvjax.workflow.devices import ENGINES
from cvjax.workflow.folder import RunFolder, print_metrics
from cvjax.workflow.inputs import held_out
from cvjax.workflow.prepared import Prepared, prepare_training
from cvjax.workflow.restore import record_of
from cvjax.workflow.training import train
from experiments.detect import Config


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Train one detector and report."""
    prepared = prepare_within(prepare, config, folder)
    trained = train(prepared, folder, stop)
    if trained is None:
        return
    inputs, dataset = prepared.inputs, prepared.inputs.dataset
    built = build_detector(config, prepared.model)
    search = build_search(config, built)
    detector = TrainedDetector(prepared.model, built, jax.device_get(trained.variables), dataset.class_names,
                               dataset.channels, inputs.preprocessing, config.canvas, search, config.sides)
    if dataset.test is not None:
        report(detector, inputs, folder.figures)
    print_metrics(trained.metrics)
    parameters = sum(map(np.size, jax.tree.leaves(trained.variables["params"])))
    said = {"pretrained": config.pretrained, "parameters": parameters, "training_images": len(dataset.train),
            "chosen_by": "last step" if dataset.validation is None else "validation/ap50"}
    folder.finish(trained.metrics, protocol(inputs, config, search) | said, trained)


def prepare(config: Config, folder: RunFolder) -> Prepared[DetectionInputs]:
    """The training, see `cvjax.workflow.prepared.Prepared`."""
    start = open_start(config.pretrained, config.model) if config.pretrained else None
    folder.reads(start and start.origin)
    inputs = make_detection_inputs(
        config, canvas=config.canvas, max_boxes=config.max_boxes, folder=folder, prepare=partial(held_out, config),
        preprocessing=start and start.preprocessing,
        crop_scale=config.crop_scale, ratio=(1 / config.crop_ratio, config.crop_ratio), zoom_out=config.zoom_out,
        flip=config.flip, mosaic=config.mosaic, recoloring=Recoloring(colour_operations(config)),
        sides=config.sides)
    model = build_model(config, channels=inputs.dataset.channels, num_classes=inputs.dataset.num_classes)
    axis_name = ENGINES[config.parallel].axis_name  # the batch's axis under pmap
    mapped = with_axis_name(model, axis_name)
    if config.freeze == "backbone":
        frozen = in_backbone
    else:
        frozen = frozen_parameters(config.freeze, model)
    rates = None if config.backbone_rate == 1 else head_scale(config.backbone_rate, lambda path: not in_backbone(path))
    search = build_search(config, build_detector(config, model))
    if search is not None:
        inputs = search.join(inputs, search=not config.dry_run)
    dataset = inputs.dataset
    learnt = None if start is None else load_start(start, model, config.seed)
    task = detection_task(build_detector(config, mapped), augment=inputs.augment, preprocess=inputs.preprocess,
                          summarize=summarize(inputs), frozen=frozen)
    meta = record_of("detect", config, "detector", model, image_size=config.canvas, channels=dataset.channels,
                     preprocessing=inputs.preprocessing, class_names=dataset.class_names,
                     validated=dataset.validation is not None,
                     thresholds=thresholds(config), search=None if search is None else dataclasses.asdict(search),
                     sides=config.sides)
    return prepare_training(config, task, inputs, best_metric="ap50", best_mode="max", meta=meta, model=model,
                            output_modules=model.output_modules,
                            frozen=frozen, layer_scale=rates, pretrained=learnt,
                            adapt=None if learnt is None else put_in)


def in_backbone(path: str) -> bool:
    """Whether a parameter is one of the backbone's."""
    return path.startswith("backbone/")
