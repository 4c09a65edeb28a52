"""Shared by the tests of pictures: difficult names, pixels of a PNG, and the places of a figure's texts."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

NAMES = ["zero", "$x^2$ and $y", "a very long name, the great white shark, Carcharodon carcharias", "", "été Ж",
         "日本語"]


def read(path) -> np.ndarray:
    """Pixels `(h, w, 3)` of a PNG."""
    return imread(path)[..., :3]


def texts(figure: Figure) -> list[str]:
    """The texts on a figure."""
    return [text for text, _ in _boxes(figure)]


def misplaced(figure: Figure) -> list[str]:
    """Texts that leave the picture, or lie on each other, by more than a pixel."""
    boxes, frame = _boxes(figure), figure.bbox
    wrong = [a for a, box in boxes if min(box.x0, box.y0) < -1 or box.x1 > frame.x1 + 1 or box.y1 > frame.y1 + 1]
    for number, (a, box) in enumerate(boxes):
        wrong += [f"{a} | {b}" for b, other in boxes[number + 1:]
                  if min(box.x1, other.x1) - max(box.x0, other.x0) > 1 < min(box.y1, other.y1) - max(box.y0, other.y0)]
    return wrong


def _boxes(figure: Figure) -> list:
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [(text.get_text(), text.get_window_extent(renderer)) for text in figure.findobj(Text)
            if text.get_text().strip() and text.get_visible()]
