"""Random views of training images for self-distillation: their recipe from options, and their picture."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from cvjax.data.augment import View, changed_crops, multi_crop
from cvjax.data.crops import RandomResizedCrop, SeveralCrops, Squeeze
from cvjax.visualize.views import views_panel
from cvjax.workflow.colours import check_colours
from cvjax.workflow.image_inputs import ImageInputs
from cvjax.workflow.normalization import displayable

SQUARE = 1.5  # side of the square that pictures are squeezed into, relative to the model's image size


class ViewOptions(Protocol):
    """The options that all views of a training share."""

    @property
    def squeeze(self) -> bool: ...
    @property
    def flip(self) -> bool: ...
    @property
    def color_jitter(self) -> tuple[float, float, float, float]: ...
    @property
    def grayscale(self) -> float: ...
    @property
    def blur_sigma(self) -> tuple[float, float]: ...


def recipe(config: ViewOptions, size: int, scale: tuple[float, float], blur: float, solarize: float = 0.0) -> View:
    """The recipe of one view of side `size`; see `View`."""
    return View(size=size, scale=scale, flip=config.flip, jitter=config.color_jitter, grayscale=config.grayscale,
                blur=blur, blur_sigma=config.blur_sigma, solarize=solarize)


def with_views(config: ViewOptions, inputs: ImageInputs, global_views: Sequence[View], local_view: View,
               local_crops: int) -> ImageInputs:
    """The inputs with files read as the views need them: all views' crops, or the picture squeezed into a square."""
    channels = inputs.dataset.channels
    check_colours(config, channels, {"color_jitter": (0.0,) * 4, "grayscale": 0.0})
    if config.squeeze:
        return dataclasses.replace(inputs, reader=Squeeze(round(inputs.image_size * SQUARE), channels=channels))
    kinds = (("global", global_views[0], len(global_views)), ("local", local_view, local_crops))
    crops = tuple((name, RandomResizedCrop(view.size, view.scale, channels=channels), count)
                  for name, view, count in kinds if count)
    return dataclasses.replace(inputs, reader=SeveralCrops(crops))


def views_of(key: jax.Array, example: Mapping[str, jax.Array], global_views: Sequence[View], local_view: View,
             local_crops: int) -> list[jax.Array]:
    """The views of `multi_crop`; example: `global` and `local` where the host made the crops, or `image` uint8
    `(H, W, C)`, with `extent` where it was squeezed."""
    if "global" in example:
        crops = [example[name] for name in ("global", "local") if name in example]
        return changed_crops(key, crops, global_views, local_view)
    return multi_crop(key, example["image"], global_views, local_view, local_crops, example.get("extent"))


def draw_views(path: Path, views: Callable[[jax.Array, Mapping[str, jax.Array]], Any], inputs: ImageInputs,
               names: Sequence[str], *, seed: int, title: str) -> None:
    """Draw eight training images and their views.

    views(key, example) -> a list of normalised views `(V, h, w, C)`, one entry for each of `names`.
    """
    batch = {name: array[:8] for name, array in next(inputs.train_batches(seed=seed, workers=0)).items()}
    keys = jax.random.split(jax.random.key(seed), len(batch["index"]))
    shown = [np.asarray(displayable(x, inputs.preprocessing)) for x in jax.jit(jax.vmap(views))(keys, batch)]
    whole = batch["image"] if "image" in batch else inputs.records("train", batch["index"])[0]
    views_panel(path, whole / 255, dict(zip(names, shown, strict=False)), title=title)
