"""Pictures of a masked autoencoder at work: original, what the encoder saw, what the decoder made of it.

The figures of He et al. 2022 (https://arxiv.org/abs/2111.06377, Fig. 2 to 4): visible patches are pasted over
the prediction, since the loss never looks at what is predicted there.
"""

import math
import textwrap
from os import PathLike

import numpy as np

from cvjax.losses.mae import patch_statistics
from cvjax.ops.patches import patchify, unpatchify

GREY = 0.5
HEADINGS = ("original", "masked", "reconstruction")
TRUE_STATISTICS = "reconstruction uses each patch's true mean and variance"

_DPI = 100
_TILE = 96  # smallest side of a picture on the panel, in pixels
_GAP = 6  # white between the three pictures of an example; three times as much around it
_LINE = 18  # height of a line of text, in pixels
_CHARACTER = 7  # width of a character of the title, in pixels


def reconstruction_images(
    images, mask, prediction, *, patch_size: int, normalized_pixels: bool, pixel_mean=0.0, pixel_std=1.0
) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder saw, and the prediction with the visible patches pasted over it.

    Args:
      images: float `(B, H, W, C)` in [0, 1], C = 1 or 3.
      mask: `(B, L)`, 1 = removed, patches row by row.
      prediction: float `(B, L, patch_size**2 * C)`, pixels in (row, column, channel) order.
      normalized_pixels: the prediction is of pixels normalised per patch (the paper's better target): it is
        mapped back by mean and standard deviation of the *true* patch, which the model has not predicted.
      pixel_mean, pixel_std: number or `(C,)`; the model saw `(images - pixel_mean) / pixel_std`, and predicts
        in that space.

    Returns:
      masked and reconstructed images, both float32 `(B, H, W, C)` in [0, 1]; removed patches are mid-grey in
      the first. Visible pixels equal `images` exactly in both.

    Raises:
      ValueError: shapes that do not fit together, or images outside [0, 1].
    """
    images, prediction = np.asarray(images, np.float32), np.asarray(prediction, np.float32)
    mask = np.asarray(mask)
    _check(images, mask, prediction, patch_size)
    _, height, width, _ = images.shape
    removed = np.broadcast_to(mask[:, :, None] > 0, prediction.shape)
    removed = unpatchify(removed, patch_size, height, width)
    if normalized_pixels:
        mean, std = patch_statistics(patchify((images - pixel_mean) / pixel_std, patch_size))
        prediction = prediction * np.asarray(std) + np.asarray(mean)
    predicted = unpatchify(prediction, patch_size, height, width) * pixel_std + pixel_mean
    masked = np.where(removed, np.float32(GREY), images)
    return masked, np.where(removed, np.clip(predicted, 0, 1), images).astype(np.float32)


def reconstruction_panel(
    path: str | PathLike, images, mask, prediction, *,
    patch_size: int, normalized_pixels: bool, title: str, pixel_mean=0.0, pixel_std=1.0,
) -> None:
    """Save a PNG with original, masked and reconstructed image of each of the B examples.

    Arguments and errors are those of `reconstruction_images`. Pixels are enlarged by a whole number, so small
    images stay crisp. With `normalized_pixels` the title says that each patch's true statistics were used.
    """
    masked, reconstruction = reconstruction_images(
        images, mask, prediction, patch_size=patch_size, normalized_pixels=normalized_pixels,
        pixel_mean=pixel_mean, pixel_std=pixel_std,
    )
    triples = np.stack([np.asarray(images, np.float32), masked, reconstruction], axis=1)
    mosaic, heading_positions = _mosaic(triples)
    lines = textwrap.wrap(title, mosaic.shape[1] // _CHARACTER)
    if normalized_pixels:
        lines += textwrap.wrap(f"({TRUE_STATISTICS})", mosaic.shape[1] // _CHARACTER)
    _save(path, mosaic, lines, heading_positions)


def _check(images, mask, prediction, patch_size: int) -> None:
    if images.ndim != 4 or images.shape[3] not in (1, 3) or not len(images):
        raise ValueError(f"images must be (B, H, W, C) with B > 0 and C = 1 or 3, received {images.shape}")
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images must lie in [0, 1], received {images.min():.3g} to {images.max():.3g}")
    expected = patchify(images, patch_size).shape
    if mask.shape != expected[:2]:
        raise ValueError(f"mask must be (B, L) = {expected[:2]}, received {mask.shape}")
    if prediction.shape != expected:
        raise ValueError(f"prediction must be (B, L, p*p*C) = {expected}, received {prediction.shape}")


def _mosaic(triples: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """`(B, 3, H, W, C)` -> one white-framed `(height, width, 3)`, and the x centres of its columns."""
    count, _, height, width, channels = triples.shape
    zoom = max(1, math.ceil(_TILE / min(height, width)))
    triples = np.repeat(np.repeat(triples, zoom, axis=2), zoom, axis=3)
    height, width = height * zoom, width * zoom
    columns = max(1, round(math.sqrt(count * height / (3 * width))))  # about as wide as high
    rows = math.ceil(count / columns)

    margin = 3 * _GAP
    pitch = 3 * width + 2 * _GAP + margin, height + _GAP  # from an example to the next one
    mosaic = np.ones((rows * pitch[1] - _GAP + margin, columns * pitch[0] + margin, 3), np.float32)
    for example, triple in enumerate(triples):
        row, column = divmod(example, columns)
        top = row * pitch[1]
        for place, picture in enumerate(triple):
            left = margin + column * pitch[0] + place * (width + _GAP)
            mosaic[top : top + height, left : left + width] = picture  # one channel broadcasts to three
    offsets = [margin + place * (width + _GAP) + width / 2 for place in range(3)]
    return mosaic, [column * pitch[0] + offset for column in range(columns) for offset in offsets]


def _save(path, mosaic: np.ndarray, title: list[str], heading_positions: list[float]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = mosaic.shape[0] + (len(title) + 2) * _LINE, mosaic.shape[1]
    # The size of the figure in pixels is that of the picture: figimage puts each value on exactly one pixel.
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.figimage(mosaic, origin="upper")
    for number, line in enumerate(title):
        figure.text(0.5, 1 - (number + 1) * _LINE / height, line, ha="center", va="center", fontsize=9)
    for number, x in enumerate(heading_positions):
        y = (mosaic.shape[0] + _LINE / 2) / height
        figure.text(x / width, y, HEADINGS[number % 3], ha="center", va="center", fontsize=8)
    figure.savefig(path, dpi=_DPI, format="png")
