"""Pictures with their objects in boxes: the truth beside the detections."""

from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np
from numpy.typing import ArrayLike

from cvjax.visualize.colours import class_colours
from cvjax.visualize.sheet import (
    GAP,
    LINE,
    MARGIN,
    Sheet,
    check_classes,
    check_images,
    class_labels,
    columns_for,
    enlarge,
    zoom_to,
)

_TILE = 240  # smallest side of a picture, in pixels
_LINE_WIDTH = 2
_DASH = 6
_SWATCH = 12
_LABEL = 25  # width of a score
_CHARACTER = 7  # width of a letter of a legend, in pixels


def detection_panel(path: str | PathLike, images: ArrayLike, names: Sequence[str], *, truth: Mapping | None = None,
                    found: Mapping | None = None, extent: ArrayLike | None = None,
                    least_score: float | Sequence[float] = 0.3, title: str = "") -> None:
    """Save a PNG: each picture with its true boxes, and next to it the picture with detected boxes and their scores.

    A legend shows the colour of each class. Boxes of difficult objects are dashed.

    Args:
      images: float `(N, H, W, C)` in [0, 1], N > 0, C = 1 or 3.
      names: one per class.
      truth: `boxes` `(N, M, 4)`, corners x1 y1 x2 y2 in pixels of the images, `box_label` int `(N, M)`, `box_mask` bool
        `(N, M)` and, optionally, `box_difficult` bool `(N, M)`. None: no pictures of the truth.
      found: `boxes` `(N, D, 4)`, `box_label` int `(N, D)`, `valid` bool `(N, D)` and `score` `(N, D)`. None: no
        pictures of detections.
      extent: `(N, 2)`, height and width of each picture within its image; None: the whole image.
      least_score: boxes with a lower score are neither drawn nor counted. One number, or one per class.

    Raises:
      ValueError: anything else, or neither truth nor found.
    """
    images = check_images(images)
    count, height, width = images.shape[:3]
    if not count or truth is None and found is None:
        raise ValueError(f"there must be a picture and either truth or found, received {count} pictures")
    if extent is not None and np.shape(extent) != (count, 2):
        raise ValueError(f"extent must be {(count, 2)}, a height and width per picture, received {np.shape(extent)}")
    sides = np.full((count, 2), (height, width)) if extent is None else np.ceil(np.asarray(extent)).astype(int)
    high, wide = sides.max(0)
    marks = []
    if truth is not None:
        shown, boxes, labels = _checked("truth", truth, "box_mask", count, names)
        difficult = np.asarray(truth.get("box_difficult", np.zeros_like(shown)), bool)
        marks.append((shown, boxes, labels, difficult, None))
    if found is not None:
        shown, boxes, labels = _checked("found", found, "valid", count, names)
        score = np.asarray(found["score"], np.float64)
        if score.shape != shown.shape:
            raise ValueError(f"score must be {shown.shape}, one per box, received {score.shape}")
        if np.shape(least_score) not in ((), (len(names),)):
            raise ValueError(f"least_score must be a number or {(len(names),)}, received {np.shape(least_score)}")
        least = np.broadcast_to(least_score, len(names))[np.where(shown, labels, 0)]
        marks.append((shown & (score >= least), boxes, labels, np.zeros_like(shown), score))
    colours = class_colours(len(names))
    occurring = sorted({int(label) for shown, _, labels, *_ in marks for label in labels[shown]})

    zoom = zoom_to(_TILE, high, wide)
    tile = wide * zoom, high * zoom
    pitch = len(marks) * (tile[0] + GAP) + MARGIN, tile[1] + LINE + 2 * GAP
    columns = columns_for(count, *pitch)
    paper = columns * pitch[0] + MARGIN
    legend, lines = _legend(class_labels(names), occurring, paper - 2 * MARGIN)
    sheet = Sheet(paper, lines * LINE + GAP + -(-count // columns) * pitch[1] + GAP, title)
    for label, left, line, text in legend:
        sheet.paste(np.broadcast_to(colours[label], (_SWATCH, _SWATCH, 3)), MARGIN + left, line * LINE + 2)
        sheet.write(text, MARGIN + left + _SWATCH + 4, line * LINE, paper - 2 * MARGIN - left - _SWATCH - 4)
    for number in range(count):
        row, column = divmod(number, columns)
        top = lines * LINE + GAP + row * pitch[1]
        h, w = sides[number]
        for place, (shown, boxes, labels, difficult, score) in enumerate(marks):
            left = MARGIN + column * pitch[0] + place * (tile[0] + GAP)
            picture = enlarge(np.broadcast_to(images[number], (*images.shape[1:3], 3))[:h, :w], zoom)
            chosen = np.flatnonzero(shown[number])
            if score is not None:  # the highest score on top
                chosen = chosen[np.argsort(score[number, chosen], kind="stable")]
            for box in chosen:
                draw_box(picture, boxes[number, box] * zoom, colours[labels[number, box]],
                         dashed=bool(difficult[number, box]))
            sheet.paste(picture, left, top)
            if score is not None:
                for box in chosen:
                    _write_score(sheet, score[number, box], boxes[number, box] * zoom, colours[labels[number, box]],
                                 (left, top), picture.shape[:2])
            objects = f"{len(chosen)} object{'s' * (len(chosen) != 1)}"
            said = f"true: {objects}" if score is None else f"found: {objects}"
            if score is not None and not np.shape(least_score):
                said += f" of score {least_score:g} or more"
            sheet.write(said, left, top + tile[1], tile[0])
    sheet.save(path)


def draw_box(picture: np.ndarray, box: ArrayLike, colour: ArrayLike, *, dashed: bool = False) -> None:
    """Draw the outline of `box` (x1 y1 x2 y2, in pixels) into a picture `(h, w, 3)`, in place.

    Parts outside of the picture are cut off. colour: `(3,)` or a number.
    """
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = (int(v) for v in np.round(np.clip(box, 0, [width, height] * 2)))
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    outline = np.zeros((height, width), bool)
    outline[y1:y2, x1:x2] = True
    outline[y1 + _LINE_WIDTH:y2 - _LINE_WIDTH, x1 + _LINE_WIDTH:x2 - _LINE_WIDTH] = False
    if dashed:
        rows, columns = np.indices((height, width))
        outline &= (rows + columns) // _DASH % 2 == 0
    picture[outline] = colour


def _write_score(sheet: Sheet, score: float, box: np.ndarray, colour: np.ndarray, corner: tuple[int, int],
                 size: tuple[int, ...]) -> None:
    """Write the score on a label of the box's colour, above its upper left corner if the picture has room there."""
    text, height, width = f"{score:.2f}", min(LINE - 3, size[0]), min(_LABEL, size[1])
    x = int(np.clip(box[0], 0, size[1] - width))
    y = int(np.clip(box[1] - height, 0, size[0] - height))
    sheet.paste(np.broadcast_to(colour, (height, width, 3)), corner[0] + x, corner[1] + y)
    luma = colour @ np.array([0.299, 0.587, 0.114], np.float32)
    sheet.write(text, corner[0] + x + 1, corner[1] + y - 2, width, size=7, colour="black" if luma > 0.55 else "white")


def _legend(words: Sequence[str], occurring: Sequence[int], width: int) -> tuple[list[tuple[int, int, int, str]], int]:
    """`(class, left, line, name)` of each class that occurs, and the number of lines."""
    entries, left, line = [], 0, 0
    for label in occurring:
        length = min(_SWATCH + 4 + _CHARACTER * len(words[label]) + 2 * GAP, width)
        if left and left + length > width:
            left, line = 0, line + 1
        entries.append((label, left, line, words[label]))
        left += length
    return entries, line + 1


def _checked(name: str, fields: Mapping, mask: str, count: int,
             names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows are boxes, bool `(N, M)`, the boxes, and their classes; ValueError unless they fit each other."""
    boxes = np.asarray(fields["boxes"], np.float64)
    if boxes.ndim != 3 or boxes.shape[0] != count or boxes.shape[2] != 4:
        raise ValueError(f"boxes of {name} must be ({count}, M, 4), received {boxes.shape}")
    shown = np.asarray(fields[mask])
    if shown.shape != boxes.shape[:2] or shown.dtype != bool:
        raise ValueError(f"{mask} must be bool {boxes.shape[:2]}, received {shown.dtype} of {shown.shape}")
    labels = np.asarray(fields["box_label"])
    if labels.shape != shown.shape:
        raise ValueError(f"box_label of {name} must be {shown.shape}, received {labels.shape}")
    check_classes(f"box_label of {name}", labels[shown], int(shown.sum()), names)
    if not np.isfinite(boxes[shown]).all():
        raise ValueError(f"boxes of {name} must be finite where {mask} is True")
    return shown, boxes, labels
