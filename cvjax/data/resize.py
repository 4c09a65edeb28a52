"""Resizing with antialiasing, close to Pillow's and faster: a short filter, then OpenCV's interpolation.

Pillow stretches its filter by the factor that the image shrinks by. Here a filter of a few taps, the same everywhere in
the image, runs first. OpenCV's interpolation, which would alias by itself, then reads the filtered image. The taps are
chosen so that the two together come nearest to Pillow's filter. Images that shrink to less than a half are first
averaged over blocks of 2, 4, ... pixels, until they are two to four times as large as wanted (Pillow's
`reducing_gap=2`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import cv2
import numpy as np

# Loading has threads of its own, one image each; OpenCV's would only get in their way.
cv2.setNumThreads(1)

# The correlation of neighbouring pixels in photographs, modelled as a first-order Markov process (Jain, Fundamentals of
# Digital Image Processing, 1989). Between 0.9 and 0.99 no tap changes by more than 0.01.
_CORRELATION = 0.98
_MOST = 4  # channels that OpenCV averages at once
_GAP = 2  # averaging over blocks leaves at least this many times the wanted size
_STEPS = 16  # shrinking factors are rounded to 1 / 16 for the choice of taps
_PHASES = (np.arange(16) + 0.5) / 16 - 0.5


@dataclasses.dataclass(frozen=True)
class _Filter:
    """Pillow's kernel, OpenCV's, the reach of both, and OpenCV's name for it."""

    pillow: Callable[[np.ndarray], np.ndarray]
    opencv: Callable[[np.ndarray], np.ndarray]
    reach: int
    flag: int


def _tent(x):
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x, a):
    """Keys 1981, eq. 15 with a free `a`."""
    x = np.abs(x)
    return np.where(x < 1, ((a + 2) * x - (a + 3)) * x**2 + 1, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * a, 0))


_FILTERS = {
    "bicubic": _Filter(lambda x: _cubic(x, -0.5), lambda x: _cubic(x, -0.75), 2, cv2.INTER_CUBIC),
    "bilinear": _Filter(_tent, _tent, 1, cv2.INTER_LINEAR),
}
INTERPOLATIONS = tuple(_FILTERS)


def resize(pixels: np.ndarray, size: int | tuple[int, int], interpolation: str = "bicubic") -> np.ndarray:
    """uint8, or float32 in [0, 255], `(H, W, C)` -> the same type `(size, size, C)`, antialiased.

    Args:
        size: side of a square, or height and width.
        interpolation: `bicubic` or `bilinear`: the filter of Pillow's that it approximates.
    """
    sizes = (size, size) if isinstance(size, int) else size
    if pixels.shape[2] > _MOST:
        parts = [resize(pixels[:, :, i:i + _MOST], size, interpolation) for i in range(0, pixels.shape[2], _MOST)]
        return np.concatenate(parts, axis=2)
    pixels = np.ascontiguousarray(pixels)
    height, width = (side // _blocks(side / wanted) for side, wanted in zip(pixels.shape, sizes))
    if (height, width) != pixels.shape[:2]:
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, -1)
    rows, columns = (_taps(max(round(side / wanted * _STEPS), _STEPS), interpolation)
                     for side, wanted in zip(pixels.shape, sizes))
    if len(rows) > 1 or len(columns) > 1:
        pixels = cv2.sepFilter2D(pixels, -1, columns, rows, borderType=cv2.BORDER_REPLICATE)
    resized = cv2.resize(pixels, sizes[::-1], interpolation=_FILTERS[interpolation].flag)
    if resized.dtype != np.uint8:  # cubic weights overshoot
        resized = np.clip(resized, 0, 255)
    return resized[:, :, None] if resized.ndim == 2 else resized


def _blocks(shrink: float) -> int:
    """Pixels along a block's side; where blocks do not come out even, pixels are shared between them."""
    return 2 ** max(0, math.floor(math.log2(shrink / _GAP)))


@functools.cache
def _taps(steps: int, interpolation: str) -> np.ndarray:
    """Taps float32 `(2 n + 1,)`, symmetric, of sum 1, for images that shrink by the factor `steps / 16`.

    They minimise the expected squared difference to Pillow's resizing, over all places that an output pixel may have
    between input pixels.
    """
    shrink, kernel = steps / _STEPS, _FILTERS[interpolation]
    n = math.ceil(kernel.reach * shrink) - kernel.reach
    if n == 0:
        return np.ones(1, np.float32)
    places = np.arange(-n - kernel.reach - 1, n + kernel.reach + 2)
    # The expected square of a weighted sum of pixels is |root @ weights|^2.
    root = np.linalg.cholesky(_CORRELATION ** np.abs(places[:, None] - places)).T
    gains, gaps = [], []
    for phase in _PHASES:
        wanted = kernel.pillow((places - phase) / shrink)
        there = kernel.opencv(places - phase)
        moved = [np.roll(there, k) + np.roll(there, -k) - 2 * there for k in range(1, n + 1)]
        gains.append(root @ np.stack(moved, axis=1))
        gaps.append(root @ (wanted / wanted.sum() - there))
    half = np.linalg.lstsq(np.concatenate(gains), np.concatenate(gaps), rcond=None)[0]
    return np.array([*half[::-1], 1 - 2 * half.sum(), *half], np.float32)
