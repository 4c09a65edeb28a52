"""A network from published weights, as it answers about pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError, DataError
from cvjax.interop.pretrained import fitted
from cvjax.models import create_model
from cvjax.models.image_model import ImageModel
from cvjax.models.images import as_pair
from cvjax.tasks.detection import DETECTORS
from cvjax.text import read_text
from cvjax.workflow.classification.goal import Classification
from cvjax.workflow.classification.model import Classifier, check_model, create_model_or_fail, parse_fields
from cvjax.workflow.config import PreprocessingOptions, config_errors, require
from cvjax.workflow.detection.model import TrainedDetector
from cvjax.workflow.origin import Origin
from cvjax.workflow.prediction.predictor import ClassifierNetwork, DetectorNetwork, Network, SegmenterNetwork
from cvjax.workflow.preprocessing import chosen, open_weights, origin_of_weights
from cvjax.workflow.segmentation.model import Segmenter


def published_network(name: str, weights: str, *, fields: Sequence[str] = (), image_size: int | None = None,
                      class_names: Path | None = None, options: PreprocessingOptions | None = None
                      ) -> tuple[Network, Origin]:
    """The network of a registered model's name with published weights, and what they were read from.

    fields: words such as `num_classes=21843`. image_size: side of the images that a classifier sees; None for the one
    that the weights are judged on, or else the model's own. class_names: a text file with a name on each line; None for
    those that come with the weights, or else numbers. options: what they say of images replaces what is published.
    ConfigError for weights without a head of the model's classes.
    """
    create_model_or_fail(name)
    published, how = open_weights("weights", weights, name, parse_fields(fields))
    given = {} if image_size is None else {"image_size": image_size}
    with config_errors():
        create_model(name, **given | parse_fields(fields))  # says what is wrong with the options alone
    try:
        model, variables = fitted(name, published, given | parse_fields(fields), whole=True)
    except ValueError as error:
        raise ConfigError(f"--weights {weights}: {error}; a head of N classes needs --model-fields num_classes=N, "
                          "weights without a head are for experiments.knn, experiments.linear_probe and "
                          "experiments.supervised --pretrained") from None
    names = _names(model.num_classes, published.class_names, class_names)
    preprocessing = chosen(options, how, model.in_channels)
    network = _as_network(name, model, jax.device_put(variables), names, preprocessing)
    return network, origin_of_weights(weights, published)


def _as_network(name: str, model: ImageModel, variables: Any, names: tuple[str, ...],
                how: Preprocessing) -> Network:
    if type(model) in DETECTORS:
        detector = DETECTORS[type(model)](model)
        if detector.needs:
            raise ConfigError(f"--model {name} is given regions, whose search no weight file states")
        return DetectorNetwork(TrainedDetector(model, detector, variables, names, model.in_channels, how, None))
    side = as_pair(model.image_size)[0]
    if len(check_model(model, name, (side, side, model.in_channels))) == 4:  # a class for each pixel
        return SegmenterNetwork(Segmenter(model, variables, names, model.in_channels, how))
    return ClassifierNetwork([Classifier(model, variables, side, model.in_channels, how, Classification(names))])


def _names(count: int, published: tuple[str, ...], path: Path | None) -> tuple[str, ...]:
    if path is None:
        return published if len(published) == count else tuple(f"class {i}" for i in range(count))
    try:
        names = tuple(read_text(path).splitlines())
    except (OSError, DataError) as error:
        raise ConfigError(f"--class-names {path}: {error}") from None
    require(len(names) == count, "class_names", path, f"{count} lines long, but it has {len(names)}")
    return names
