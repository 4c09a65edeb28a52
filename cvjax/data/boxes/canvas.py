"""The canvas that a picture and its boxes are put on: the fields of a detection example, and the geometry.

The fields, for a canvas of H x W pixels and M boxes at most:

    image uint8 (H, W, C), the picture at the top left of the canvas and grey below or beside it;
    extent float32 (2,), height and width of the picture's part; scale float32 (), canvas pixels per pixel of the file;
    boxes float32 (M, 4) in canvas pixels, box_label int32 (M,), box_difficult bool (M,), box_mask bool (M,).

When there are more than M boxes, the largest M are kept, because they show best once a picture is small. Boxes that
count come before difficult ones. The other rows have mask False, and zeros.
"""

import math
from typing import Any, Protocol

import numpy as np

from cvjax.data.decode import LazyImage
from cvjax.data.resize import INTERPOLATIONS, resize

# Near the means that images are normalised by, so that a model sees about 0.
GREY = {1: (128,), 3: (124, 116, 104)}
_LEAST = 1.0  # canvas pixels; training boxes that a crop leaves smaller show nothing

Boxes = tuple[np.ndarray, np.ndarray, np.ndarray]  # float32 (N, 4), int32 (N,), bool (N,): corners, label, difficult


class Canvas(Protocol):
    """What crops of pictures with boxes have in common."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def max_boxes(self) -> int: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def channels(self) -> int: ...
    @property
    def sides(self) -> tuple[int, int] | None: ...


def fitting_scale(canvas: Canvas, height: float, width: float) -> float:
    """Canvas pixels per pixel of a picture that is as large as fits the canvas and its `sides`.

    sides: (SHORT, LONG), the rule of Fast R-CNN (Girshick 2015, sec. 2.4) and torchvision: the short side gets SHORT
    pixels, or fewer where the long one would get more than LONG. None: only the canvas counts. The papers' canvas is
    cut to each batch, so that pictures of both orientations get their scale; one canvas for both must be a square.
    """
    scale = min(canvas.height / height, canvas.width / width)
    if canvas.sides is None:
        return scale
    short, long = canvas.sides
    return min(scale, short / min(height, width), long / max(height, width))


def example(canvas: Canvas, picture: np.ndarray, scale: float, found: Boxes) -> dict[str, np.ndarray]:
    """The fields of an example: a picture uint8 `(h, w, C)` no larger than the canvas, and the boxes in it.

    scale: canvas pixels per pixel of the file.
    """
    height, width = picture.shape[:2]
    image = picture
    if (height, width) != (canvas.height, canvas.width):
        image = np.empty((canvas.height, canvas.width, canvas.channels), np.uint8)
        image[:] = GREY[canvas.channels]
        image[:height, :width] = picture
    fields: dict[str, Any] = {"image": np.ascontiguousarray(image), "extent": np.array([height, width], np.float32),
              "scale": np.float32(scale)}
    return fields | padded(found, canvas.max_boxes)


def padded(found: Boxes, count: int) -> dict[str, np.ndarray]:
    """`boxes`, `box_label`, `box_difficult` and `box_mask` of an example: `count` rows, the largest boxes if there are
    more."""
    corners, labels, difficult = found
    if len(corners) > count:
        sides = corners[:, 2:] - corners[:, :2]
        chosen = np.sort(np.lexsort((-sides.prod(1), difficult))[:count])
        corners, labels, difficult = corners[chosen], labels[chosen], difficult[chosen]
    fields = {}
    for name, values in (("boxes", corners), ("box_label", labels), ("box_difficult", difficult),
                         ("box_mask", np.ones(len(corners), bool))):
        fields[name] = np.zeros((count, *values.shape[1:]), values.dtype)
        fields[name][:len(values)] = values
    return fields


def given_boxes(boxes: np.ndarray | None = None, box_label: np.ndarray | None = None,
                box_difficult: np.ndarray | None = None) -> Boxes:
    """The annotations of a record as `Boxes`; no boxes if the record has none."""
    if boxes is None:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool)
    return np.asarray(boxes, np.float32), np.asarray(box_label, np.int32), np.asarray(box_difficult, bool)


def mirrored(picture: np.ndarray, found: Boxes) -> tuple[np.ndarray, Boxes]:
    """A picture `(h, w, C)` and the boxes in it, left to right."""
    x1, y1, x2, y2 = found[0].T
    width = np.float32(picture.shape[1])
    return picture[:, ::-1], (np.stack([width - x2, y1, width - x1, y2], 1), found[1], found[2])


def inside(found: Boxes, part: tuple[float, float, float, float]) -> Boxes:
    """The boxes whose centres are in `part` (top, left, height, width), cut to it and counted from its corner."""
    corners, labels, difficult = found
    top, left, height, width = part
    moved = corners - np.array([left, top, left, top], np.float32)
    sides = np.array([width, height], np.float32)
    centre = (moved[:, :2] + moved[:, 2:]) / 2
    stays = ((centre >= 0) & (centre < sides)).all(1)
    return np.clip(moved[stays], 0, np.tile(sides, 2)), labels[stays], difficult[stays]


def to_original(boxes: Any, scale: Any) -> Any:
    """Boxes `(B, ..., 4)` in canvas pixels to pixels of the pictures' files; scale `(B,)`: of the batch."""
    return boxes / scale.reshape(scale.shape + (1,) * (boxes.ndim - scale.ndim))


