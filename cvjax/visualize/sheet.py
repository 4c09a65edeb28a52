"""A white sheet for grids of pictures with lines of text, placed pixel by pixel.

Grids of matplotlib's axes would be shorter to write, but they resample the pixels of small images, and long names run
into each other: nothing shortens a text to the width of its picture.
"""

import bisect
import contextlib
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any, BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from cvjax.text import printable

LINE = 16  # height of a line of text, in pixels
GAP = 6  # white between neighbours
MARGIN = 18  # white around everything
RIGHT, WRONG = "#1a7f37", "#c62828"  # colours of right and wrong predictions

_DPI = 100
_NAME = 28  # longest name at an axis, in letters
_CHARACTER = 7  # width of a character of a title, in pixels


class Sheet:
    """White paper of `width` x `height` pixels below a title. Positions count from its top left corner, in pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._title = textwrap.wrap(title, max(1, (width - 2 * MARGIN) // _CHARACTER))
        self._top = len(self._title) * (LINE + 2) + (GAP if self._title else 0)
        self._paper = np.ones((height + self._top, width, 3), np.float32)
        # The figure has as many pixels as the paper, so figimage puts each value on exactly one pixel.
        self._figure = Figure(figsize=(width / _DPI, (height + self._top) / _DPI), dpi=_DPI)
        self._renderer = FigureCanvasAgg(self._figure).get_renderer()
        for number, line in enumerate(self._title):
            self.write(line, MARGIN, number * (LINE + 2) + GAP - self._top, width - 2 * MARGIN, size=9)

    def paste(self, picture: np.ndarray, left: int, top: int) -> None:
        """Put a picture `(h, w, 3)` or `(h, w, 1)` in [0, 1] at a position."""
        top += self._top
        self._paper[top : top + picture.shape[0], left : left + picture.shape[1]] = picture

    def write(self, text: str, left: int, top: int, width: int, *, size: float = 8, colour: str = "black",
              centred: bool = False) -> None:
        """Put one line of text at a position, shortened with "…" to at most `width` pixels."""
        text = self._fit(printable(text), width, size)
        x = (left + (width / 2 if centred else 0)) / self._paper.shape[1]
        y = 1 - (top + self._top + LINE / 2) / self._paper.shape[0]
        # parse_math: a class may be called "$x$".
        self._figure.text(x, y, text, ha="center" if centred else "left", va="center_baseline", fontsize=size,
                          color=colour, parse_math=False)

    def save(self, path: str | PathLike | BinaryIO) -> None:
        """Save a PNG."""
        self._figure.figimage(self._paper, origin="upper")
        save_figure(self._figure, path, dpi=_DPI)

    def _fit(self, text: str, width: int, size: float) -> str:
        def fits(text: str) -> bool:
            return self._renderer.get_text_width_height_descent(text, FontProperties(size=size), False)[0] <= width

        with _missing_glyphs_are_boxes():
            if fits(text):
                return text
            # Bisected, since measuring a text is slow.
            too_many = bisect.bisect_left(range(len(text)), True, key=lambda kept: not fits(f"{text[:kept + 1]}…"))
            return text[:too_many].rstrip() + "…"


def save_figure(figure: Figure, path: str | PathLike | BinaryIO, **options: Any) -> None:
    """Save a PNG. Letters that the font lacks become boxes without a warning."""
    with _missing_glyphs_are_boxes():
        figure.savefig(path, format="png", **options)


def legend(owner: Figure | Axes, lines: Sequence[Any], names: Sequence[str], **options: Any) -> None:
    """Add a legend to a figure or axes that shows any name.

    Matplotlib itself leaves out names such as "_void", and takes "$x$" for a formula.
    """
    drawn: Any = owner.legend(lines, [str(number) for number in range(len(names))], **options)
    for text, name in zip(drawn.get_texts(), names, strict=True):
        text.set_text(name)
        text.set_parse_math(False)


@contextlib.contextmanager
def _missing_glyphs_are_boxes() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


def check_images(images: ArrayLike) -> np.ndarray:
    """Images `(N, H, W, C)` as float32 `(N, H, W, 1 | 3)`, see `drawable`; N may be 0. ValueError unless they lie in
    [0, 1]."""
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must be (N, H, W, C), received {images.shape}")
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images must lie in [0, 1], received {images.min():.3g} to {images.max():.3g}")
    return drawable(images)


def drawable(images: np.ndarray) -> np.ndarray:
    """What a picture shows of images `(..., C)`: the first three channels as colours, or the first of two as grey."""
    return images[..., :3 if images.shape[-1] >= 3 else 1]


def check_classes(name: str, classes: ArrayLike, count: int, names: Sequence[str]) -> np.ndarray:
    """Classes as an integer array `(count,)`; ValueError unless each has a name."""
    classes = np.asarray(classes)
    if classes.shape != (count,) or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"{name} must be integers of shape {(count,)}, "
                         f"received {classes.dtype} of shape {classes.shape}")
    if count and not (classes.min() >= 0 and classes.max() < len(names)):
        raise ValueError(f"{name} must lie in [0, {len(names)}), the named classes, "
                         f"received {classes.min()} to {classes.max()}")
    return classes


def check_probability(probability: ArrayLike, count: int) -> np.ndarray:
    """Probabilities as float64 `(count,)`; ValueError unless they lie in [0, 1]."""
    probability = np.asarray(probability, np.float64)
    if probability.shape != (count,):
        raise ValueError(f"probability must be one for each of {count} images, received shape {probability.shape}")
    if not np.all((probability >= 0) & (probability <= 1.001)):  # a softmax in half precision rounds that far
        raise ValueError(f"probability must lie in [0, 1], received {probability.min():.3g} to {probability.max():.3g}")
    return probability


def class_labels(names: Sequence[str]) -> list[str]:
    """Names in one line each; a class without a name is called by its number."""
    return [printable(" ".join(str(name).split())) or f"class {number}" for number, name in enumerate(names)]


def shortened(word: str) -> str:
    """A name beside an axis, with "…" where it has more letters than fit there."""
    return word if len(word) <= _NAME else word[: _NAME - 1].rstrip() + "…"


def in_percent(*axes: Axis) -> None:
    """Have shares of 1 at these axes read as percent."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=" %"))


def zoom_to(side: int, height: int, width: int) -> int:
    """The whole factor that enlarges the shorter side of a picture to at least `side` pixels."""
    return max(1, math.ceil(side / min(height, width)))


def enlarge(pictures: np.ndarray, zoom: int) -> np.ndarray:
    """Pictures `(..., h, w, c)` with crisp pixels as `(..., h * zoom, w * zoom, c)`."""
    return pictures.repeat(zoom, axis=-3).repeat(zoom, axis=-2)


def columns_for(count: int, width: int, height: int) -> int:
    """Number of columns for a grid of blocks that is about as wide as high and leaves few places empty."""
    square = max(1, round(math.sqrt(count * height / width)))
    near = range(square - square // 4, min(square + square * 2 // 3, count) + 1)
    return min(near or [count], key=lambda columns: (-count % columns, abs(columns - square), -columns))
