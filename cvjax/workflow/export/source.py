"""What is exported: the network of a run, or a registered model with published weights."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cvjax.errors import ConfigError
from cvjax.interop.pretrained import default_weights
from cvjax.models import create_model
from cvjax.storage import is_address
from cvjax.workflow.classification.model import classifier_of, parse_fields
from cvjax.workflow.config import config_errors
from cvjax.workflow.detection.model import detector_of
from cvjax.workflow.export.program import Network
from cvjax.workflow.frozen.encoder import encoder_of, published_encoder
from cvjax.workflow.prediction.predictor import ClassifierNetwork, DetectorNetwork, SegmenterNetwork
from cvjax.workflow.prediction.published import published_network
from cvjax.workflow.restore import Run, load_run
from cvjax.workflow.run_files import CONFIG, read_config
from cvjax.workflow.segmentation.model import segmenter_of


def open_run(place: str) -> Run:
    """The run in a folder or at an address; errors as in `load_run`, and ConfigError for a run without a network
    of its own."""
    folder = Path(place)
    if not is_address(place) and (folder / CONFIG).exists() and not (folder / "checkpoints").is_dir():
        experiment = read_config(folder)["experiment"]
        if experiment == "rcnn":
            raise ConfigError(f"{place} is a run of rcnn, whose stages (selective search, a network, SVMs, regression) "
                              "are no single program; runs of detect can be exported")
        raise ConfigError(f"{place} is a run of {experiment} and has no checkpoint: there is no network to export")
    return load_run(place).require_trained()


def network_of_run(run: Run) -> Network:
    """The network of a run, of whichever kind it is."""
    if run.kind == "encoder":
        return encoder_of(run)
    if run.kind == "segmenter":
        return segmenter_of(run)
    return detector_of(run) if run.kind == "detector" else classifier_of(run)


def network_of_model(name: str, weights: str | None, *, fields: Sequence[str] = (), image_size: int | None = None,
                     class_names: Path | None = None) -> Network:
    """The network of a registered model's name with published weights, by default timm's.

    fields: words such as `num_classes=21843`; `num_classes=0` gives an encoder. image_size, class_names, ConfigError:
    as in `published_network`.
    """
    with config_errors():
        create_model(name)
        if name.startswith("mae_"):
            raise ConfigError(f"{name} takes a mask besides the image: export its encoder, {name.removeprefix('mae_')}"
                              "_224, with --model-fields num_classes=0")
        weights = weights or default_weights(name)
    if parse_fields(fields).get("num_classes") == 0:
        return published_encoder(name, weights, fields=tuple(f for f in fields if not f.startswith("num_classes=")),
                                 image_size=image_size, blocks=1)
    asked, origin = published_network(name, weights, fields=fields, image_size=image_size, class_names=class_names)
    if isinstance(asked, ClassifierNetwork):
        return dataclasses.replace(asked.classifiers[0], origin=origin)
    if isinstance(asked, SegmenterNetwork):
        return dataclasses.replace(asked.segmenter, origin=origin)
    assert isinstance(asked, DetectorNetwork)
    return dataclasses.replace(asked.detector, origin=origin)
