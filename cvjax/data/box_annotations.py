"""Boxes of many pictures in a few arrays, and what is done about annotations that cannot be true."""

import collections
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

# What befell annotations, as `Problems` words it.
REVERSED, NOT_FINITE = "boxes with corners the wrong way round, put right", "boxes that are not finite, left out"
EMPTY, OUTSIDE = "boxes without area, left out", "boxes wholly outside of their picture, left out"
CLIPPED, UNKNOWN = "boxes partly outside of their picture, clipped", "boxes of unknown classes, left out"
OTHER_SIZE = "pictures of another size than their annotation says, whose own was taken"

_NAMED = 3  # examples that a message names


class Problems:
    """Counts what was wrong with annotations, with the names of the first pictures where it was."""

    def __init__(self) -> None:
        self._counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)

    def add(self, what: str, name: str, count: int = 1) -> None:
        """`count` more of `what` in the picture (or of the class) `name`."""
        self._counts[what][name] += count

    def count(self, what: str) -> int:
        """How many of `what` there were."""
        return self._counts[what].total() if what in self._counts else 0

    def words(self) -> str:
        """All in one line, empty when nothing was wrong."""
        return "; ".join(f"{names.total()} {what} ({_some(list(names))})" for what, names in self._counts.items())


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f", and {more} more" if more > 0 else "")


@dataclasses.dataclass(frozen=True)
class BoxAnnotations:
    """What is known of the objects in N pictures; picture i has rows `starts[i]` to `starts[i + 1]`.

    Attributes:
        boxes: float32 `(T, 4)`, x1 y1 x2 y2 in pixels of the picture, inside of it and with an area.
        labels: int32 `(T,)`, classes from 0.
        difficult: bool `(T,)`, objects that an evaluation neither asks for nor counts as wrong.
        starts: int64 `(N + 1,)`.
        extents: int32 `(N, 2)`, height and width of the pictures.
    """

    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    starts: np.ndarray
    extents: np.ndarray

    def __len__(self) -> int:
        return len(self.extents)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The annotations of a record: `boxes`, `box_label` and `box_difficult` of one picture."""
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        rows = slice(self.starts[index], self.starts[index + 1])
        return {"boxes": self.boxes[rows], "box_label": self.labels[rows], "box_difficult": self.difficult[rows]}

    @property
    def counts(self) -> np.ndarray:
        """Boxes of each picture, int64 `(N,)`."""
        return np.diff(self.starts)

    def take(self, positions: np.ndarray) -> "BoxAnnotations":
        """Those of the pictures at `positions`, int `(M,)`."""
        positions = np.asarray(positions, np.int64)
        rows = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in positions] or [[]]).astype(int)
        starts = np.concatenate([[0], np.cumsum(self.counts[positions])])
        return BoxAnnotations(self.boxes[rows], self.labels[rows], self.difficult[rows], starts,
                              self.extents[positions])


def gather(pictures: Sequence[dict[str, np.ndarray]], extents: np.ndarray) -> BoxAnnotations:
    """`BoxAnnotations` of one dict for each picture, as indexing gives them, and heights and widths `(N, 2)`."""
    def joined(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.concatenate([np.zeros((0, *shape), dtype), *(picture[name] for picture in pictures)]).astype(dtype)

    counts = [len(picture["box_label"]) for picture in pictures]
    return BoxAnnotations(joined("boxes", (4,), np.float32), joined("box_label", (), np.int32),
                          joined("box_difficult", (), bool), np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
                          np.asarray(extents, np.int32).reshape(-1, 2))


@dataclasses.dataclass(frozen=True)
class Objects:
    """Annotations as a file has them: boxes float64 `(T, 4)`, labels int `(T,)`, difficult bool `(T,)`, and whose
    they are, int `(T,)`. A label of -1 is an unknown class, which whoever looked it up has counted.
    """

    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    picture: np.ndarray


def mend(objects: Objects, extents: np.ndarray, name: Callable[[int], str], problems: Problems, *,
         inclusive: bool = False) -> BoxAnnotations:
    """Boxes that can be true: finite, with an area, inside of their pictures; others are mended or left out, by count.

    Args:
        extents: int `(N, 2)`, height and width of the pictures.
        name: what to call picture i in a message.
        inclusive: boxes name their first and last pixel, counted from 1, as VOC does; where these are the same, across
            or down, the box is taken for a slip of the mouse and not for an object of one pixel.
    """
    boxes, kept = np.array(objects.boxes, np.float64).reshape(-1, 4), objects.labels >= 0

    def note(what: str, where: np.ndarray) -> None:
        for picture, count in collections.Counter(objects.picture[where & kept].tolist()).items():
            problems.add(what, name(picture), count)

    def leave_out(what: str, where: np.ndarray) -> None:
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
                          np.concatenate([[0], np.cumsum(counts)]), np.asarray(extents, np.int32).reshape(-1, 2))
