"""The boxes around COCO's outlines of objects: polygons, and run lengths (RLE) as numbers or as text.

The format is that of https://cocodataset.org/#format-data; its text packs numbers as `maskApi.c` of the COCO API does.
"""

import math
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]

_NONE = math.nan, math.nan, math.nan, math.nan


def box_of(outline: Any) -> Box:
    """x1 y1 x2 y2 around an annotation's `segmentation`: a list of polygons, or a dict of `size` and `counts`.

    NaN for an outline of another form, and for an empty one.
    """
    try:
        return _around_runs(**outline) if isinstance(outline, dict) else _around_polygons(outline)
    except (TypeError, ValueError, IndexError, OverflowError):
        return _NONE


def _around_polygons(polygons) -> Box:
    points = np.concatenate([np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in polygons])
    (x1, y1), (x2, y2) = points.min(0), points.max(0)
    return float(x1), float(y1), float(x2), float(y2)


def _around_runs(size, counts) -> Box:
    """Runs alternate between outside and inside, down the columns one after the other, from the left."""
    height, width = map(int, size)
    runs = np.asarray(unpacked(counts) if isinstance(counts, str | bytes) else counts, np.int64)
    ends = np.cumsum(runs, dtype=np.float64)  # exact for any picture, and no sum of large numbers comes round to one
    if (runs < 0).any() or not 0 < height * width == ends[-1] < 2**53:
        raise ValueError("the runs do not fill the picture")
    inside = np.flatnonzero(runs[1::2]) * 2 + 1
    if not inside.size:
        return _NONE
    # The picture itself is not drawn: its size may be any.
    first, last = ends[inside - 1], ends[inside] - 1
    left, right = first // height, last // height
    whole = left < right  # such a run goes through the end of a column and the beginning of the next one
    return (float(left.min()), float(np.where(whole, 0, first % height).min()),
            float(right.max() + 1), float(np.where(whole, height - 1, last % height).max() + 1))


def unpacked(text: str | bytes) -> list[int]:
    """The run lengths in COCO's text.

    Each number has 5 bits a character, the lowest first, from character 48 on; bit 5 says that more follow, and the
    last one's bit 4 is the sign. From the fourth number on, it is the difference to the number two before.
    """
    codes = text.encode() if isinstance(text, str) else text
    runs: list[int] = []
    value, shift = 0, 0
    for code in codes:
        if shift > 60:
            raise ValueError("a run of more than 64 bits")
        digit = code - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return runs
