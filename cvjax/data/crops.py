"""Crops made on the host, where images still differ in size: (image, rng) -> uint8 (size, size, channels).

Pixels that are no photo's (see `is_levels`) keep their type, float32 or uint8, and their number of channels.

Each is a small frozen dataclass that pickles, and draws only from the generator it is given. `SeveralCrops` and
`Squeeze` give fields of an example, the others its image.
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from cvjax.data.decode import LazyImage, is_levels, to_array
from cvjax.data.preprocessing import Preprocessing
from cvjax.data.resize import INTERPOLATIONS, resize
from cvjax.data.stored import decode_stored

Box = tuple[int, int, int, int]  # top, left, height, width
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
            box = random_box(rng, lazy.height, lazy.width, self.scale, self.ratio)
            return _cut(lazy, lazy.pixels(_whole(lazy, box, self.size)), box, self.size, self.interpolation)


@dataclasses.dataclass(frozen=True)
class RandomSquareCrop:
    """The shorter side to a length drawn from `short_side`, then a square of `size` at a random place.

    The training crop before Inception's: AlexNet (Krizhevsky et al. 2012, sec. 4.1: 224 of 256 pixels), VGG (Simonyan
    and Zisserman 2015, sec. 3.1: of 256 to 512), ResNet (He et al. 2016, sec. 3.4: of 256 to 480). The box is rounded
    to whole pixels of the original image.

    Attributes:
        size: side of the square that comes out.
        short_side: least and greatest length of the shorter side, each as likely, at least `size`.
        interpolation: as in `RandomResizedCrop`.
        channels: 1 or 3.
    """

    size: int
    short_side: tuple[int, int] = (256, 256)
    interpolation: str = "bicubic"
    channels: int = 3

    def __post_init__(self):
        _check_size(self.size)
        _check_interpolation(self.interpolation)
        if not self.size <= self.short_side[0] <= self.short_side[1]:
            raise ValueError(f"short_side must satisfy {self.size} (size) <= least <= greatest, got {self.short_side}")

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        with LazyImage(image, self.channels) as lazy:
            short = int(rng.integers(self.short_side[0], self.short_side[1] + 1))
            side = max(1, round(min(lazy.height, lazy.width) * self.size / short))
            top, left = (int(rng.integers(length - side + 1)) for length in (lazy.height, lazy.width))
            box = top, left, side, side
            return _cut(lazy, lazy.pixels(_whole(lazy, box, self.size)), box, self.size, self.interpolation)


@dataclasses.dataclass(frozen=True)
class SeveralCrops:
    """Random crops of one picture, which is decoded once: fields of an example, uint8 `(count, size, size, channels)`.

    Attributes:
        crops: the name of a field, its crop, and how many of them, at least 1; all of the same channels.
    """

    crops: tuple[tuple[str, RandomResizedCrop, int], ...]

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        with LazyImage(image, self.crops[0][1].channels) as lazy:
            boxes = [(name, crop, [random_box(rng, lazy.height, lazy.width, crop.scale, crop.ratio)
                                   for _ in range(count)]) for name, crop, count in self.crops]
            targets = [_whole(lazy, box, crop.size) for _, crop, of_crop in boxes for box in of_crop]
            pixels = lazy.pixels((max(height for height, _ in targets), max(width for _, width in targets)))
            return {name: np.stack([_cut(lazy, pixels, box, crop.size, crop.interpolation) for box in of_crop])
                    for name, crop, of_crop in boxes}


@dataclasses.dataclass(frozen=True)
class ResizeCenterCrop:
    """The shorter side to `resize`, then the central `size`: the evaluation crop, without randomness.

    Attributes:
        size: side of the square that comes out.
        resize: length of the shorter side before the crop, at least `size`; None for `size` itself.
        interpolation: Pillow's `bicubic`, `bilinear`, ..., all antialiased.
        channels: 1 or 3.
        squash: both sides to `resize`, whatever the image's proportions.
    """

    size: int
    resize: int | None = None
    interpolation: str = "bicubic"
    channels: int = 3
    squash: bool = False

    def __post_init__(self):
        _check_size(self.size)
        _resampling(self.interpolation)
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize must be at least size {self.size}, got {self.resize}")

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        with LazyImage(image, self.channels) as lazy:
            return self.of(lazy)

    def of(self, lazy: LazyImage) -> np.ndarray:
        """The crop of an opened image."""
        # Pillow resizes the fully decoded image, because evaluation numbers are compared with those of other codes.
        image = lazy.load()
        left, top, right, bottom = self._box(lazy.height, lazy.width)
        # An image past the limit of pixels is smaller than its header says.
        x, y = image.width / lazy.width, image.height / lazy.height
        box = left * x, top * y, min(right * x, image.width), min(bottom * y, image.height)
        resized = to_array(image.resize((self.size, self.size), _resampling(self.interpolation), box=box))
        return np.clip(resized, 0, 255)  # floats may leave the range

    def _box(self, height, width):
        """The crop in the image's own pixels, so that only the part that is kept gets resized."""
        short, resize = min(height, width), self.resize or self.size
        resized = [resize if self.squash or side == short else int(resize * side / short) for side in (height, width)]
        top, left = (round((side - self.size) / 2) for side in resized)
        y, x = height / resized[0], width / resized[1]
        return left * x, top * y, (left + self.size) * x, (top + self.size) * y


