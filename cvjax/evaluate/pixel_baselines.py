"""What labels say of pixels without any network: the class that is most frequent, of all, or of a colour and a height.

Numbers of a segmentation mean little without these: much of a street is road, and much of the sky is blue.
"""

from collections.abc import Iterable

import numpy as np

from cvjax.evaluate.mask_scores import VOID

_LEVELS = 16  # per channel
_BANDS = 12  # of a picture, one below the other


class PixelBaseline:
    """The most frequent training class of a pixel's cell: its colour in 16 levels a channel, its height in the picture.

    A cell that training has not seen takes the most frequent class of all.

    Args:
        num_classes: K.
        channels: of the images; 0 does not look at the colour.
        bands: whether to look at the height, in 12 bands.
    """

    def __init__(self, num_classes: int, channels: int, *, bands: bool = False) -> None:
        self.num_classes, self.channels, self.bands = num_classes, channels, bands
        self._counts = np.zeros(((_BANDS if bands else 1) * _LEVELS**channels, num_classes), np.int64)

    def fit(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> "PixelBaseline":
        """Count images uint8 `(H, W, C)` and label maps int `(H, W)`, where 255 does not count; more may follow."""
        for image, labels in pairs:
            counted = labels != VOID
            places = self._cells(image)[counted] * self.num_classes + labels[counted]
            self._counts += np.bincount(places, minlength=self._counts.size).reshape(self._counts.shape)
        if not self._counts.any():
            raise ValueError("the label maps have no pixel that counts")
        return self

    def predict(self, image: np.ndarray) -> np.ndarray:
        """uint8 `(H, W, C)` to classes uint8 `(H, W)`."""
        most = self._counts.sum(axis=0).argmax()
        answers = np.where(self._counts.any(axis=1), self._counts.argmax(axis=1), most)
        return answers.astype(np.uint8)[self._cells(image)]

    def _cells(self, image):
        """Number of each pixel's cell, int64 `(H, W)`."""
        height = len(image)
        rows = np.arange(height) * _BANDS // height if self.bands else np.zeros(height, int)
        cells = np.broadcast_to(rows[:, None], image.shape[:2])
        for channel in range(self.channels):
            cells = cells * _LEVELS + image[..., channel] // (256 // _LEVELS)
        return cells
