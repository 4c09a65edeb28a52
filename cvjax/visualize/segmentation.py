"""Coloured label maps over their photos: prediction, truth, and wrong pixels."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from PIL import Image

from cvjax.visualize.colours import class_colours
from cvjax.visualize.sheet import GAP, LINE, MARGIN, Sheet, check_images, class_labels, enlarge

_SMALL, _LARGE = 160, 360  # the longer side of a picture is between these, in pixels
_PAINT = 0.6  # weight of the colour in an overlay
_VOID = 255
_BACKGROUND = "background"  # a class of this name is not painted
_WRONG = (0.9, 0.1, 0.1)
_NAME = 128  # width of a name in the legend, in pixels


def paint_labels(image: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A label map over its photo: float32 `(H, W, 3)` in [0, 1].

    Pixels of a class called "background" show the photo. Pixels that do not count (255) show it in dark grey.

    image: float `(H, W, 1 | 3)` in [0, 1]. labels: int `(H, W)` in [0, K) or 255. names: K of them. Anything else
    raises ValueError.
    """
    image, labels = check_images(image[None])[0], np.asarray(labels)
    if labels.shape != image.shape[:2] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers {image.shape[:2]}, received {labels.dtype} of shape {labels.shape}")
    wrong = (labels != _VOID) & ((labels < 0) | (labels >= len(names)))
    if wrong.any():
        raise ValueError(f"labels must lie in [0, {len(names)}) or be {_VOID}, received {labels[wrong][0]}")
    grey = image.mean(axis=-1, keepdims=True)
    known = np.where(labels == _VOID, 0, labels)
    painted = _PAINT * class_colours(len(names))[known] + (1 - _PAINT) * grey
    unpainted = np.array([name == _BACKGROUND for name in names])[known][..., None]
    painted = np.where(unpainted, np.broadcast_to(image, painted.shape), painted)
    return np.where((labels == _VOID)[..., None], 0.4 * grey, painted).astype(np.float32)


def segmentation_panel(path: str | PathLike, images: Sequence[np.ndarray], predictions: Sequence[np.ndarray],
                       truths: Sequence[np.ndarray] | None, names: Sequence[str], *, title: str = "") -> None:
    """Save a PNG with a row per photo: the photo, the prediction, the truth, and wrong pixels in red.

    A legend of the classes is below.

    Args:
      images: float `(H, W, 1 | 3)` in [0, 1] each, at least one; sizes may differ.
      predictions: int `(H, W)` in [0, K) each.
      truths: the same, and 255 for pixels that do not count. None if they are unknown: then a row has only the photo
        and the prediction.
      names: one per class.

    Raises:
      ValueError: anything else.
    """
    if not len(images) or len(predictions) != len(images) or (truths is not None and len(truths) != len(images)):
        raise ValueError(f"there must be a prediction, and a truth or none, for each image, received {len(images)}, "
                         f"{len(predictions)} and {'none' if truths is None else len(truths)}")
    rows, seen = [], set()
    for number, (image, prediction) in enumerate(zip(images, predictions)):
        image, prediction = check_images(np.asarray(image)[None])[0], np.asarray(prediction)
        pictures = [np.broadcast_to(image, (*image.shape[:2], 3)), paint_labels(image, prediction, names)]
        seen |= set(np.unique(prediction).tolist())
        said = ""
        if truths is not None:
            truth = np.asarray(truths[number])
            pictures.append(paint_labels(image, truth, names))
            counted = truth != _VOID
            seen |= set(np.unique(truth).tolist())
            grey = np.broadcast_to(0.3 + 0.7 * image.mean(axis=-1, keepdims=True), pictures[0].shape)
            pictures.append(np.where((counted & (truth != prediction))[..., None], np.array(_WRONG, np.float32), grey))
            right = (truth == prediction)[counted].mean() if counted.any() else np.nan
            said = f"{100 * right:.1f} % of the pixels right" if counted.any() else "no pixel counts"
        rows.append(([_fitted(picture) for picture in pictures], said))

    headings = ["photo", "prediction", "truth", "wrong"][:len(rows[0][0])]
    widest = max(pictures[0].shape[1] for pictures, _ in rows)
    inner = len(headings) * (widest + GAP) - GAP
    colours = [np.ones(3) * 0.9 if name == _BACKGROUND else colour
               for name, colour in zip(names, class_colours(len(names)))]
    words = [(colours[label], name) for label, name in enumerate(class_labels(names)) if label in seen]
    words += [(np.ones(3) * 0.2, "does not count")] * (_VOID in seen)
    columns = max(1, inner // _NAME)
    legend = -(-len(words) // columns) * LINE
    heights = [pictures[0].shape[0] + (LINE if said else 0) + GAP for pictures, said in rows]
    sheet = Sheet(inner + 2 * MARGIN, LINE + sum(heights) + GAP + legend + MARGIN, title)
    for place, heading in enumerate(headings):
        sheet.write(heading, MARGIN + place * (widest + GAP), 0, widest, centred=True)
    top = LINE
    for (pictures, said), height in zip(rows, heights):
        for place, picture in enumerate(pictures):
            sheet.paste(picture, MARGIN + place * (widest + GAP), top)
        if said:
            sheet.write(said, MARGIN + 3 * (widest + GAP), top + pictures[0].shape[0], widest, size=7, colour="dimgrey")
        top += height
    for number, (colour, name) in enumerate(words):
        row, column = divmod(number, columns)
        left, down = MARGIN + column * _NAME, top + GAP + row * LINE
        sheet.paste(np.broadcast_to(colour, (LINE - 5, LINE - 5, 3)), left, down + 2)
        sheet.write(name, left + LINE, down, _NAME - LINE - GAP)
    sheet.save(path)


def _fitted(picture: np.ndarray) -> np.ndarray:
    """A small picture enlarged with crisp pixels, or a large one shrunk smoothly."""
    height, width = picture.shape[:2]
    if max(height, width) <= _LARGE:
        return enlarge(picture, max(1, -(-_SMALL // max(height, width))))
    share = _LARGE / max(height, width)
    size = max(1, round(width * share)), max(1, round(height * share))
    whole = Image.fromarray(np.rint(255 * picture).astype(np.uint8))
    return np.asarray(whole.resize(size, Image.Resampling.BICUBIC)) / np.float32(255)
