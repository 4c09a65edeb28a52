"""What the host does to a picture and its boxes together: (image, rng, boxes, ...) -> fields of a detection example.

The fields, for a canvas of H x W pixels and M boxes at most:

    image uint8 (H, W, C), the picture at the top left of the canvas and grey below or beside it;
    extent float32 (2,), height and width of the picture's part; scale float32 (), canvas pixels per pixel of the file;
    boxes float32 (M, 4) in canvas pixels, box_label int32 (M,), box_difficult bool (M,), box_mask bool (M,).

Of more than M boxes the largest M are kept, for they are what shows best once a picture is small; those that count come
before the difficult ones. The other rows have mask False, and zeros. Colours are changed on the device, see
`cvjax.data.augment`, by whatever leaves pixels where they are: `color_jitter`, `random_grayscale`, `gaussian_blur`,
`gaussian_noise`.

Each of these is a small frozen dataclass that pickles, and draws only from the generator it is given.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from cvjax.data.crops import random_box
from cvjax.data.dataset import Source, annotations_of
from cvjax.data.decode import DecodeError, LazyImage
from cvjax.data.resize import INTERPOLATIONS, resize

# Near the means that images are normalised by, so that a model sees about 0.
_GREY = {1: (128,), 3: (124, 116, 104)}
_FINE = 2**16  # steps that a picture's sides are divided into where a crop is drawn
_LEAST = 1.0  # canvas pixels; training boxes that a crop leaves smaller show nothing
_TRIES = 10

Boxes = tuple[np.ndarray, np.ndarray, np.ndarray]  # float32 (N, 4), int32 (N,), bool (N,): corners, label, difficult


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """The whole picture, as large as fits the canvas, without randomness.

    Its sides are rounded to whole pixels; boxes are multiplied by `scale`, so they are within half a pixel of it.

    Attributes:
        height, width: of the canvas.
        max_boxes: M, at least 1.
        interpolation: `bilinear` or `bicubic` (see `cvjax.data.resize`).
        channels: 1 or 3.
    """

    height: int
    width: int
    max_boxes: int
    interpolation: str = "bilinear"
    channels: int = 3

    def __post_init__(self):
        _check(self)

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator | None = None, *,
                 boxes: np.ndarray | None = None, box_label: np.ndarray | None = None,
                 box_difficult: np.ndarray | None = None) -> dict[str, np.ndarray]:
        found = _boxes(boxes, box_label, box_difficult)
        with LazyImage(image, self.channels) as lazy:
            scale = min(self.height / lazy.height, self.width / lazy.width)
            size = _rounded(lazy.height * scale), _rounded(lazy.width * scale)
            picture = resize(lazy.pixels(size), size, self.interpolation)
        corners = np.clip(found[0] * np.float32(scale), 0, np.tile(np.float32(size[::-1]), 2))
        return _example(self, picture, scale, (corners, *found[1:]))


@dataclasses.dataclass(frozen=True)
class RandomView:
    """A random part of the picture, as large as fits the canvas or smaller, and perhaps mirrored: for training.

    A box stays where its centre is inside of the part, cut to what is inside, and is gone otherwise: SSD's rule (Liu et
    al. 2016, sec. 2.2, https://arxiv.org/abs/1512.02325). So is one of less than a canvas pixel in height or width.

    Attributes:
        height, width, max_boxes, interpolation, channels: as in `Letterbox`.
        crop_scale: least and greatest share of the picture's area that the part has; (1, 1) for all of it.
        ratio: least and greatest width / height of the part, in those of the picture.
        zoom_out: least size of the part on the canvas, as a share of what would fit, in (0, 1]; log-uniform up to 1.
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

    def __post_init__(self):
        _check(self)
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
            scale = min(self.height / height, self.width / width)
            scale *= math.exp(rng.uniform(math.log(self.zoom_out), 0))
            size = _rounded(height * scale), _rounded(width * scale)
            picture, found = _cut(lazy, (top, left, height, width), size, _boxes(boxes, box_label, box_difficult), self)
        if self.flip and rng.random() < 0.5:
            picture, found = mirrored(picture, found)
        return _example(self, picture, scale, found)


