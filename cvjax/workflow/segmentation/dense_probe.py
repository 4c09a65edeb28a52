"""The frozen network whose maps a linear layer judges, and the model of both: `experiments.segment --frozen`."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from cvjax.interop.hub import holds_weights
from cvjax.interop.pretrained import default_weights
from cvjax.models.dense_probe import DenseProbe
from cvjax.models.image_model import ImageModel
from cvjax.models.registry import changed_fields, name_of
from cvjax.workflow.classification.model import asked, check_model
from cvjax.workflow.config import config_errors
from cvjax.workflow.frozen.encoder import Encoder, load_encoder, published_encoder

_SHARED = ("num_classes", "image_size", "in_channels", "dtype", "axis_name")  # given by the probe, see `OnBackbone`


def frozen_network(config: Any) -> Encoder:
    """The network of `--pretrained`: a run's, or `--model` with a file; without it, with the weights that timm takes.

    ConfigError for what cannot be read. Prints that a run's network has its own name and fields.
    """
    if config.pretrained and Path(config.pretrained).is_dir() and not holds_weights(Path(config.pretrained)):
        encoder = load_encoder(config.pretrained, "judged")
        print(f"frozen: the network of {config.pretrained}, in place of --model and --model-fields")
        return encoder
    with config_errors():
        weights = config.pretrained or default_weights(config.model)
    return published_encoder(config.model, weights, fields=config.model_fields, option="pretrained")


def build_dense_probe(config: Any, encoder: Encoder, *, num_classes: int) -> ImageModel:
    """A linear layer on an encoder; ConfigError for a network without the map, or that takes no crops of this size."""
    name = name_of(encoder.model)
    fields = changed_fields(encoder.model, name)
    kind, known = type(encoder.model).__name__, {field.name for field in dataclasses.fields(encoder.model)}
    for option in ("remat", "scan", "attention"):
        fields |= asked(option, getattr(config, option), kind, known)
    fields = {field: value for field, value in fields.items() if field not in _SHARED}
    model = DenseProbe(name, fields, map=config.map or "", image_size=encoder.model.image_size,
                       in_channels=encoder.channels, num_classes=num_classes, dtype=jnp.dtype(config.dtype))
    check_model(model, kind, (*config.crop_size, encoder.channels))
    return model
