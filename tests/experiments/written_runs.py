"""Runs written without training: a linear classifier whose answers can be worked out."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.data.preprocessing import Preprocessing
from cvjax.models import create_model
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
