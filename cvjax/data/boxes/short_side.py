"""torchvision's resize of a detector's picture, for the weights that it publishes (`GeneralizedRCNNTransform`)."""

import dataclasses
import math

import cv2
import numpy as np

from cvjax.data.decode import LazyImage


@dataclasses.dataclass(frozen=True)
class ShortSide:
    """The whole picture, its short side resized to `short` pixels, or fewer where the long one would exceed `long`.

    The canvas belongs to the picture: its sides are the next multiples of `divisor`. As torchvision's, the resize is
    bilinear without antialiasing, its values are not rounded, and the sides are rounded down. So each side has a scale
    of its own.

    Attributes:
        mean: level of each channel in [0, 1] that fills the canvas, 0 once it is normalised.
        channels: 1 or 3.
    """

    mean: tuple[float, ...]
    short: int = 800
    long: int = 1333
    divisor: int = 32
    channels: int = 3

    def __call__(self, image: bytes | np.ndarray) -> dict[str, np.ndarray]:
        """`image` float32 (H, W, C) in [0, 255], `extent` (2,), as in `cvjax.data.boxes.canvas`, and `scale` (1, 4):
        canvas pixels per pixel of the file, for each number of a box."""
        with LazyImage(image, self.channels) as lazy:
            pixels = lazy.pixels()
        height, width = pixels.shape[:2]
        factor = min(self.short / min(height, width), self.long / max(height, width))
        size = max(1, math.floor(height * factor)), max(1, math.floor(width * factor))
        canvas = np.empty((*(-(-side // self.divisor) * self.divisor for side in size), self.channels), np.float32)
        canvas[:] = 255 * np.array(self.mean, np.float32)
        resized = cv2.resize(pixels.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
        canvas[:size[0], :size[1]] = resized.reshape(*size, self.channels)
        down, across = size[0] / height, size[1] / width
        return {"image": canvas, "extent": np.array(size, np.float32),
                "scale": np.array([[across, down, across, down]], np.float32)}
