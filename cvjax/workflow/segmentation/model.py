"""Segmentation models: built from options or read from a run, and their predictions for photos of any size.

Training sees crops of one size. Evaluation sees whole images, which may be padded (see `bucket_sizes`) but are never
resized.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.data.decode import decode
from cvjax.data.label_maps.crops import PadLabelled
from cvjax.data.picture import Picture, picture_of
from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError
from cvjax.models.image_model import ImageModel
from cvjax.tasks.task import outputs_of
from cvjax.workflow.classification.model import check_model, create_asked, create_model_or_fail
from cvjax.workflow.config import NetworkOptions
from cvjax.workflow.normalization import normalized
from cvjax.workflow.origin import Origin
from cvjax.workflow.restore import Run, load_run

_STEP = 32  # photos are padded to multiples of this, so that few sizes are compiled


def build_segmenter(config: NetworkOptions, crop_size: tuple[int, int], *, channels: int,
                    num_classes: int) -> ImageModel:
    """The model that a configuration describes, for crops of this height and width; ConfigError if it cannot be built.
    """
    height, width = crop_size
    model = create_asked(config, create_model_or_fail(config.model), image_size=(height, width), in_channels=channels,
                         num_classes=num_classes)
    gives = check_model(model, config.model, (height, width, channels))
    if gives != (1, height, width, num_classes):
        raise ConfigError(f"--model {config.model} gives {'x'.join(map(str, gives[1:]))} numbers for an image of "
                          f"{height}x{width}: it must give a class for each pixel, as fcn and fcn8s_vgg16 do")
    return model


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A trained model with its variables, and what its outputs mean. channels: of its images, 1 or 3.
    preprocessing: of its images. origin: what the variables were read from; None where they were not.
    """

    model: ImageModel
    variables: Any
    class_names: tuple[str, ...]
    channels: int
    preprocessing: Preprocessing
    origin: Origin | None = None

    def predict(self, image: Picture) -> np.ndarray:
        """Classes uint8 `(H, W)` of one photo of any size: a path, or another form that `picture_of` takes.

        The photo is padded to multiples of 32 pixels; each padded size is compiled once. DecodeError if the photo is no
        image, OSError if it cannot be read.
        """
        padded, (height, width) = self.padded(picture_of(image))
        return np.asarray(self._compiled(self.variables, padded[None]))[0, :height, :width]

    def padded(self, image: bytes | np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """A photo as the model sees it, uint8 `(h, w, C)`, and the height and width that it has itself."""
        pixels = decode(image, self.channels)
        height, width = pixels.shape[:2]
        sides = -(-height // _STEP) * _STEP, -(-width // _STEP) * _STEP
        return PadLabelled(sides, self.channels)(pixels)["image"], (height, width)

    def labels(self, variables: Any, images: jax.Array) -> jax.Array:
        """Classes uint8 `(B, H, W)` of images uint8 `(B, H, W, C)`."""
        logits = outputs_of(self.model, variables, normalized(images, self.preprocessing), train=False)
        return logits.argmax(axis=-1).astype(jnp.uint8)

    @functools.cached_property
    def _compiled(self) -> Callable[[Any, np.ndarray], jax.Array]:
        return jax.jit(self.labels)


def load_segmenter(path: str | Path, step: str | int = "judged") -> Segmenter:
    """The segmentation model of a run; step and errors as in `load_run`."""
    return segmenter_of(load_run(path, step).require("segmenter"))


def segmenter_of(run: Run) -> Segmenter:
    """The segmentation model of a run that has been read."""
    return Segmenter(run.model, run.variables, run.class_names, run.channels, run.preprocessing, run.origin)
