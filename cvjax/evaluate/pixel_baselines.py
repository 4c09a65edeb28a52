"""Segmentation without a network: each pixel gets the most frequent class of its colour and height in the picture.

The scores of a segmentation mean little without this baseline: much of a street is road, and much of the sky is blue.
"""

from collections.abc import Iterable

import numpy as np

from cvjax.evaluate.mask_scores import VOID

_LEVELS = 16  # per channel
_BANDS = 12  # of a picture, one below the other


class PixelBaseline:
    """Predicts the class that is most frequent, in training, in a pixel's cell.

    A cell is a colour (16 levels per channel) and, if asked for, a height in the picture (12 bands). A cell that is
    empty in training predicts the most frequent class of all pixels.

    Args:
        num_classes: K.
        channels: number of channels of the images; 0 ignores the colour.
        bands: whether cells differ by height.
    """

    def __init__(self, num_classes: int, channels: int, *, bands: bool = False) -> None:
        self.num_classes, self.channels, self.bands = num_classes, channels, bands
        self._counts = np.zeros(((_BANDS if bands else 1) * _LEVELS**channels, num_classes), np.int64)

    def fit(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> "PixelBaseline":
        """Count the pixels of images uint8 `(H, W, C)` by cell and class of their label maps, int `(H, W)`.

        Pixels of label 255 do not count. Further calls add to the counts. ValueError if no pixel has counted yet.
        """
        for image, labels in pairs:
            counted = labels != VOID
            places = self._cells(image)[counted] * self.num_classes + labels[counted]
            self._counts += np.bincount(places, minlength=self._counts.size).reshape(self._counts.shape)
        if not self._counts.any():
            raise ValueError("the label maps have no pixel that counts")
        return self

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Classes uint8 `(H, W)` of an image uint8 `(H, W, C)`."""
        most = self._counts.sum(axis=0).argmax()
        answers = np.where(self._counts.any(axis=1), self._counts.argmax(axis=1), most)
        return answers.astype(np.uint8)[self._cells(image)]

    def _cells(self, image: np.ndarray) -> np.ndarray:
        """Number of each pixel's cell, int64 `(H, W)`."""
        height = len(image)
        rows = np.arange(height) * _BANDS // height if self.bands else np.zeros(height, int)
        cells = np.broadcast_to(rows[:, None], image.shape[:2])
        for channel in range(self.channels):
            cells = cells * _LEVELS + image[..., channel] // (256 // _LEVELS)
        return cells
