"""Where a classifier looked: each image next to its heat maps (Grad-CAM, occlusion, attention rollout)."""

from collections.abc import Mapping, Sequence
from os import PathLike

import jax
import numpy as np
from matplotlib import colormaps
from numpy.typing import ArrayLike

from cvjax.visualize.sheet import (
    GAP,
    LINE,
    MARGIN,
    RIGHT,
    WRONG,
    Sheet,
    check_classes,
    check_images,
    check_probability,
    class_labels,
    columns_for,
    enlarge,
    zoom_to,
)

_TILE = 144  # smallest side of a picture, in pixels
_HEAT = 0.6  # weight of the colour in an overlay


def overlay(images: ArrayLike, heat: ArrayLike) -> np.ndarray:
    """Coloured heat maps over grey images: float32 `(N, H, W, 3)` in [0, 1].

    images: float `(N, H, W, C)` in [0, 1]. heat: finite `(N, h, w)`, enlarged to the image. Negative values
    count as 0; each map is coloured from its own minimum (blue) to its own maximum (red). A constant map is blue.
    Raises ValueError for anything else.
    """
    images, heat = check_images(images), np.asarray(heat, np.float32)
    if heat.ndim != 3 or len(heat) != len(images) or not np.isfinite(heat).all():
        raise ValueError(f"heat must be finite (N, h, w) with N = {len(images)}, received shape {heat.shape}")
    heat = np.maximum(heat, 0)  # a negative value does not speak for the class
    low, high = heat.min(axis=(1, 2), keepdims=True), heat.max(axis=(1, 2), keepdims=True)
    heat = (heat - low) / np.where(high > low, high - low, 1)
    heat = np.asarray(jax.image.resize(heat, images.shape[:3], "linear"))
    colours = colormaps["turbo"](0.1 + 0.8 * heat)[..., :3]  # without the dark ends of the colour map
    return np.asarray((1 - _HEAT) * images.mean(axis=-1, keepdims=True) + _HEAT * colours, np.float32)


def heatmap_panel(path: str | PathLike, images: ArrayLike, heatmaps: Mapping[str, np.ndarray],
                  labels: ArrayLike | None, predictions: ArrayLike, probability: ArrayLike, names: Sequence[str], *,
                  title: str = "") -> None:
    """Save a PNG: for each example its predicted and true class, the image, and each heat map with its range.

    Args:
      images: float `(N, H, W, C)` in [0, 1], N > 0.
      heatmaps: heading -> finite `(N, h, w)`, any range; see `overlay`.
      labels, predictions: int `(N,)`, true and predicted classes; labels None if they are unknown.
      probability: `(N,)` in [0, 1], of the prediction.
      names: one per class.

    Raises:
      ValueError: anything else.
    """
    images = check_images(images)
    count = len(images)
    if not count or not heatmaps:
        raise ValueError(f"there must be an image and a heat map, received {count} and {len(heatmaps)}")
    labels = None if labels is None else check_classes("labels", labels, count, names)
    predictions = check_classes("predictions", predictions, count, names)
    probability, words = check_probability(probability, count), class_labels(names)
    # Enlarged before the overlay, so that the heat is smooth over coarse pixels.
    images = enlarge(images, zoom_to(_TILE, *images.shape[1:3]))
    height, width = images.shape[1:3]
    overlays = {heading: overlay(images, heat) for heading, heat in heatmaps.items()}

    block = (1 + len(overlays)) * (width + GAP) - GAP, height + 3 * LINE
    pitch = block[0] + 2 * MARGIN, block[1] + MARGIN
    columns = columns_for(count, *pitch)
    rows = -(-count // columns)
    sheet = Sheet(columns * pitch[0], LINE + rows * pitch[1], title)
    for column in range(columns):
        for place, heading in enumerate(["image", *overlays]):
            sheet.write(heading, column * pitch[0] + MARGIN + place * (width + GAP), 0, width, centred=True)
    for example in range(count):
        row, column = divmod(example, columns)
        left, top = column * pitch[0] + MARGIN, LINE + row * pitch[1] + GAP
        predicted = predictions[example]
        colour = "black" if labels is None else RIGHT if predicted == labels[example] else WRONG
        sheet.write(f"{_percent(probability[example])} {words[predicted]}", left, top, block[0], colour=colour)
        if labels is not None:
            sheet.write(f"true: {words[labels[example]]}", left, top + LINE, block[0])
        top += 2 * LINE
        sheet.paste(images[example], left, top)
        for place, (heading, pictures) in enumerate(overlays.items(), start=1):
            x, heat = left + place * (width + GAP), np.asarray(heatmaps[heading][example])
            sheet.paste(pictures[example], x, top)
            sheet.write(f"{heat.min():.2g} to {heat.max():.2g}", x, top + height, width, size=7, colour="dimgrey",
                        centred=True)
    sheet.save(path)


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"
