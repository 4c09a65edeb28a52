"""The global and local views of images in multi-crop training, in their relative sizes.

Multi-crop: Caron et al. 2020 (https://arxiv.org/abs/2006.09882, sec. 3.3), as in DINO (Caron et al. 2021).
"""

from collections.abc import Mapping
from os import PathLike

import numpy as np
from numpy.typing import ArrayLike

from cvjax.visualize.sheet import GAP, LINE, MARGIN, Sheet, check_images, enlarge, zoom_to

_TILE = 96  # smallest side of the largest view, in pixels
_GREY = 0.7


def views_panel(path: str | PathLike, images: ArrayLike, views: Mapping[str, np.ndarray], *, title: str = "") -> None:
    """Save a PNG with a row per image: the image, then its views row by row. All pixels have the same size.

    Args:
      images: float `(N, H, W, C)` in [0, 1], N > 0.
      views: kind ("global", "local") -> float `(N, V, h, w, C)` in [0, 1] with V > 0; kinds may differ in size.

    Raises:
      ValueError: anything else.
    """
    images = check_images(images)
    count = len(images)
    if not count or not views:
        raise ValueError(f"there must be an image and a kind of views, received {count} and {len(views)}")
    pictures = {"image": images[:, None]}
    for kind, several in views.items():
        several = np.asarray(several)
        if several.ndim != 5 or len(several) != count or not several.shape[1]:
            raise ValueError(f"{kind} views must be (N, V, h, w, C) with N = {count} and V > 0, "
                             f"received {several.shape}")
        pictures[kind] = check_images(several.reshape(-1, *several.shape[2:])).reshape(*several.shape[:4], -1)
    largest = max((several.shape[2:4] for kind, several in pictures.items() if kind != "image"), key=min)
    zoom = zoom_to(_TILE, *largest)
    pictures = {kind: enlarge(several, zoom) for kind, several in pictures.items()}

    height = max(several.shape[2] for several in pictures.values())
    between = MARGIN - GAP  # kinds are further apart than views of a kind
    grids = {}  # kind -> columns of its views; several small ones fit below each other
    for kind, several in pictures.items():
        stack = min(several.shape[1], (height + 2 * GAP) // (several.shape[2] + GAP))  # may exceed the row by a gap
        grids[kind] = -(-several.shape[1] // stack)
    widths = [grids[kind] * (several.shape[3] + GAP) for kind, several in pictures.items()]
    sheet = Sheet(sum(widths) - GAP + between * (len(widths) - 1) + 2 * MARGIN,
                  2 * LINE + count * (height + MARGIN), title)
    left = MARGIN
    for (kind, several), width in zip(pictures.items(), widths):
        number, tall, wide = several.shape[1:4]
        sheet.write(f"{number} {kind}" if number > 1 else kind, left, 0, width - GAP)
        sheet.write(f"{wide // zoom}×{tall // zoom}", left, LINE, width - GAP, size=7, colour="dimgrey")
        outline = np.full((tall + 2, wide + 2, 1), _GREY, np.float32)  # separates a white view from the paper
        for row in range(count):
            for view in range(number):
                line, column = divmod(view, grids[kind])
                x, y = left + column * (wide + GAP), 2 * LINE + row * (height + MARGIN) + line * (tall + GAP) + 1
                sheet.paste(outline, x - 1, y - 1)
                sheet.paste(several[row, view], x, y)
        left += width + between
    sheet.save(path)
