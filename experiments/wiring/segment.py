"""The work of `python -m experiments.segment`; its options are in experiments/segment.py."""

from functools import partial
from typing import Any

import jax
import numpy as np

from cvjax.data.label_maps.labels import label_maps
from cvjax.errors import ConfigError
from cvjax.evaluate.mean_iou import segmentation_scores
from cvjax.losses.segmentation import median_frequency_weights
from cvjax.models.backbone import OnBackbone
from cvjax.models.fcn import FCN, FCNVGG
from cvjax.models.image_model import with_axis_name
from cvjax.tasks.segmentation import segmentation_task
from cvjax.train.optim import head_scale, product
from cvjax.train.preemption import StopRequest
from cvjax.workflow.augmentation import Recoloring
from cvjax.workflow.budget import prepare_within
from cvjax.workflow.classification.augmentation import colour_operations
from cvjax.workflow.config import config_errors
from cvjax.workflow.continued import with_part
from cvjax.workflow.devices import ENGINES
from cvjax.workflow.folder import RunFolder, print_metrics
from cvjax.workflow.frozen.encoder import check_channels
from cvjax.workflow.prepared import Prepared, prepare_training
from cvjax.workflow.preprocessing import open_pretrained
from cvjax.workflow.restore import record_of
from cvjax.workflow.segmentation.dense_probe import build_dense_probe, frozen_network
from cvjax.workflow.segmentation.inputs import SegmentationInputs, make_segmentation_inputs
from cvjax.workflow.segmentation.model import Segmenter, build_segmenter
from cvjax.workflow.segmentation.report import baselines, protocol, report
from cvjax.workflow.training import train
from experiments.segment import Config


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Train one model and report."""
    prepared = prepare_within(prepare, config, folder)
    trained = train(prepared, folder, stop)
    if trained is None:
        return
    inputs, dataset = prepared.inputs, prepared.inputs.dataset
    segmenter = Segmenter(prepared.model, jax.device_get(trained.variables), dataset.class_names, dataset.channels,
                          inputs.preprocessing)
    metrics = dict(trained.metrics) | baselines(inputs)
    metrics |= {f"test/{name}": value for name, value in report(segmenter, inputs, folder.figures).items()}
    print_metrics(metrics)
    parameters = sum(map(np.size, jax.tree.leaves(trained.variables["params"])))
    said = {"pretrained": config.pretrained, "parameters": parameters, "training_images": len(dataset.train),
            **prepared.protocol, "chosen_by": "last step" if dataset.validation is None else "validation/miou"}
    folder.finish(metrics, protocol(inputs) | said, trained)


def prepare(config: Config, folder: RunFolder) -> Prepared[SegmentationInputs]:
    """The training, see `cvjax.workflow.prepared.Prepared`."""
    encoder = frozen_network(config) if config.frozen else None
    start = None if encoder or not config.pretrained else open_pretrained(config.pretrained, lambda: config.model)
    learnt = encoder or start
    folder.reads(learnt and learnt.origin)
    inputs = make_segmentation_inputs(config, folder, Recoloring(colour_operations(config)),
                                      learnt and learnt.preprocessing)
    dataset = inputs.dataset
    if encoder:
        check_channels(encoder, dataset.channels)
        model = build_dense_probe(config, encoder, num_classes=dataset.num_classes)
    else:
        model = build_segmenter(config, config.crop_size, channels=dataset.channels, num_classes=dataset.num_classes)
    axis_name = ENGINES[config.parallel].axis_name  # the batch's axis under pmap
    mapped = with_axis_name(model, axis_name)
    weights = None
    if config.class_weights == "median_frequency":
        with config_errors():
            weights = median_frequency_weights(label_maps(dataset.train), dataset.num_classes).tolist()
    pretrained = encoder.variables if encoder else start and start.variables(model, config.seed)
    if config.backbone_rate != 1 and not isinstance(model, OnBackbone | FCNVGG):
        raise ConfigError(f"--backbone-rate {config.backbone_rate}: {config.model} has no backbone")
    if config.auxiliary_rate != 1 and not (isinstance(model, FCN) and model.auxiliary_map):
        raise ConfigError(f"--auxiliary-rate {config.auxiliary_rate}: {config.model} has no second head")
    rates = product(
        None if config.backbone_rate == 1 else head_scale(config.backbone_rate, lambda path: not _in(path, "backbone")),
        None if config.auxiliary_rate == 1 else
        lambda path: config.auxiliary_rate if _in(path, "aux_classifier") else 1.0)
    task = segmentation_task(mapped, augment=inputs.augment, preprocess=inputs.preprocess, class_weights=weights,
                             scores=lambda confusion: segmentation_scores(confusion, dataset.class_names),
                             axis_name=axis_name)
    meta = record_of("segment", config, "segmenter", model, image_size=config.crop_size, channels=dataset.channels,
                     preprocessing=inputs.preprocessing, class_names=dataset.class_names,
                     validated=dataset.validation is not None)
    return prepare_training(config, task, inputs, best_metric="miou", best_mode="max", meta=meta, model=model,
                            output_modules=model.output_modules,
                            protocol={"class_weights": weights, "frozen": config.frozen}, layer_scale=rates,
                            frozen=partial(_in, module="backbone") if encoder else None, pretrained=pretrained,
                            adapt=with_backbone if encoder else with_all if start else None)


def with_all(fresh: Any, learnt: Any) -> Any:
    """First variables in which all are learnt that can be."""
    return {**fresh, **learnt}


def with_backbone(fresh: Any, learnt: Any) -> Any:
    """First variables with a learnt backbone, without its layers after the map that is judged."""
    parts = {collection: {name: learnt[collection][name] for name in tree["backbone"]}
             for collection, tree in fresh.items() if "backbone" in tree}
    return with_part(fresh, "backbone", parts)


def _in(path: str, module: str) -> bool:
    return path.startswith(f"{module}/")
