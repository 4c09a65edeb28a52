"""Which way up: EXIF's orientation of a picture, and annotations that were made on the pixels as they are stored.

`cvjax.data.decode` gives every picture upright. Annotations of a turned picture were drawn either on the upright
picture or on the stored pixels; the size that they state, or have, tells which, unless the turn leaves it as it is.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cvjax.data.decode import MAX_BYTES, DecodeError, LazyImage
from cvjax.storage import open_file

# For messages, after a number.
TURNED = "pictures with an EXIF orientation whose annotations are of the stored size, turned with them"
UNTOLD = ("pictures with an EXIF orientation that no size tells, whose annotations are taken as drawn on the upright "
          "picture")

_HEAD = 2**16  # bytes in which a JPEG's header usually ends

_TOGETHER = 256  # files that a thread reads before it takes others: handing over takes as long as a header

# By orientation, from 1: whether the upright picture's rows, and its columns, run against the stored ones; from 5 on,
# once these have swapped places (tag 0x0112 of Exif 2.3, CIPA DC-008, sec. 4.6.4).
_REVERSED = np.array([(0, 0), (0, 0), (0, 1), (1, 1), (1, 0), (0, 0), (0, 1), (1, 1), (1, 0)], bool)


class Header(NamedTuple):
    """height, width: of the upright picture. orientation: EXIF's, 1 (upright as stored) to 8."""

    height: int
    width: int
    orientation: int


class Turn(NamedTuple):
    """What to do with the annotations of a picture. orientation: turn them as EXIF says by this number, 1 for not at
    all. told: whether a size has decided it.
    """

    orientation: int
    told: bool


def read_headers(paths: Sequence[str | os.PathLike]) -> list[Header | None]:
    """The header of each image file; None for one that cannot be read. Of a JPEG only the beginning is read."""
    parts = [paths[start:start + _TOGETHER] for start in range(0, len(paths), _TOGETHER)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return [header for found in pool.map(lambda part: list(map(_read, part)), parts) for header in found]


def _read(path) -> Header | None:
    try:
        with open_file(path) as file:
            encoded = file.read(_HEAD)
            if encoded.startswith(b"\xff\xd8"):
                try:
                    return header_of(encoded)
                except DecodeError:  # cut off within a header that is longer
                    pass
            return header_of(encoded + file.read(MAX_BYTES))
    except (DecodeError, OSError):
        return None


def header_of(encoded: bytes | np.ndarray) -> Header:
    """The header of an encoded image; DecodeError as in `cvjax.data.decode`."""
    with LazyImage(encoded, 3) as lazy:
        return Header(lazy.height, lazy.width, lazy.orientation)


def turn_of(header: Header, said: tuple[int, int]) -> Turn:
    """How the annotations of a picture have to be turned; said: the height and width that they state or have."""
    upright = header.height, header.width
    if header.orientation == 1:
        return Turn(1, True)
    if header.orientation < 5 or header.height == header.width or said not in (upright, upright[::-1]):
        return Turn(1, False)
    return Turn(1 if said == upright else header.orientation, True)


def upright_map(values: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels `(H, W, ...)` of a picture as they are stored, turned as EXIF says."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    down, across = _REVERSED[orientation]
    return values[::-1 if down else 1, ::-1 if across else 1]


def upright_boxes(boxes: np.ndarray, orientation: np.ndarray, extents: np.ndarray) -> np.ndarray:
    """Boxes `(N, 4)`, x1 y1 x2 y2 in stored pixels, in those of the upright pictures.

    orientation: int `(N,)`, 1 to 8. extents: `(N, 2)`, height and width as stored.
    """
    swapped = (orientation >= 5)[:, None]
    boxes = np.where(swapped, boxes[:, [1, 0, 3, 2]], boxes)
    sides = np.where(swapped, extents, extents[:, ::-1]).astype(boxes.dtype)  # upright width and height
    reversed_ = np.tile(_REVERSED[orientation][:, ::-1], 2)  # x, y, x, y
    found = np.where(reversed_, np.tile(sides, 2) - boxes, boxes)
    return np.concatenate([np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])], 1)
