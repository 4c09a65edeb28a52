"""The work of `python -m experiments.classify`; its options are in experiments/classify.py."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from cvjax.data.crops import EvaluationCrop
from cvjax.data.decode import DecodeError
from cvjax.data.picture import picture_of
from cvjax.errors import ConfigError, DataError
from cvjax.interop import load_weights
from cvjax.interop.published import resizing_as
from cvjax.models import create_model
from cvjax.models.images import as_pair
from cvjax.text import printable, read_text
from cvjax.visualize.heatmaps import heatmap_panel
from cvjax.workflow.classification.goal import Classification, Regression
from cvjax.workflow.classification.model import (
    Classifier,
    create_model_or_fail,
    ensemble,
    load_classifier,
    parse_fields,
)
from cvjax.workflow.classification.report import explanations
from cvjax.workflow.config import config_errors, require
from cvjax.workflow.normalization import displayable, preprocess
from cvjax.workflow.preprocessing import chosen, open_weights
from experiments.classify import Config


def run(config: Config) -> None:
    """Print the likeliest classes or labels of each picture, or its numbers, and name unreadable ones.

    DataError if all of them are.
    """
    classifiers = [load_classifier(run) for run in config.checkpoint] or [published(config)]
    goal, channels = classifiers[0].goal, classifiers[0].channels
    if isinstance(goal, Regression):
        for name in ("threshold", "figure"):
            require(getattr(config, name) is None, name, getattr(config, name),
                    f"left out for {goal.words}, which have no probability")
    if config.checkpoint:
        classifiers = [dataclasses.replace(each, preprocessing=chosen(config, each.preprocessing, channels))
                       for each in classifiers]
    crop = EvaluationCrop(max(each.image_size for each in classifiers), channels, classifiers[0].preprocessing)
    images, readable, unreadable = [], [], []
    for path in config.images:
        try:
            images.append(crop(picture_of(path)))
            readable.append(path)
        except (OSError, DecodeError) as error:
            unreadable.append(path)
            print(printable(f"{path}: {error.strerror if isinstance(error, OSError) else error}"))
    if not images:
        raise DataError(f"none of the {len(config.images)} images can be read")
    compiled = jax.jit(ensemble(classifiers))
    variables = [each.variables for each in classifiers]
    answers = np.concatenate([np.asarray(compiled(variables, image[None])) for image in images])
    for path, row in zip(readable, answers):
        print(printable(f"{path}: {goal.say(row, config.top, config.threshold)}"))
    if unreadable:
        print(f"{len(unreadable)} of {len(config.images)} images could not be read")
    if config.figure:
        draw(config.figure, classifiers[0], np.stack(images), answers)


def draw(path: Path, classifier: Classifier, images: np.ndarray, answers: np.ndarray) -> None:
    """The heat maps of `cvjax.workflow.classification.report`, over the pictures."""
    seen = preprocess(images, classifier.image_size, classifier.preprocessing)
    classes = answers.argmax(axis=1)
    heat = explanations(classifier.model, classifier.variables, seen, classes)
    if not heat:
        raise ConfigError(f"--figure {path}: this classifier has no feature maps to explain its answers by")
    heatmap_panel(path, np.asarray(displayable(seen, classifier.preprocessing)), heat, None, classes,
                  answers.max(axis=1), classifier.goal.names)
    print(f"drawn to {path}")


def published(config: Config) -> Classifier:
    """The classifier of --model with --weights; ConfigError for weights without a head of the model's classes."""
    assert config.model is not None and config.weights is not None  # checked with the options
    create_model_or_fail(config.model)
    weights, how = open_weights("weights", config.weights, config.model)
    size, fields = config.image_size or weights.image_size, {}
    if size is not None:
        fields["image_size"] = size
    if weights.num_classes:
        fields["num_classes"] = weights.num_classes
    with config_errors():
        model = resizing_as(create_model(config.model, **fields | parse_fields(config.model_fields)),
                            weights.position_resize)
    try:
        variables = load_weights(model, weights.arrays, trained=weights.trained, whole=True)
    except ValueError as error:
        raise ConfigError(f"--weights {config.weights}: {error}; a head of N classes needs --model-fields "
                          "num_classes=N, weights without a head are for experiments.knn, experiments.linear_probe and "
                          "experiments.supervised --pretrained") from None
    names = weights.class_names if len(weights.class_names) == model.num_classes else tuple(
        f"class {i}" for i in range(model.num_classes))
    if config.class_names is not None:
        try:
            names = tuple(read_text(config.class_names).splitlines())
        except (OSError, DataError) as error:
            raise ConfigError(f"--class-names {config.class_names}: {error}") from None
        require(len(names) == model.num_classes, "class_names", config.class_names,
                f"{model.num_classes} lines long, but it has {len(names)}")
    return Classifier(model, jax.device_put(variables), as_pair(model.image_size)[0], model.in_channels,
                      chosen(config, how, model.in_channels), Classification(names))
