"""Mosaics of four pictures with their boxes, an augmentation of detection that the host makes."""

import dataclasses
import math

import numpy as np

from cvjax.data.boxes.canvas import GREY, cut_part, example, given_boxes, mirrored, rounded
from cvjax.data.boxes.crops import RandomView
from cvjax.data.dataset import Source, annotations_of
from cvjax.data.decode import DecodeError, LazyImage

_TRIES = 10


@dataclasses.dataclass(frozen=True)
class Mosaic:
    """With probability `chance`, four pictures around a random point of the canvas; else the `view` of one picture.

    YOLOv4 (Bochkovskiy et al. 2020, sec. 3.3, https://arxiv.org/abs/2004.10934). The record itself is at a random one
    of the four places, and three others drawn from `source` are at the rest. Each place is filled by a part of its
    picture of the place's own proportions, whose area is in `view.crop_scale` of the largest such part; boxes are kept
    by `RandomView`'s rule. If a drawn picture cannot be read, others are tried; it is counted when its own turn comes.
    `scale` is that of the record's own picture.

    Attributes:
        view: the canvas, and the view of a picture without a mosaic.
        source: the training records, to draw from.
        chance: share of the examples that are mosaics, in [0, 1].
        centre: least and greatest place of the point, as a share of the canvas's sides.
    """

    view: RandomView
    source: Source
    chance: float = 0.5
    centre: tuple[float, float] = (0.25, 0.75)

    def __post_init__(self):
        if not 0 <= self.chance <= 1:
            raise ValueError(f"chance must lie in [0, 1], got {self.chance}")
        if not 0 < self.centre[0] <= self.centre[1] < 1:
            raise ValueError(f"centre must satisfy 0 < least <= greatest < 1, got {self.centre}")
        if self.view.sides is not None:
            raise ValueError(f"the pictures of a mosaic fill their places: sides must be None, got {self.view.sides}")
        if min(self.view.height, self.view.width) < 2:
            raise ValueError(f"four places need 2 x 2 pixels, got {self.view.height} x {self.view.width}")

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator, **annotations: np.ndarray
                 ) -> dict[str, np.ndarray]:
        view = self.view
        if rng.random() >= self.chance:
            return view(image, rng, **annotations)
        y, x = (min(rounded(side * rng.uniform(*self.centre)), side - 1) for side in (view.height, view.width))
        canvas = np.empty((view.height, view.width, view.channels), np.uint8)
        canvas[:] = GREY[view.channels]
        places = [(0, 0, y, x), (0, x, y, view.width - x), (y, 0, view.height - y, x),
                  (y, x, view.height - y, view.width - x)]
        own, kept, scale = rng.integers(4), [], 1.0
        for number, (top, left, height, width) in enumerate(places):
            if number == own:
                picture, found, scale = self._fill(image, rng, height, width, annotations)
            else:
                drawn = self._draw(rng, height, width)
                if drawn is None:
                    continue
                picture, found, _ = drawn
            canvas[top:top + height, left:left + width] = picture
            kept.append((found[0] + np.array([left, top, left, top], np.float32), *found[1:]))
        corners, labels, difficult = map(np.concatenate, zip(*kept))
        return example(view, canvas, scale, (corners, labels, difficult))

    def _draw(self, rng, height, width):
        for _ in range(_TRIES):
            try:
                record = self.source[int(rng.integers(len(self.source)))]
                return self._fill(record["image"], rng, height, width, annotations_of(record))
            except (DecodeError, OSError):
                continue
        return None

    def _fill(self, image, rng, height, width, annotations):
        """A part of the picture that is `height` x `width` on the canvas, its boxes there, and its scale."""
        with LazyImage(image, self.view.channels) as lazy:
            share = math.sqrt(rng.uniform(*self.view.crop_scale))
            scale = max(height / lazy.height, width / lazy.width) / share
            part_height, part_width = min(height / scale, lazy.height), min(width / scale, lazy.width)
            part = (rng.uniform(0, lazy.height - part_height), rng.uniform(0, lazy.width - part_width),
                    part_height, part_width)
            picture, found = cut_part(lazy, part, (height, width), given_boxes(**annotations), self.view.interpolation)
        if self.view.flip and rng.random() < 0.5:
            picture, found = mirrored(picture, found)
        return picture, found, scale
