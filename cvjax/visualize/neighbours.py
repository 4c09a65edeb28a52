"""Queries next to their nearest training images in the feature space of a frozen network."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from matplotlib.colors import to_rgb
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
    class_labels,
    columns_for,
    enlarge,
    zoom_to,
)

_TILE = 96  # smallest side of a picture, in pixels
_FRAME = 4  # width of the frame around a neighbour


def neighbour_panel(path: str | PathLike, images: ArrayLike, neighbours: ArrayLike, similarity: ArrayLike,
                    labels: ArrayLike | None, neighbour_labels: ArrayLike, names: Sequence[str], *,
                    title: str = "") -> None:
    """Save a PNG: for each query its image and class, then its neighbours with class and similarity.

    A neighbour of the query's class has a green frame, and one of another class has a red frame.

    Args:
      images: float `(N, H, W, C)` in [0, 1], N > 0, the queries.
      neighbours: float `(N, k, H, W, C)` in [0, 1], nearest first, k > 0.
      similarity: finite `(N, k)`.
      labels: int `(N,)`, the queries' true classes; None if they are unknown: then there are no frames.
      neighbour_labels: int `(N, k)`.
      names: one per class.

    Raises:
      ValueError: anything else.
    """
    neighbours, similarity, shape = np.asarray(neighbours), np.asarray(similarity, np.float64), np.shape(images)
    images = check_images(images)
    count = len(images)
    if neighbours.ndim != 5 or len(neighbours) != count or neighbours.shape[2:] != shape[1:] \
            or 0 in neighbours.shape[:2]:
        raise ValueError(f"neighbours must be (N, k, H, W, C) with k > 0 for images {shape} with N > 0, "
                         f"received {neighbours.shape}")
    k = neighbours.shape[1]
    neighbours = check_images(neighbours.reshape(-1, *neighbours.shape[2:]))
    if similarity.shape != (count, k) or not np.isfinite(similarity).all():
        raise ValueError(f"similarity must be finite {(count, k)}, one per neighbour, received {similarity.shape}")
    if np.shape(neighbour_labels) != (count, k):
        raise ValueError(f"neighbour_labels must be {(count, k)}, one per neighbour, "
                         f"received {np.shape(neighbour_labels)}")
    classes = check_classes("neighbour_labels", np.ravel(neighbour_labels), count * k, names).reshape(count, k)
    labels = None if labels is None else check_classes("labels", labels, count, names)
    words = class_labels(names)

    zoom = zoom_to(_TILE, *images.shape[1:3])
    images, neighbours = enlarge(images, zoom), enlarge(neighbours, zoom).reshape(count, k, *(
        zoom * side for side in images.shape[1:3]), -1)
    height, width = images.shape[1:3]
    step = width + 2 * _FRAME + GAP
    block = width + MARGIN + k * step - GAP, height + 2 * _FRAME + 2 * LINE
    pitch = block[0] + 2 * MARGIN, block[1] + GAP
    columns = columns_for(count, *pitch)
    sheet = Sheet(columns * pitch[0], LINE + -(-count // columns) * pitch[1] + GAP, title)
    for column in range(columns):
        left = column * pitch[0] + MARGIN
        sheet.write("query", left, 0, width)
        sheet.write("nearest in the training set: class and similarity" if k > 2 else "nearest",
                    left + width + MARGIN, 0, k * step - GAP)
    for query in range(count):
        row, column = divmod(query, columns)
        left, top = column * pitch[0] + MARGIN, LINE + row * pitch[1]
        sheet.paste(images[query], left, top + _FRAME)
        below = top + height + 2 * _FRAME
        if labels is not None:
            sheet.write(words[labels[query]], left, below, width)
        for place in range(k):
            x, found = left + width + MARGIN + place * step, classes[query, place]
            colour = "black" if labels is None else RIGHT if found == labels[query] else WRONG
            if labels is not None:
                sheet.paste(_plain(colour, height + 2 * _FRAME, width + 2 * _FRAME), x, top)
            sheet.paste(neighbours[query, place], x + _FRAME, top + _FRAME)
            sheet.write(words[found], x, below, width + 2 * _FRAME, colour=colour)
            sheet.write(f"{similarity[query, place]:.3f}", x, below + LINE, width + 2 * _FRAME, size=7,
                        colour="dimgrey")
    sheet.save(path)


def _plain(colour: str, height: int, width: int) -> np.ndarray:
    """One colour, `(height, width, 3)`."""
    return np.broadcast_to(np.array(to_rgb(colour), np.float32), (height, width, 3))