@dataclasses.dataclass(frozen=True)
class EvaluationCrop:
    """The evaluation crop, by one rule wherever the image is stored: in files, packed, cached or in an array.

    An image of exactly the model's size is taken as it is. Any other image is resized to the size divided by
    `preprocessing.crop`, rounded down as timm does, and the central square is cut out.

    Attributes:
        size: side of the square that comes out, which is the model's image size.
        channels: 1 or 3; any other number for images that have as many, in arrays or in files (`decode_stored`).
        preprocessing: how the image is resized, and which share of it is kept.
    """

    size: int
    channels: int = 3
    preprocessing: Preprocessing = Preprocessing()

    @property
    def resized(self) -> ResizeCenterCrop:
        """The crop of an image of another size."""
        how = self.preprocessing
        return ResizeCenterCrop(self.size, int(self.size / how.crop), how.interpolation, self.channels,
                                squash=how.crop_mode == "squash")

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        if isinstance(image, bytes) and self.channels not in (1, 3):
            image = decode_stored(image, self.channels)
        if isinstance(image, np.ndarray) and is_levels(image) and image.shape[2] > 1:  # Pillow takes one
            grey = dataclasses.replace(self, channels=1)
            return np.concatenate([grey(image[:, :, [i]]) for i in range(image.shape[2])], axis=2)
        with LazyImage(image, self.channels) as lazy:
            if (lazy.height, lazy.width) == (self.size, self.size):
                return to_array(lazy.load())
            return self.resized.of(lazy)


@dataclasses.dataclass(frozen=True)
class Squeeze:
    """The whole picture squeezed into a square, with its original sides, for crops that are made on the device.

    Gives `image` uint8 `(size, size, channels)` and `extent` float32 `(2,)`, height and width in the picture's pixels.

    Attributes:
        size: side of the square; crops are no sharper than the square.
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
                    "extent": np.array([lazy.height, lazy.width], np.float32)}


def _whole(lazy: LazyImage, box: Box, size: int) -> tuple[int, int]:
    """Height and width that the whole image must have for the box to be of `size`."""
    return math.ceil(size * lazy.height / box[2]), math.ceil(size * lazy.width / box[3])


def _cut(lazy: LazyImage, pixels: np.ndarray, box: Box, size: int, interpolation: str) -> np.ndarray:
    """A box of an opened image, from its pixels, perhaps decoded smaller, resized to a square of `size`."""
    top, left, height, width = box
    # In a JPEG decoded smaller, the box is rounded to whole pixels, at least twice as many as come out.
    y, x = pixels.shape[0] / lazy.height, pixels.shape[1] / lazy.width
    rows = slice(round(top * y), round((top + height) * y))
    columns = slice(round(left * x), round((left + width) * x))
    return resize(pixels[rows, columns], size, interpolation)


def random_box(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
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
