"""Copies of photos with answers on them: boxes with words, and lines of text below.

Pillow draws them, because a folder has thousands of photos and matplotlib takes most of a second for each.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cvjax.text import printable
from cvjax.visualize.boxes import draw_box
from cvjax.visualize.sheet import enlarge, zoom_to

_SMALL, _LARGE = 240, 1600  # the shorter side is at least the one, the longer side at most the other, in pixels
_SIZE, _LINE, _MARGIN = 14, 20, 6  # of letters, of a line, around them, in pixels
_FONT = ImageFont.load_default(_SIZE)

Line = tuple[np.ndarray | None, str]  # a colour float `(3,)` in [0, 1] to put before the text, and the text


def captioned(picture: np.ndarray, lines: Sequence[Line]) -> np.ndarray:
    """A picture uint8 `(H, W, 3)`, on a scale to look at, above lines of text: uint8 `(h, w, 3)`."""
    picture = _to_look_at(picture)
    height, width = picture.shape[:2]
    sheet = Image.new("RGB", (width, height + len(lines) * _LINE + 2 * _MARGIN), "white")
    sheet.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(sheet)
    for number, (colour, text) in enumerate(lines):
        left, top = _MARGIN, height + _MARGIN + number * _LINE
        if colour is not None:
            draw.rectangle((left, top + 3, left + _SIZE, top + 3 + _SIZE), fill=_bytes(colour))
            left += _SIZE + _MARGIN
        draw.text((left, top), _fitted(text, width - left - _MARGIN), fill="black", font=_FONT)
    return np.asarray(sheet)


def boxed(picture: np.ndarray, boxes: np.ndarray, texts: Sequence[str], colours: np.ndarray) -> np.ndarray:
    """A picture uint8 `(H, W, 3)`, on a scale to look at, with boxes: uint8 `(h, w, 3)`.

    boxes: float `(N, 4)`, corners x1 y1 x2 y2 as shares of width and height; the first is drawn on top.
    texts: on a label at each box. colours: float `(N, 3)` in [0, 1].
    """
    picture = _to_look_at(picture)
    height, width = picture.shape[:2]
    places = boxes * np.array([width, height, width, height], np.float32)
    for box, colour in zip(places[::-1], colours[::-1], strict=True):
        draw_box(picture, box, _bytes(colour))
    sheet = Image.fromarray(picture)
    draw = ImageDraw.Draw(sheet)
    for box, colour, text in list(zip(places, colours, texts, strict=True))[::-1]:
        text = _fitted(text, width - _MARGIN)
        wide = _FONT.getlength(text) + _MARGIN
        x = float(np.clip(box[0], 0, max(width - wide, 0)))
        y = float(np.clip(box[1] - _LINE, 0, max(height - _LINE, 0)))  # above the box if there is room
        draw.rectangle((x, y, x + wide, y + _LINE), fill=_bytes(colour))
        bright = colour @ np.array([0.299, 0.587, 0.114], np.float32) > 0.55
        draw.text((x + _MARGIN / 2, y + 1), text, fill="black" if bright else "white", font=_FONT)
    return np.asarray(sheet)


def _to_look_at(picture: np.ndarray) -> np.ndarray:
    """A copy, a small one enlarged with crisp pixels, a large one shrunk."""
    height, width = picture.shape[:2]
    if max(height, width) > _LARGE:
        share = _LARGE / max(height, width)
        size = max(1, round(width * share)), max(1, round(height * share))
        return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    zoom = max(1, min(zoom_to(_SMALL, height, width), _LARGE // max(height, width)))
    return np.array(enlarge(picture, zoom))


def _bytes(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (round(255 * float(value)) for value in colour)
    return red, green, blue


def _fitted(text: str, width: float) -> str:
    """A line of text that no name steers, shortened with "..." to `width` pixels."""
    text = printable(text)
    if _FONT.getlength(text) <= width:
        return text
    while text and _FONT.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
