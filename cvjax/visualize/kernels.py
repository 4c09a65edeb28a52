"""Pictures of weights on pixels: filters of a first convolution, or templates of a linear classifier."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from numpy.typing import ArrayLike

from cvjax.visualize.sheet import GAP, LINE, MARGIN, Sheet, class_labels, columns_for, enlarge, zoom_to

_TILE, _NAMED_TILE = 32, 112  # smallest side of a picture, in pixels


def kernel_images(kernel: ArrayLike) -> np.ndarray:
    """Filters as pictures: `(h, w, C, N)` to float32 `(N, h, w, C)` in [0, 1].

    A weight of 0 is mid-grey, and the largest absolute weight of each filter is black or white. Raises ValueError
    unless the kernel is finite with C = 1 or 3.
    """
    kernel = np.asarray(kernel, np.float32)
    if kernel.ndim != 4 or kernel.shape[2] not in (1, 3) or 0 in kernel.shape or not np.isfinite(kernel).all():
        raise ValueError(f"kernel must be finite (h, w, C, N) with C = 1 or 3, received shape {kernel.shape}")
    largest = np.abs(kernel).max(axis=(0, 1, 2))
    return np.moveaxis(0.5 + 0.5 * kernel / np.where(largest > 0, largest, 1), -1, 0)


def kernel_panel(path: str | PathLike, kernel: ArrayLike, names: Sequence[str] | None = None, *,
                 title: str = "") -> None:
    """Save a PNG with a picture per filter, row by row; see `kernel_images`.

    kernel: `(h, w, C, N)` of a convolution, or `(H * W * C, K)` of a linear classifier reshaped to `(H, W, C, K)`.
    names: one per filter, such as the classes of a linear classifier; None: no text below the filters.
    """
    pictures = kernel_images(kernel)
    if names is not None and len(names) != len(pictures):
        raise ValueError(f"names must be one for each of {len(pictures)} filters, received {len(names)}")
    pictures = enlarge(pictures, zoom_to(_TILE if names is None else _NAMED_TILE, *pictures.shape[1:3]))
    count, height, width, _ = pictures.shape
    pitch = width + GAP, height + GAP + (0 if names is None else LINE)
    columns = columns_for(count, *pitch)
    rows = -(-count // columns)
    sheet = Sheet(max(columns * pitch[0] - GAP + 2 * MARGIN, 240), rows * pitch[1] - GAP + 2 * MARGIN, title)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        left, top = MARGIN + column * pitch[0], MARGIN + row * pitch[1]
        sheet.paste(picture, left, top)
        if names is not None:
            sheet.write(class_labels(names)[number], left, top + height, width, centred=True)
    sheet.save(path)
