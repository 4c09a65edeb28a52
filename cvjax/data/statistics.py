"""Mean and deviation of each channel, measured on images."""

from collections.abc import Callable

import numpy as np

from cvjax.data.dataset import Source
from cvjax.data.decode import DecodeError
from cvjax.errors import DataError

PICTURES = 500


def channel_statistics(source: Source, crop: Callable[..., np.ndarray] | None
                       ) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Means and deviations of the channels of pixels in [0, 1], and on how many pictures they were measured.

    Up to 500 pictures at even distances are read, the same ones each time. Those that cannot be read are passed over.
    A channel of one value gets the deviation 1, so that the network sees 0.

    Args:
        crop: what is seen of a picture, see `EvaluationCrop`; None for all of its pixels.

    Raises:
        DataError: when none of the pictures can be read.
    """
    count, sums, squares, pictures = 0, np.zeros(1), np.zeros(1), 0
    for index in np.unique(np.linspace(0, len(source) - 1, PICTURES).astype(int)):
        try:
            image = source[int(index)]["image"]
            image = image if crop is None else crop(image)
        except (DecodeError, OSError):
            continue
        pixels = image.reshape(-1, image.shape[-1]).astype(np.float64) / 255
        count, pictures = count + len(pixels), pictures + 1
        sums, squares = sums + pixels.sum(0), squares + (pixels**2).sum(0)
    if not pictures:
        raise DataError(f"none of the pictures looked at can be read, such as {source.name(0)}")
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    std[std < 1e-6] = 1
    return tuple(mean.tolist()), tuple(std.tolist()), pictures
