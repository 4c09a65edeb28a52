"""The most confident mistakes of a classifier: often wrong labels, or classes that look alike."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from numpy.typing import ArrayLike

from cvjax.visualize.sheet import (
    GAP,
    LINE,
    MARGIN,
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

_TILE = 136  # smallest side of a picture, in pixels, which leaves about 20 letters for a name below it


def mistake_panel(path: str | PathLike, images: ArrayLike, labels: ArrayLike, predictions: ArrayLike,
                  probability: ArrayLike, names: Sequence[str], *, most: int = 24, total: int | None = None,
                  title: str = "") -> None:
    """Save a PNG of the `most` most confident mistakes: image, probability and prediction, true class.

    The most confident one comes first. If there is no mistake, the picture says so.

    Args:
      images: float `(N, H, W, C)` in [0, 1], of right and wrong predictions; N may be 0.
      labels, predictions: int `(N,)`, true and predicted classes.
      probability: `(N,)` in [0, 1], of the prediction.
      names: one per class.
      most: largest number of mistakes shown, at least 1.
      total: number of all mistakes, if only some of them are given; None: those given are all.

    Raises:
      ValueError: anything else, or `most` below 1.
    """
    if most < 1:
        raise ValueError(f"most must be at least 1, received {most}")
    images = check_images(images)
    count = len(images)
    labels = check_classes("labels", labels, count, names)
    predictions = check_classes("predictions", predictions, count, names)
    probability, words = check_probability(probability, count), class_labels(names)
    wrong = np.flatnonzero(labels != predictions)
    shown = wrong[np.argsort(-probability[wrong], kind="stable")][:most]
    if not len(shown):
        sheet = Sheet(480, 96, title)
        sheet.write("no mistakes", 0, 36, 480, size=12, centred=True)
        return sheet.save(path)

    images = enlarge(images[shown], zoom_to(_TILE, *images.shape[1:3]))
    height, width = images.shape[1:3]
    pitch = width + 2 * GAP, height + 2 * LINE + 2 * GAP
    columns = columns_for(len(shown), *pitch)
    rows = -(-len(shown) // columns)
    sheet = Sheet(max(columns * pitch[0] + 2 * MARGIN, 240), rows * pitch[1] + LINE + MARGIN, title)
    total = len(wrong) if total is None else total
    sheet.write(f"{len(shown)} of {total} mistake{'s' * (total > 1)}", MARGIN, 0, 200)
    for place, (example, image) in enumerate(zip(shown, images)):
        row, column = divmod(place, columns)
        left, top = MARGIN + column * pitch[0], LINE + GAP + row * pitch[1]
        sheet.paste(image, left, top)
        said = f"{100 * probability[example]:.1f} % {words[predictions[example]]}"
        sheet.write(said, left, top + height, width, colour=WRONG)
        sheet.write(f"true: {words[labels[example]]}", left, top + height + LINE, width)
    sheet.save(path)
