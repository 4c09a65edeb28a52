"""Crops of a picture and its boxes together, on the host: (image, rng, boxes, ...) -> fields of a detection example.

The fields are those of `cvjax.data.boxes.canvas`. Colours are changed on the device, see `cvjax.data.augment`, by
operations that leave pixels in place: `color_jitter`, `random_grayscale`, `gaussian_blur`, `gaussian_noise`.

Each of these is a small frozen dataclass that pickles, and draws only from the generator it is given.
"""

import dataclasses
import math

import numpy as np

from cvjax.data.boxes.canvas import check_canvas, cut_part, example, fitting_scale, given_boxes, mirrored, rounded
from cvjax.data.crops import random_box
from cvjax.data.decode import LazyImage
from cvjax.data.resize import resize

_FINE = 2**16  # a crop is drawn in this many steps of each of the picture's sides


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """The whole picture, as large as fits the canvas, without randomness.

    Its sides are rounded to whole pixels; boxes are multiplied by `scale`, so they are within half a pixel of it.

    Attributes:
        height, width: of the canvas.
        max_boxes: M, at least 1.
        interpolation: `bilinear` or `bicubic` (see `cvjax.data.resize`).
        channels: 1 or 3.
        sides: pixels of the short side, and of the long one at most, see `fitting_scale`; None for none.
    """

    height: int
    width: int
    max_boxes: int
    interpolation: str = "bilinear"
    channels: int = 3
    sides: tuple[int, int] | None = None

    def __post_init__(self):
        check_canvas(self)

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator | None = None, *,
                 boxes: np.ndarray | None = None, box_label: np.ndarray | None = None,
                 box_difficult: np.ndarray | None = None) -> dict[str, np.ndarray]:
        found = given_boxes(boxes, box_label, box_difficult)
        with LazyImage(image, self.channels) as lazy:
            scale = fitting_scale(self, lazy.height, lazy.width)
            size = rounded(lazy.height * scale), rounded(lazy.width * scale)
            picture = resize(lazy.pixels(size), size, self.interpolation)
        corners = np.clip(found[0] * np.float32(scale), 0, np.tile(np.array(size[::-1], np.float32), 2))
        return example(self, picture, scale, (corners, *found[1:]))


@dataclasses.dataclass(frozen=True)
class RandomView:
    """A random part of the picture, as large as fits the canvas or smaller, and perhaps mirrored: for training.

    A box is kept if its centre is inside the part, and is then cut to it; otherwise it is dropped: SSD's rule (Liu et
    al. 2016, sec. 2.2, https://arxiv.org/abs/1512.02325). A box of less than a canvas pixel in height or width is
    dropped, too.

    Attributes:
        height, width, max_boxes, interpolation, channels, sides: as in `Letterbox`; `sides` are the part's.
        crop_scale: least and greatest share of the picture's area that the part has; (1, 1) for all of it.
        ratio: least and greatest width / height of the part, relative to the picture's.
        zoom_out: least size of the part on the canvas, as a share of the largest that fits, in (0, 1]; log-uniform.
            With `crop_scale` it jitters scales both ways, as Ghiasi et al. 2021 (https://arxiv.org/abs/2012.07177).
        flip: whether half of the pictures are mirrored, left to right.
    """

    height: int
    width: int
    max_boxes: int
    crop_scale: tuple[float, float] = (0.3, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    zoom_out: float = 1.0
    flip: bool = True
    interpolation: str = "bilinear"
    channels: int = 3
    sides: tuple[int, int] | None = None

    def __post_init__(self):
        check_canvas(self)
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale must satisfy 0 < least <= greatest <= 1, got {self.crop_scale}")
        if not 0 < self.ratio[0] <= 1 <= self.ratio[1]:
            raise ValueError(f"ratio must satisfy 0 < least <= 1 <= greatest, got {self.ratio}")
        if not 0 < self.zoom_out <= 1:
            raise ValueError(f"zoom_out must lie in (0, 1], got {self.zoom_out}")

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator, *, boxes: np.ndarray | None = None,
                 box_label: np.ndarray | None = None, box_difficult: np.ndarray | None = None
                 ) -> dict[str, np.ndarray]:
        with LazyImage(image, self.channels) as lazy:
            top, left, height, width = _part(rng, lazy.height, lazy.width, self.crop_scale, self.ratio)
            scale = fitting_scale(self, height, width)
            scale *= math.exp(rng.uniform(math.log(self.zoom_out), 0))
            size = rounded(height * scale), rounded(width * scale)
            picture, found = cut_part(lazy, (top, left, height, width), size,
                                      given_boxes(boxes, box_label, box_difficult), self.interpolation)
        if self.flip and rng.random() < 0.5:
            picture, found = mirrored(picture, found)
        return example(self, picture, scale, found)


def _part(rng, height, width, scale, ratio) -> tuple[float, float, float, float]:
    """A random part `(top, left, height, width)`, in pixels."""
    if scale == (1.0, 1.0):
        return 0, 0, height, width
    drawn = random_box(rng, _FINE, _FINE, scale, ratio)
    top, left, part_height, part_width = (value / _FINE * side for value, side in zip(drawn, (height, width) * 2))
    return top, left, max(part_height, 1), max(part_width, 1)
