"""Runs written without training: a linear classifier whose answers can be worked out, or any network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.data.preprocessing import Preprocessing
from cvjax.models import create_model
from cvjax.models.image_model import ImageModel
from cvjax.train.checkpoint import Checkpointer
from cvjax.train.state import TrainState
from cvjax.workflow.config import DataConfig
from cvjax.workflow.restore import Kind, record_of


def write_run(folder: Path, sharpness: float = 2.0, *, names: tuple[str, ...] = ("dark", "light"), channels: int = 1,
              size: int = 8, step: int = 1, experiment: str = "supervised", kind: Kind = "classifier",
              data: str = "digits") -> Path:
    """A run whose probability of class 1 is the sigmoid of `sharpness` times the mean of the normalised image.

    Grey images are normalised to [-1, 1]: black has the mean -1, white 1.
    """
    kernel = np.zeros((size * size * channels, len(names)), np.float32)
    kernel[:, 1] = sharpness / len(kernel)
    params = {"fc": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(len(names))}}
    state = TrainState(jnp.asarray(np.int32(step)), params, {}, (), None, jax.random.key(0))
    model = create_model("linear", image_size=size, in_channels=channels, num_classes=len(names))
    meta = record_of(experiment, DataConfig(data=data), kind, model, image_size=(size, size), channels=channels,
                     preprocessing=Preprocessing.of(channels), class_names=names, validated=False)
    with Checkpointer(folder / "checkpoints", best_metric="top1") as checkpointer:
        checkpointer.save(state, meta, {"top1": 1 / step})  # an earlier step is the better one
    return folder


def light(sharpness: float, grey: float) -> float:
    """The probability of "light" of a constant picture of this grey level."""
    return 1 / (1 + np.exp(-sharpness * (grey / 127.5 - 1)))


def write_model_run(folder: Path, model: ImageModel, variables: Any, *, names: Sequence[str] = (),
                    kind: Kind = "classifier", metrics: Mapping[str, float] | None = None,
                    experiment: str = "supervised", preprocessing: Preprocessing | None = None,
                    image_size: int | None = None, config: Mapping[str, Any] | None = None, **facts: Any) -> Path:
    """A run of any network with these variables.

    metrics: those of its summary; None for a run that is not complete. image_size: side of the images that it is judged
    on, by default the model's own. config: fields of its configuration, besides the data.
    """
    size, fields = image_size or model.image_size, {"data": "digits", "seed": 3} | dict(config or {})
    params, state = variables["params"], {key: value for key, value in variables.items() if key != "params"}
    state = TrainState(jnp.int32(1), *jax.tree.map(jnp.asarray, (params, state)), (), None, jax.random.key(0))
    meta = record_of(experiment, DataConfig(), kind, model, image_size=(size, size), channels=model.in_channels,
                     preprocessing=preprocessing or Preprocessing.of(model.in_channels), class_names=names,
                     validated=False, **facts) | {"config": fields, "total_steps": 1 if metrics is not None else 2}
    with Checkpointer(folder / "checkpoints") as checkpointer:
        checkpointer.save(state, meta)
    (folder / "config.json").write_text(json.dumps({"experiment": experiment, **fields}))
    if metrics is not None:
        summary = {"metrics": dict(metrics), "sources": [], "protocol": {"data": {"test_images": 360}},
                   "versions": {"jax": "1.2.3"}}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder
