"""What becomes of an image before a network sees it, without randomness. It belongs to the weights, and goes with them.

A network that learnt from images of one mean and deviation answers wrongly, without a word, when it is fed others.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

# Of pixels in [0, 1], for each of the colours red, green and blue.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5,)  # the mean and deviation that take [0, 1] to [-1, 1], for any number of channels

FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # Pillow's

CropMode = Literal["center", "squash"]
CROP = 0.875  # 224 of 256 pixels: the crop of nearly all evaluations on ImageNet from AlexNet to ResNet


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The statistics by which pixels are normalised, and the crop by which an image is judged; in timm's terms.

    mean, std: those of each channel, or one for all, of pixels in [0, 1]: a network sees `(pixel / 255 - mean) / std`.
    crop: the share of the resized image that the central square keeps on a side, in (0, 1].
    crop_mode: what is resized before the crop: "center" the image's shorter side, in proportion; "squash" both sides,
        to a square.
    interpolation: of the resizing, by Pillow: one of its filters, antialiased.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop: float = CROP
    crop_mode: CropMode = "center"
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # JSON and configurations give lists
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations: give as many as channels")
        if not all(math.isfinite(value) for value in self.mean + self.std) or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std}: they must be finite, and std positive")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop {self.crop}: it must be in (0, 1]")
        if self.crop_mode not in get_args(CropMode):
            raise ValueError(f"crop mode {self.crop_mode!r}; allowed: {', '.join(get_args(CropMode))}")
        if self.interpolation not in FILTERS:
            raise ValueError(f"interpolation {self.interpolation!r}; allowed: {', '.join(FILTERS)}")

    @staticmethod
    def of(channels: int, raw_pixels: bool = False) -> "Preprocessing":
        """That of networks which learn from the start here: ImageNet's statistics for colour, 0.5 for other images.

        raw_pixels: only the mean is taken away, from levels of 0 to 255.
        """
        how = Preprocessing() if channels == 3 else Preprocessing(HALF, HALF)
        return dataclasses.replace(how, std=(1 / 255,) * len(how.std)) if raw_pixels else how

    def check_channels(self, channels: int) -> None:
        """ValueError unless the statistics are for images of this many channels."""
        if len(self.mean) not in (1, channels):
            raise ValueError(f"statistics of {len(self.mean)} channels for images of {channels}")

    def as_json(self) -> dict[str, Any]:
        """A value for `from_json`."""
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(self).items()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Preprocessing":
        """What `as_json` wrote; KeyError or TypeError for anything else."""
        return Preprocessing(**value)

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        squash = ", squashed" if self.crop_mode == "squash" else ""
        return f"mean {mean}, deviation {std}, crop {self.crop:g}{squash}, {self.interpolation}"