@dataclasses.dataclass(frozen=True)
class Mosaic:
    """Four pictures around a random point of the canvas, by `chance`; else what `view` makes of the one.

    YOLOv4 (Bochkovskiy et al. 2020, sec. 3.3, https://arxiv.org/abs/2004.10934). The record itself is at a random one
    of the four places, and three others drawn from `source` are at the rest. Each place is filled by a part of its
    picture of the place's own proportions, whose area is in `view.crop_scale` of the largest such part; boxes are kept
    by `RandomView`'s rule. Where a picture drawn cannot be read others are tried, and it is counted in its own turn.
    `scale` is the record's own picture's.

    Attributes:
        view: the canvas, and what is done without a mosaic.
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
        if min(self.view.height, self.view.width) < 2:
            raise ValueError(f"four places need 2 x 2 pixels, got {self.view.height} x {self.view.width}")

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator, **annotations: np.ndarray
                 ) -> dict[str, np.ndarray]:
        view = self.view
        if rng.random() >= self.chance:
            return view(image, rng, **annotations)
        y, x = (min(_rounded(side * rng.uniform(*self.centre)), side - 1) for side in (view.height, view.width))
        canvas = np.empty((view.height, view.width, view.channels), np.uint8)
        canvas[:] = _GREY[view.channels]
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
            kept.append((found[0] + np.float32([left, top, left, top]), *found[1:]))
        return _example(view, canvas, scale, tuple(map(np.concatenate, zip(*kept))))

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
            picture, found = _cut(lazy, part, (height, width), _boxes(**annotations), self.view)
        if self.view.flip and rng.random() < 0.5:
            picture, found = mirrored(picture, found)
        return picture, found, scale


def mirrored(picture: np.ndarray, found: Boxes) -> tuple[np.ndarray, Boxes]:
    """A picture `(h, w, C)` and the boxes in it, left to right."""
    x1, y1, x2, y2 = found[0].T
    width = np.float32(picture.shape[1])
    return picture[:, ::-1], (np.stack([width - x2, y1, width - x1, y2], 1), *found[1:])


def inside(found: Boxes, part: tuple[float, float, float, float]) -> Boxes:
    """The boxes whose centres are in `part` (top, left, height, width), cut to it and counted from its corner."""
    corners, *others = found
    top, left, height, width = part
    moved = corners - np.float32([left, top, left, top])
    sides = np.float32([width, height])
    centre = (moved[:, :2] + moved[:, 2:]) / 2
    stays = ((centre >= 0) & (centre < sides)).all(1)
    return (np.clip(moved[stays], 0, np.tile(sides, 2)), *(other[stays] for other in others))


def to_original(boxes: Any, scale: Any) -> Any:
    """Boxes `(B, ..., 4)` in canvas pixels to pixels of the pictures' files; scale `(B,)`: of the batch."""
    return boxes / scale.reshape(scale.shape + (1,) * (boxes.ndim - scale.ndim))


def _part(rng, height, width, scale, ratio) -> tuple[float, float, float, float]:
    """A random part `(top, left, height, width)`, in pixels."""
    if scale == (1.0, 1.0):
        return 0, 0, height, width
    drawn = random_box(rng, _FINE, _FINE, scale, ratio)
    top, left, part_height, part_width = (value / _FINE * side for value, side in zip(drawn, (height, width) * 2))
    return top, left, max(part_height, 1), max(part_width, 1)


def _cut(lazy, part, size, found, view):
    """The `part` of an opened picture at `size`, and the boxes in it."""
    top, left, height, width = part
    pixels = lazy.pixels((math.ceil(size[0] * lazy.height / height), math.ceil(size[1] * lazy.width / width)))
    # A part begins and ends at whole pixels of what was decoded; boxes are moved by what came of that.
    y, x = pixels.shape[0] / lazy.height, pixels.shape[1] / lazy.width
    rows, columns = _whole(top * y, height * y, pixels.shape[0]), _whole(left * x, width * x, pixels.shape[1])
    cut = pixels[rows, columns]
    corners, *others = inside(found, (rows.start / y, columns.start / x, cut.shape[0] / y, cut.shape[1] / x))
    zoom = np.float32([size[1] * x / cut.shape[1], size[0] * y / cut.shape[0]])
    corners = np.clip(corners * np.tile(zoom, 2), 0, np.tile(np.float32(size[::-1]), 2))
    shows = (corners[:, 2:] - corners[:, :2] >= _LEAST).all(1)
    return resize(cut, size, view.interpolation), (corners[shows], *(other[shows] for other in others))


def _whole(start, length, limit) -> slice:
    """The nearest whole pixels, one at least, before `limit`."""
    first = min(round(start), limit - 1)
    return slice(first, min(max(round(start + length), first + 1), limit))


def _example(view, picture, scale, found) -> dict[str, np.ndarray]:
    height, width = picture.shape[:2]
    canvas = picture
    if (height, width) != (view.height, view.width):
        canvas = np.empty((view.height, view.width, view.channels), np.uint8)
        canvas[:] = _GREY[view.channels]
        canvas[:height, :width] = picture
    fields = {"image": np.ascontiguousarray(canvas), "extent": np.float32([height, width]), "scale": np.float32(scale)}
    return fields | padded(found, view.max_boxes)


def padded(found: Boxes, count: int) -> dict[str, np.ndarray]:
    """`boxes`, `box_label`, `box_difficult` and `box_mask` of an example, `count` rows; of more boxes the largest."""
    corners, labels, difficult = found
    if len(corners) > count:
        sides = corners[:, 2:] - corners[:, :2]
        chosen = np.sort(np.lexsort((-sides.prod(1), difficult))[:count])
        corners, labels, difficult = corners[chosen], labels[chosen], difficult[chosen]
    fields = {}
    for name, values in (("boxes", corners), ("box_label", labels), ("box_difficult", difficult),
                         ("box_mask", np.ones(len(corners), bool))):
        fields[name] = np.zeros((count, *values.shape[1:]), values.dtype)
        fields[name][:len(values)] = values
    return fields


def _boxes(boxes=None, box_label=None, box_difficult=None) -> Boxes:
    if boxes is None:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool)
    return np.asarray(boxes, np.float32), np.asarray(box_label, np.int32), np.asarray(box_difficult, bool)


def _rounded(side: float) -> int:
    return max(1, round(side))


def _check(view):
    if view.height < 1 or view.width < 1 or view.max_boxes < 1:
        raise ValueError(f"height, width and max_boxes must be at least 1, got {view.height}, {view.width}, "
                         f"{view.max_boxes}")
    if view.interpolation not in INTERPOLATIONS:
        raise ValueError(f"unknown interpolation {view.interpolation!r}; allowed: {', '.join(INTERPOLATIONS)}")
    if view.channels not in _GREY:
        raise ValueError(f"channels must be 1 or 3, got {view.channels}")