def cut_part(lazy: LazyImage, part: tuple[float, float, float, float], size: tuple[int, int], found: Boxes,
             interpolation: str) -> tuple[np.ndarray, Boxes]:
    """The `part` (top, left, height, width) of an opened picture, resized to `size`, and the boxes in it."""
    top, left, height, width = part
    pixels = lazy.pixels((math.ceil(size[0] * lazy.height / height), math.ceil(size[1] * lazy.width / width)))
    # A part begins and ends at whole pixels of the decoded image; boxes are moved accordingly.
    y, x = pixels.shape[0] / lazy.height, pixels.shape[1] / lazy.width
    rows, columns = _whole(top * y, height * y, pixels.shape[0]), _whole(left * x, width * x, pixels.shape[1])
    cut = pixels[rows, columns]
    corners, labels, difficult = inside(found, (rows.start / y, columns.start / x, cut.shape[0] / y, cut.shape[1] / x))
    zoom = np.array([size[1] * x / cut.shape[1], size[0] * y / cut.shape[0]], np.float32)
    corners = np.clip(corners * np.tile(zoom, 2), 0, np.tile(np.array(size[::-1], np.float32), 2))
    shows = (corners[:, 2:] - corners[:, :2] >= _LEAST).all(1)
    return resize(cut, size, interpolation), (corners[shows], labels[shows], difficult[shows])


def _whole(start: float, length: float, limit: int) -> slice:
    """The nearest whole pixels, one at least, before `limit`."""
    first = min(round(start), limit - 1)
    return slice(first, min(max(round(start + length), first + 1), limit))


def rounded(side: float) -> int:
    """A length in whole pixels, at least 1."""
    return max(1, round(side))


def check_canvas(canvas: Canvas) -> None:
    """ValueError for lengths, a number of boxes, an interpolation or channels that are not allowed."""
    if canvas.height < 1 or canvas.width < 1 or canvas.max_boxes < 1:
        raise ValueError(f"height, width and max_boxes must be at least 1, got {canvas.height}, {canvas.width}, "
                         f"{canvas.max_boxes}")
    if canvas.sides is not None and not 1 <= canvas.sides[0] <= canvas.sides[1]:
        raise ValueError(f"sides must satisfy 1 <= short <= long, got {canvas.sides}")
    if canvas.interpolation not in INTERPOLATIONS:
        raise ValueError(f"unknown interpolation {canvas.interpolation!r}; allowed: {', '.join(INTERPOLATIONS)}")
    if canvas.channels not in GREY:
        raise ValueError(f"channels must be 1 or 3, got {canvas.channels}")
