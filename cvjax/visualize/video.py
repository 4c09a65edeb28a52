"""A video next to a vision transformer's attention in each frame, as an animated GIF.

After `video_generation.py` of DINO (Caron et al. 2021, https://arxiv.org/abs/2104.14294), which shows the mean of the
heads, each frame's map from its own minimum to its own maximum.
"""

import io
from collections.abc import Mapping
from os import PathLike

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from cvjax.visualize.heatmaps import overlay
from cvjax.visualize.sheet import GAP, LINE, MARGIN, Sheet, check_images, enlarge, zoom_to

_TILE = 144  # smallest side of a picture, in pixels


def attention_video(path: str | PathLike, frames: ArrayLike, heatmaps: Mapping[str, np.ndarray], *,
                    frames_per_second: float = 10.0, title: str = "") -> None:
    """Save an animated GIF that repeats forever: each frame, and next to it an overlay per heat map.

    Args:
      path: ends in ".gif".
      frames: float `(T, H, W, C)` in [0, 1], T > 0.
      heatmaps: heading, such as "mean" or "head 1" -> finite `(T, gh, gw)`, drawn as by `overlay`.
      frames_per_second: 1 to 50. A GIF counts time in hundredths of a second, so it plays at the nearest rate with a
        whole number of them per frame. Equal frames are stored as one that stays longer.

    Raises:
      ValueError: anything else.
    """
    frames = check_images(frames)
    if not str(path).lower().endswith(".gif"):
        raise ValueError(f'path must end in ".gif", received {str(path)!r}')
    if not len(frames) or not heatmaps:
        raise ValueError(f"there must be a frame and a heat map, received {len(frames)} and {len(heatmaps)}")
    if not 1 <= frames_per_second <= 50:  # many programs play a faster GIF slowly
        raise ValueError(f"frames_per_second must be from 1 to 50, received {frames_per_second}")
    frames = enlarge(frames, zoom_to(_TILE, *frames.shape[1:3]))
    height, width = frames.shape[1:3]
    pictures = [frames, *(overlay(frames, heat) for heat in heatmaps.values())]
    sheet = Sheet(len(pictures) * (width + GAP) - GAP + 2 * MARGIN, LINE + height + MARGIN, title)
    for place, heading in enumerate(["frame", *heatmaps]):
        sheet.write(heading, MARGIN + place * (width + GAP), 0, width, centred=True)
    written = io.BytesIO()
    sheet.save(written)
    with Image.open(written) as paper:
        paper = np.array(paper.convert("RGB"))
    top = len(paper) - MARGIN - height  # below the title, whose height only the sheet knows

    images = []
    for time in range(len(frames)):
        for place, picture in enumerate(pictures):
            left = MARGIN + place * (width + GAP)
            paper[top : top + height, left : left + width] = np.rint(255 * picture[time])
        # Each frame has its own palette. Dither would make a grain that moves from frame to frame.
        images.append(Image.fromarray(paper).quantize(256, dither=Image.Dither.NONE))
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], loop=0, optimize=False,
                   duration=10 * round(100 / frames_per_second))
