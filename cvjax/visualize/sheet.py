"""A white sheet that pictures and lines of text are put on, pixel by pixel; what the picture grids share."""

import contextlib
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from os import PathLike

import numpy as np

LINE = 16  # height of a line of text, in pixels
GAP = 6  # white between neighbours
MARGIN = 18  # white around everything
RIGHT, WRONG = "#1a7f37", "#c62828"  # colours of answers

_DPI = 100
_CHARACTER = 7  # width of a character of a title, in pixels


class Sheet:
    """White paper of `width` x `height` pixels below a title; positions count from the top left corner below it."""

    def __init__(self, width: int, height: int, title: str) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._title = textwrap.wrap(title, max(1, (width - 2 * MARGIN) // _CHARACTER))
        self._top = len(self._title) * (LINE + 2) + (GAP if self._title else 0)
        self._paper = np.ones((height + self._top, width, 3), np.float32)
        # The size of the figure in pixels is that of the paper: figimage puts each value on exactly one pixel.
        self._figure = Figure(figsize=(width / _DPI, (height + self._top) / _DPI), dpi=_DPI)
        self._renderer = FigureCanvasAgg(self._figure).get_renderer()
        for number, line in enumerate(self._title):
            self.write(line, MARGIN, number * (LINE + 2) + GAP - self._top, width - 2 * MARGIN, size=9)

    def paste(self, picture: np.ndarray, left: int, top: int) -> None:
        """Put a picture `(h, w, 3)` or `(h, w, 1)` in [0, 1] there."""
        top += self._top
        self._paper[top : top + picture.shape[0], left : left + picture.shape[1]] = picture

    def write(self, text: str, left: int, top: int, width: int, *, size: float = 8, colour: str = "black",
              centred: bool = False) -> None:
        """Put one line of text there, shortened with "…" so that it is at most `width` pixels long."""
        text = self._fit(text, width, size)
        x = (left + (width / 2 if centred else 0)) / self._paper.shape[1]
        y = 1 - (top + self._top + LINE / 2) / self._paper.shape[0]
        # A class called "$x" is no formula.
        self._figure.text(x, y, text, ha="center" if centred else "left", va="center_baseline", fontsize=size,
                          color=colour, parse_math=False)

    def save(self, path: str | PathLike) -> None:
        """Write a PNG."""
        self._figure.figimage(self._paper, origin="upper")
        save_figure(self._figure, path, dpi=_DPI)

    def _fit(self, text: str, width: int, size: float) -> str:
        from matplotlib.font_manager import FontProperties

        def fits(text: str) -> bool:
            return self._renderer.get_text_width_height_descent(text, FontProperties(size=size), False)[0] <= width

        with _missing_glyphs_are_boxes():
            if fits(text):
                return text
            kept = len(text)
            while kept and not fits(text[:kept].rstrip() + "…"):
                kept -= 1
            return text[:kept].rstrip() + "…"


def save_figure(figure, path: str | PathLike, **options) -> None:
    """Save as PNG. Letters that the font lacks become boxes, silently: the reader sees them."""
    with _missing_glyphs_are_boxes():
        figure.savefig(path, format="png", **options)


def legend(owner, lines: Sequence, names: Sequence[str], **options) -> None:
    """A legend of a figure or axes with names as they are: "_void" would be left out, and "$x$" be a formula."""
    drawn = owner.legend(lines, [str(number) for number in range(len(names))], **options)
    for text, name in zip(drawn.get_texts(), names, strict=True):
        text.set_text(name)
        text.set_parse_math(False)


@contextlib.contextmanager
def _missing_glyphs_are_boxes() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


def check_images(images) -> np.ndarray:
    """Images as float32 `(N, H, W, C)`; ValueError unless they lie in [0, 1] with C = 1 or 3 (N = 0 is fine)."""
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError(f"images must be (N, H, W, C) with C = 1 or 3, received {images.shape}")
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images must lie in [0, 1], received {images.min():.3g} to {images.max():.3g}")
    return images


def check_classes(name: str, classes, count: int, names: Sequence[str]) -> np.ndarray:
    """Classes as an integer array; ValueError unless there are `count` of them, each with a name."""
    classes = np.asarray(classes)
    if classes.shape != (count,) or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"{name} must be integers of shape {(count,)}, "
                         f"received {classes.dtype} of shape {classes.shape}")
    if count and not (classes.min() >= 0 and classes.max() < len(names)):
        raise ValueError(f"{name} must lie in [0, {len(names)}), the named classes, "
                         f"received {classes.min()} to {classes.max()}")
    return classes


def check_probability(probability, count: int) -> np.ndarray:
    """Probabilities as an array; ValueError unless there are `count` of them in [0, 1]."""
    probability = np.asarray(probability, np.float64)
    if probability.shape != (count,):
        raise ValueError(f"probability must be one for each of {count} images, received shape {probability.shape}")
    if not np.all((probability >= 0) & (probability <= 1.001)):  # a softmax in half precision rounds that far
        raise ValueError(f"probability must lie in [0, 1], received {probability.min():.3g} to {probability.max():.3g}")
    return probability


def class_labels(names: Sequence[str]) -> list[str]:
    """Names on one line each; a class without one is called by its number."""
    return [" ".join(str(name).split()) or f"class {number}" for number, name in enumerate(names)]


def zoom_to(side: int, height: int, width: int) -> int:
    """Whole number to enlarge a picture by, so that its shorter side has at least `side` pixels."""
    return max(1, math.ceil(side / min(height, width)))


def enlarge(pictures: np.ndarray, zoom: int) -> np.ndarray:
    """`(..., h, w, c)` to `(..., h * zoom, w * zoom, c)`, crisp pixels."""
    return pictures.repeat(zoom, axis=-3).repeat(zoom, axis=-2)


def columns_for(count: int, width: int, height: int) -> int:
    """Columns of a grid of blocks: about as wide as high, and of those the number that leaves fewest places empty."""
    square = max(1, round(math.sqrt(count * height / width)))
    near = range(square - square // 4, min(square + square * 2 // 3, count) + 1)
    return min(near or [count], key=lambda columns: (-count % columns, abs(columns - square), -columns))
