"""Crops of an image and its label map together, on the host: (image, rng, label_map) -> fields of an example.

`image` comes out as uint8 `(H, W, channels)` and `label_map` as int32 `(H, W)`. There, 255 marks the pixels that do not
count: those marked in the label map, and all outside the picture. Both are seen through the same window: an output
pixel has the label of the input pixel in which its middle lies.
"""

import dataclasses
import math

import cv2
import numpy as np

from cvjax.data.decode import DecodeError, LazyImage
from cvjax.data.label_maps.labels import IGNORE
from cvjax.data.resize import INTERPOLATIONS, resize

# Beside a picture: ImageNet's mean, which is 0 once it is normalised.
_BESIDE = {1: (128,), 3: (124, 116, 104)}


@dataclasses.dataclass(frozen=True)
class RandomLabelledCrop:
    """A random window of a picture, resized to one size and perhaps mirrored.

    The window's area, in areas of the image, is log-uniform in `scale`. Its width / height, relative to the output's,
    is log-uniform from 1 / `ratio` to `ratio`. If the window is larger than the picture, the picture lies at a random
    place in it. With scale (1, 1) and ratio 1 the window covers a picture of the right proportions exactly.

    Attributes:
        size: height and width that come out.
        scale: least and greatest area of the window; torchvision's zoom from 0.5 to 2 is about (0.25, 4).
        ratio: at least 1; the window is up to this many times too wide or too high.
        flip: mirror half of the images.
        interpolation: `bicubic` or `bilinear`, both antialiased (see `cvjax.data.resize`).
        channels: 1 or 3.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: float = 1.0
    flip: bool = False
    interpolation: str = "bilinear"
    channels: int = 3

    def __post_init__(self):
        _check_size(self.size)
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must satisfy 0 < least <= greatest, got {self.scale}")
        if self.ratio < 1:
            raise ValueError(f"ratio must be at least 1, got {self.ratio}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"unknown interpolation {self.interpolation!r}; allowed: {', '.join(INTERPOLATIONS)}")

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator,
                 label_map: np.ndarray | None = None) -> dict[str, np.ndarray]:
        pixels, labels = _pair(image, label_map, self.channels)
        window = self._window(rng, *labels.shape)
        pixels = resize(_seen(pixels, window, _BESIDE[self.channels]), self.size, self.interpolation)
        # "Exact", because OpenCV's other nearest neighbour takes a pixel's corner in place of its middle.
        labels = cv2.resize(_seen(labels, window, (IGNORE,)), self.size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        if self.flip and rng.random() < 0.5:
            pixels, labels = pixels[:, ::-1], labels[:, ::-1]
        return {"image": np.ascontiguousarray(pixels), "label_map": labels.astype(np.int32)}

    def _window(self, rng, height, width):
        """`(top, left, height, width)` in the picture's pixels, whole; it may reach over the picture's borders."""
        area = height * width * math.exp(rng.uniform(*np.log(self.scale)))
        aspect = self.size[1] / self.size[0] * math.exp(rng.uniform(-1, 1) * math.log(self.ratio))
        h, w = max(1, round(math.sqrt(area / aspect))), max(1, round(math.sqrt(area * aspect)))
        top, left = (int(rng.integers(min(0, room), max(0, room) + 1)) for room in (height - h, width - w))
        return top, left, h, w


@dataclasses.dataclass(frozen=True)
class PadLabelled:
    """The whole picture in its own pixels at the upper left of one size, without randomness.

    Attributes:
        size: height and width that come out; a larger picture is a DecodeError.
        channels: 1 or 3.
    """

    size: tuple[int, int]
    channels: int = 3

    def __post_init__(self):
        _check_size(self.size)

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator | None = None,
                 label_map: np.ndarray | None = None) -> dict[str, np.ndarray]:
        pixels, labels = _pair(image, label_map, self.channels)
        if labels.shape[0] > self.size[0] or labels.shape[1] > self.size[1]:
            raise DecodeError(f"an image of {labels.shape[0]} x {labels.shape[1]} pixels does not fit into "
                              f"{self.size[0]} x {self.size[1]}")
        window = 0, 0, *self.size
        return {"image": _seen(pixels, window, _BESIDE[self.channels]),
                "label_map": _seen(labels, window, (IGNORE,)).astype(np.int32)}


def bucket_sizes(sizes: np.ndarray, most: int = 6) -> np.ndarray:
    """The size that each image is padded to, with at most `most` different sizes: int64 `(N, 2)`.

    If the images have few sizes, they keep them. Otherwise the two sizes whose merging adds the fewest pixels become
    one, again and again, and each image takes the smallest remaining size that holds it. If there are very many sizes,
    they are first rounded up to multiples of 16, 32, ...

    Args:
        sizes: int `(N, 2)`, height and width of each.
    """
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    sizes, step = np.asarray(sizes, np.int64), 8
    buckets, counts = np.unique(sizes, axis=0, return_counts=True)
    while len(buckets) > 256:
        step *= 2
        buckets, counts = np.unique(-(-sizes // step) * step, axis=0, return_counts=True)
    while len(buckets) > most:
        area = buckets.prod(axis=1)
        both = np.maximum(buckets[:, None], buckets).prod(axis=2)
        added = counts[:, None] * (both - area[:, None]) + counts * (both - area)
        np.fill_diagonal(added, np.iinfo(np.int64).max)
        kept, gone = sorted(np.unravel_index(added.argmin(), added.shape))
        buckets[kept] = np.maximum(buckets[kept], buckets[gone])
        counts[kept] += counts[gone]
        buckets, counts = np.delete(buckets, gone, axis=0), np.delete(counts, gone)
    fits = (buckets >= sizes[:, None]).all(axis=2)
    return buckets[np.where(fits, buckets.prod(axis=1), np.iinfo(np.int64).max).argmin(axis=1)]


def _pair(image: bytes | np.ndarray, label_map: np.ndarray | None, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `(H, W, channels)` and labels `(H, W)`, all 255 where none are given."""
    with LazyImage(image, channels) as lazy:
        if label_map is not None and label_map.shape != (lazy.height, lazy.width):
            raise DecodeError(f"the label map is {label_map.shape[0]} x {label_map.shape[1]}, its image "
                              f"{lazy.height} x {lazy.width}")
        pixels = lazy.pixels()
    if label_map is None:
        return pixels, np.full(pixels.shape[:2], IGNORE, np.uint8)
    if label_map.shape != pixels.shape[:2]:  # past the limit of pixels an image is decoded smaller
        raise DecodeError(f"{label_map.shape[0]} x {label_map.shape[1]} pixels are too many for an image that has a "
                          "label map")
    return pixels, label_map


def _seen(pixels, window, beside):
    """The picture in a window `(top, left, height, width)`, `(height, width, ...)`; `beside` fills the rest of it."""
    top, left, height, width = window
    inside = pixels[max(top, 0):max(top + height, 0), max(left, 0):max(left + width, 0)]
    above, before = max(-top, 0), max(-left, 0)
    below, after = height - above - inside.shape[0], width - before - inside.shape[1]
    if not (above or before or below or after):
        return inside
    framed = cv2.copyMakeBorder(inside, above, below, before, after, cv2.BORDER_CONSTANT, value=beside)
    return framed.reshape(height, width, *pixels.shape[2:])


def _check_size(size):
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be height and width of at least 1, got {size}")
