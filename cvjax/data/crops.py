"""Crops made on the host, where images still differ in size: (image, rng) -> uint8 (size, size, channels).

Each is a small frozen dataclass that pickles, and draws only from the generator it is given. `Squeeze` gives fields of
an example, the others its image.
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from cvjax.data.decode import LazyImage, to_array
from cvjax.data.resize import INTERPOLATIONS, resize

_TRIES = 10


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A random box, resized to `size`: Inception's training crop, by torchvision's law (see `random_box`).

    Attributes:
        size: side of the square that comes out.
        scale: least and greatest share of the image's area, in (0, 1].
        ratio: least and greatest width / height of the box.
        interpolation: `bicubic` or `bilinear`, both antialiased (see `cvjax.data.resize`).
        channels: 1 or 3.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    channels: int = 3

    def __post_init__(self):
        _check_size(self.size)
        _check_interpolation(self.interpolation)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must satisfy 0 < least <= greatest <= 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must satisfy 0 < least <= greatest, got {self.ratio}")

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        with LazyImage(image, self.channels) as lazy:
            top, left, height, width = random_box(rng, lazy.height, lazy.width, self.scale, self.ratio)
            # The whole image must be large enough for the box to be of `size`.
            target = math.ceil(self.size * lazy.height / height), math.ceil(self.size * lazy.width / width)
            pixels = lazy.pixels(target)
            # A JPEG decoded smaller has the box to its nearest pixel, of at least twice as many as come out.
            y, x = pixels.shape[0] / lazy.height, pixels.shape[1] / lazy.width
            rows = slice(round(top * y), round((top + height) * y))
            columns = slice(round(left * x), round((left + width) * x))
            return resize(pixels[rows, columns], self.size, self.interpolation)


@dataclasses.dataclass(frozen=True)
class ResizeCenterCrop:
    """The shorter side to `resize`, then the central `size`: the evaluation crop, without randomness.

    Attributes:
        size: side of the square that comes out.
        resize: length of the shorter side before the crop, at least `size`; None for `size` itself.
        interpolation: Pillow's `bicubic`, `bilinear`, ..., all antialiased.
        channels: 1 or 3.
    """

    size: int
    resize: int | None = None
    interpolation: str = "bicubic"
    channels: int = 3

    def __post_init__(self):
        _check_size(self.size)
        _resampling(self.interpolation)
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize must be at least size {self.size}, got {self.resize}")

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        with LazyImage(image, self.channels) as lazy:
            # By Pillow and in full, whatever its size: evaluation numbers are compared with other codes'.
            image, (left, top, right, bottom) = lazy.load(), self._box(lazy.height, lazy.width)
            # An image past the limit of pixels is smaller than its header says.
            x, y = image.width / lazy.width, image.height / lazy.height
            box = left * x, top * y, min(right * x, image.width), min(bottom * y, image.height)
            return to_array(image.resize((self.size, self.size), _resampling(self.interpolation), box=box))

    def _box(self, height, width):
        """The crop in the image's own pixels, so that only what is kept gets resized."""
        short, resize = min(height, width), self.resize or self.size
        resized = [resize if side == short else int(resize * side / short) for side in (height, width)]
        top, left = (round((side - self.size) / 2) for side in resized)
        y, x = height / resized[0], width / resized[1]
        return left * x, top * y, (left + self.size) * x, (top + self.size) * y


@dataclasses.dataclass(frozen=True)
class Squeeze:
    """The whole picture, squeezed into a square, and what its sides were: for crops that are made on the device.

    Gives `image` uint8 `(size, size, channels)` and `extent` float32 `(2,)`, height and width in the picture's pixels.

    Attributes:
        size: side of the square; crops are no sharper than it is.
        interpolation, channels: as in `RandomResizedCrop`.
    """

    size: int
    interpolation: str = "bicubic"
    channels: int = 3

    def __post_init__(self):
        _check_size(self.size)
        _check_interpolation(self.interpolation)

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        with LazyImage(image, self.channels) as lazy:
            return {"image": resize(lazy.pixels((self.size, self.size)), self.size, self.interpolation),
                    "extent": np.float32([lazy.height, lazy.width])}


def random_box(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A box `(top, left, height, width)` of random area and log-uniform ratio inside the image.

    After ten boxes that do not fit: the largest central box whose ratio is allowed.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h = min(height, round(width / ratio[0]))
    w = min(width, round(height * ratio[1]))
    h, w = max(h, 1), max(w, 1)
    return (height - h) // 2, (width - w) // 2, h, w


def _resampling(name):
    try:
        return Image.Resampling[name.upper()]
    except KeyError:
        allowed = ", ".join(member.name.lower() for member in Image.Resampling)
        raise ValueError(f"unknown interpolation {name!r}; allowed: {allowed}") from None


def _check_interpolation(name):
    if name not in INTERPOLATIONS:
        raise ValueError(f"unknown interpolation {name!r}; allowed: {', '.join(INTERPOLATIONS)}")


def _check_size(size):
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
