"""Pictures of a class token's attention, head by head, and of the masks that hold most of it.

After fig. 1, 3 and 4 of DINO (Caron et al. 2021, https://arxiv.org/abs/2104.14294).
"""

from os import PathLike

import jax
import numpy as np
from numpy.typing import ArrayLike

from cvjax.visualize.heatmaps import overlay
from cvjax.visualize.sheet import GAP, LINE, MARGIN, Sheet, check_images, columns_for, enlarge, zoom_to

_TILE = 112  # smallest side of a picture, in pixels
_WIDEST = 1620  # largest width of a line of pictures in pixels; further heads continue below
_OUTSIDE = np.array([0.16, 0.2, 0.5], np.float32)  # colour outside of a mask
_OUTLINE = np.array([1.0, 0.85, 0.1], np.float32)


def mask_pictures(images: ArrayLike, masks: ArrayLike) -> np.ndarray:
    """Images that are unchanged inside their masks and dark blue outside: float32 `(N, H, W, 3)` in [0, 1].

    An outline separates the two. images: float `(N, H, W, C)` in [0, 1]. masks: bool `(N, h, w)`, enlarged
    to the image without smoothing, as patches are. Raises ValueError for anything else.
    """
    images, masks = check_images(images), np.asarray(masks)
    if masks.dtype != bool or masks.ndim != 3 or len(masks) != len(images):
        raise ValueError(f"masks must be bool (N, h, w) with N = {len(images)}, "
                         f"received {masks.dtype} of shape {masks.shape}")
    masks = np.asarray(jax.image.resize(masks.astype(np.float32), images.shape[:3], "nearest")) > 0.5
    around = np.pad(masks, [(0, 0), (1, 1), (1, 1)], mode="edge")
    deep = masks & around[:, :-2, 1:-1] & around[:, 2:, 1:-1] & around[:, 1:-1, :-2] & around[:, 1:-1, 2:]
    pictures = np.where(masks[..., None], images, 0.3 * images.mean(axis=-1, keepdims=True) + 0.7 * _OUTSIDE)
    return np.where((masks & ~deep)[..., None], _OUTLINE, pictures).astype(np.float32)


def attention_panel(path: str | PathLike, images: ArrayLike, attention: ArrayLike, masks: ArrayLike, *,
                    title: str = "") -> None:
    """Save a PNG: for each image, the image above the mean of its heads, and each head's attention above its mask.

    Attention is drawn as by `overlay`, from the minimum to the maximum of each map. The maximum is written below it.

    Args:
      images: float `(N, H, W, C)` in [0, 1], N > 0.
      attention: finite `(N, heads, gh, gw)` in [0, 1], shares of the attention of a head.
      masks: bool of the same shape; their share of the image is written below them.

    Raises:
      ValueError: anything else.
    """
    images, attention, masks = check_images(images), np.asarray(attention, np.float32), np.asarray(masks)
    count = len(images)
    if attention.ndim != 4 or len(attention) != count or not attention.size:
        raise ValueError(f"attention must be (N, heads, gh, gw) with N = {count} > 0, received {attention.shape}")
    if not (attention.min() >= 0 and attention.max() <= 1.001):  # a softmax in half precision rounds that far
        raise ValueError(f"attention must lie in [0, 1], received {attention.min():.3g} to {attention.max():.3g}")
    if masks.shape != attention.shape or masks.dtype != bool:
        raise ValueError(f"masks must be bool of the attention's shape {attention.shape}, "
                         f"received {masks.dtype} of shape {masks.shape}")
    images = enlarge(images, zoom_to(_TILE, *images.shape[1:3]))
    height, width = images.shape[1:3]
    heads = attention.shape[1]
    mean = overlay(images, attention.mean(axis=1))

    lines = -(-heads // max(1, _WIDEST // (width + GAP) - 1))  # the image takes a place
    per_line = -(-heads // lines)
    pair = 3 * LINE + 2 * height  # heading, attention, its peak, mask, its share
    block = (1 + per_line) * (width + GAP) - GAP, lines * (pair + GAP) - GAP
    pitch = block[0] + 2 * MARGIN, block[1] + MARGIN
    columns = columns_for(count, *pitch)
    sheet = Sheet(columns * pitch[0], -(-count // columns) * pitch[1] + GAP, title)

    def column(left: int, top: int, heading: str, upper: np.ndarray, lower: np.ndarray) -> None:
        sheet.write(heading, left, top, width, centred=True)
        sheet.paste(upper, left, top + LINE)
        sheet.paste(lower, left, top + 2 * LINE + height)

    def note(text: str, left: int, top: int) -> None:
        sheet.write(text, left, top, width, size=7, colour="dimgrey", centred=True)

    for example in range(count):
        row, place = divmod(example, columns)
        left, top = place * pitch[0] + MARGIN, row * pitch[1] + GAP
        column(left, top, "image", images[example], mean[example])
        sheet.write("mean of heads", left, top + LINE + height, width, centred=True)
        note(_peak(attention[example].mean(axis=0)), left, top + 2 * (LINE + height))
        for head in range(heads):
            line, place = divmod(head, per_line)
            x, y = left + (1 + place) * (width + GAP), top + line * (pair + GAP)
            image, heat, mask = images[example][None], attention[example, head], masks[example, head]
            column(x, y, f"head {head + 1}", overlay(image, heat[None])[0], mask_pictures(image, mask[None])[0])
            note(_peak(heat), x, y + LINE + height)
            note(f"{100 * mask.mean():.0f} % of the image", x, y + 2 * (LINE + height))
    sheet.save(path)


def _peak(heat: np.ndarray) -> str:
    return f"peak {100 * heat.max():.2g} %"
