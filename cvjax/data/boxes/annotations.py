"""Boxes of many pictures in a few arrays, and the repair of annotations that cannot be true."""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from cvjax.data.dataset import Source
from cvjax.data.decode import MAX_PIXELS
from cvjax.data.problems import Problems

# The mistakes in annotations, in the words of `Problems`.
REVERSED, NOT_FINITE = "boxes with corners the wrong way round, put right", "boxes that are not finite, left out"
EMPTY, OUTSIDE = "boxes without area, left out", "boxes wholly outside of their picture, left out"
CLIPPED, UNKNOWN = "boxes partly outside of their picture, clipped", "boxes of unknown classes, left out"
OTHER_SIZE = "pictures of another size than their annotation says, whose own was taken"


@dataclasses.dataclass(frozen=True)
class BoxAnnotations:
    """The objects in N pictures; picture i has rows `starts[i]` to `starts[i + 1]`.

    Attributes:
        boxes: float32 `(T, 4)`, x1 y1 x2 y2 in pixels of the picture, inside of it and with an area.
        labels: int32 `(T,)`, classes from 0.
        difficult: bool `(T,)`, objects that an evaluation neither asks for nor counts as wrong.
        starts: int64 `(N + 1,)`.
        extents: int32 `(N, 2)`, height and width of the pictures.
        areas: float64 `(T,)`, what the annotations state as the objects' areas in pixels (COCO: of their outlines), nan
            where they state none; None where they never do.
    """

    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    starts: np.ndarray
    extents: np.ndarray
    areas: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.extents)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The annotations of a record: `boxes`, `box_label` and `box_difficult` of one picture."""
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        rows = slice(self.starts[index], self.starts[index + 1])
        return {"boxes": self.boxes[rows], "box_label": self.labels[rows], "box_difficult": self.difficult[rows]}

    def areas_of(self, index: int) -> np.ndarray | None:
        """The stated areas of the objects in one picture, float64 `(M,)`; None where annotations state none."""
        return None if self.areas is None else self.areas[self.starts[index]:self.starts[index + 1]]

    @property
    def counts(self) -> np.ndarray:
        """Boxes of each picture, int64 `(N,)`."""
        return np.diff(self.starts)

    def take(self, positions: np.ndarray) -> "BoxAnnotations":
        """The annotations of the pictures at `positions`, int `(M,)`."""
        positions = np.asarray(positions, np.int64)
        rows = np.concatenate([np.arange(int(self.starts[i]), int(self.starts[i + 1])) for i in positions] or [[]])
        rows = rows.astype(int)
        starts = np.concatenate([[0], np.cumsum(self.counts[positions])])
        return BoxAnnotations(self.boxes[rows], self.labels[rows], self.difficult[rows], starts,
                              self.extents[positions], None if self.areas is None else self.areas[rows])


def side_of(stated: Any, what: str) -> int:
    """The pixels of a picture's side that an annotation states, as a number or in digits; 0 where it states nothing.

    Raises:
        ValueError: for anything else.
    """
    try:
        pixels = int(float(stated or 0))
    except (TypeError, ValueError, OverflowError):
        pixels = -1
    if not 0 <= pixels <= MAX_PIXELS:
        raise ValueError(f"its {what} must be a number of pixels up to {MAX_PIXELS:,}, got {str(stated)[:40]!r}")
    return pixels


class BoxSource(Source, Protocol):
    """A source whose records have boxes, all of which are known by position."""

    def ground_truth(self) -> BoxAnnotations:
        """The annotations of all records, by position."""
        ...

    def take(self, positions: np.ndarray) -> "BoxSource": ...


def gather(pictures: Sequence[dict[str, np.ndarray]], extents: np.ndarray,
           areas: Sequence[np.ndarray] | None = None) -> BoxAnnotations:
    """`BoxAnnotations` of one dict for each picture, as indexing gives them, heights and widths `(N, 2)`, and areas."""
    def joined(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.concatenate([np.zeros((0, *shape), dtype), *(picture[name] for picture in pictures)]).astype(dtype)

    counts = [len(picture["box_label"]) for picture in pictures]
    return BoxAnnotations(joined("boxes", (4,), np.float32), joined("box_label", (), np.int32),
                          joined("box_difficult", (), bool), np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
                          np.asarray(extents, np.int32).reshape(-1, 2),
                          None if areas is None else np.concatenate([np.zeros(0), *areas]))


@dataclasses.dataclass(frozen=True)
class Objects:
    """Annotations as a file has them: boxes float64 `(T, 4)`, labels int `(T,)`, difficult bool `(T,)`, and the picture
    of each, int `(T,)`. A label of -1 is an unknown class, which the reader has already counted. areas: see
    `BoxAnnotations`.
    """

    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    picture: np.ndarray
    areas: np.ndarray | None = None


def mend(objects: Objects, extents: np.ndarray, name: Callable[[int], str], problems: Problems, *,
         inclusive: bool = False) -> BoxAnnotations:
    """Boxes that can be true: finite, with an area, inside their pictures. Others are mended or left out, and counted.

    Args:
        extents: int `(N, 2)`, height and width of the pictures.
        name: what to call picture i in a message.
        inclusive: boxes name their first and last pixel, counted from 1, as VOC does. If these are the same, across or
            down, the box counts as a slip of the mouse, not as an object of one pixel.
    """
    boxes, kept = np.array(objects.boxes, np.float64).reshape(-1, 4), objects.labels >= 0

    def note(what: str, where: np.ndarray | np.bool) -> None:
        for picture, count in collections.Counter(objects.picture[where & kept].tolist()).items():
            problems.add(what, name(picture), count)

    def leave_out(what: str, where: np.ndarray | np.bool) -> None:
        note(what, where)
        kept[where] = False

    leave_out(NOT_FINITE, ~np.isfinite(boxes).all(1))
    boxes[~kept] = 0
    note(REVERSED, (boxes[:, :2] > boxes[:, 2:]).any(1))
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)
    leave_out(EMPTY, (boxes[:, :2] == boxes[:, 2:]).any(1))
    if inclusive:
        boxes -= np.array([1, 1, 0, 0])
    sides = np.asarray(extents, np.float64).reshape(-1, 2)[objects.picture, ::-1]
    leave_out(OUTSIDE, ((boxes[:, :2] >= sides) | (boxes[:, 2:] <= 0)).any(1))
    note(CLIPPED, ((boxes[:, :2] < 0) | (boxes[:, 2:] > sides)).any(1))
    boxes = np.clip(boxes, 0, np.tile(sides, 2)).astype(np.float32)
    leave_out(EMPTY, (boxes[:, :2] >= boxes[:, 2:]).any(1))  # in single precision
    order = np.flatnonzero(kept)[np.argsort(objects.picture[kept], kind="stable")]
    counts = np.bincount(objects.picture[order], minlength=len(extents))
    return BoxAnnotations(boxes[order], objects.labels[order].astype(np.int32), objects.difficult[order].astype(bool),
                          np.concatenate([[0], np.cumsum(counts)]), np.asarray(extents, np.int32).reshape(-1, 2),
                          None if objects.areas is None else np.asarray(objects.areas, np.float64)[order])
