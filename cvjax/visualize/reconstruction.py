"""Pictures of a masked autoencoder: the original, the encoder's input, and the reconstruction.

As in the figures of He et al. 2022 (https://arxiv.org/abs/2111.06377, fig. 2 to 4), visible patches are pasted over the
prediction, since the loss ignores the prediction there.
"""

from os import PathLike
from typing import cast

import jax
import numpy as np
from numpy.typing import ArrayLike

from cvjax.losses.mae import patch_statistics
from cvjax.ops.patches import patchify, unpatchify
from cvjax.visualize.sheet import GAP, LINE, MARGIN, Sheet, check_images, columns_for, drawable, enlarge, zoom_to

GREY = 0.5
HEADINGS = ("original", "masked", "reconstruction")
TRUE_STATISTICS = "reconstruction uses each patch's true mean and variance"

_TILE = 96  # smallest side of a picture on the panel, in pixels


def reconstruction_images(
    images: ArrayLike, mask: ArrayLike, prediction: ArrayLike, *, patch_size: int, normalized_pixels: bool,
    pixel_mean: float | np.ndarray = 0.0, pixel_std: float | np.ndarray = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The encoder's input, and the prediction with the visible patches pasted over it.

    Args:
      images: float `(B, H, W, C)` in [0, 1].
      mask: `(B, L)`, 1 for removed patches, row by row.
      prediction: float `(B, L, patch_size**2 * C)`, pixels in (row, column, channel) order.
      normalized_pixels: the model predicts pixels normalised per patch (the paper's better target). They are mapped
        back by mean and standard deviation of the *true* patch, which the model does not predict.
      pixel_mean, pixel_std: number or `(C,)`; the model's input is `(images - pixel_mean) / pixel_std`, and it predicts
        in that space.

    Returns:
      masked and reconstructed images, both float32 `(B, H, W, C)` in [0, 1]. Removed patches are mid-grey in the first.
      Visible pixels equal `images` exactly in both.

    Raises:
      ValueError: shapes do not fit each other, or images lie outside [0, 1].
    """
    images, prediction = np.asarray(images, np.float32), np.asarray(prediction, np.float32)
    mask = np.asarray(mask)
    _check(images, mask, prediction, patch_size)
    _, height, width, _ = images.shape
    removed = np.broadcast_to(mask[:, :, None] > 0, prediction.shape)
    removed = unpatchify(removed, patch_size, height, width)
    if normalized_pixels:
        patches = patchify((images - pixel_mean) / pixel_std, patch_size)
        mean, std = patch_statistics(cast(jax.Array, patches))  # it serves NumPy too, without a copy to the device
        prediction = prediction * np.asarray(std) + np.asarray(mean)
    predicted = unpatchify(prediction, patch_size, height, width) * pixel_std + pixel_mean
    masked = np.where(removed, np.float32(GREY), images)
    return masked, np.where(removed, np.clip(predicted, 0, 1), images).astype(np.float32)


def reconstruction_panel(
    path: str | PathLike, images: ArrayLike, mask: ArrayLike, prediction: ArrayLike, *,
    patch_size: int, normalized_pixels: bool, title: str, pixel_mean: float | np.ndarray = 0.0,
    pixel_std: float | np.ndarray = 1.0,
) -> None:
    """Save a PNG with the original, masked and reconstructed image of each of the B examples.

    Arguments and errors are those of `reconstruction_images`. Pixels are enlarged by a whole number, so small images
    stay crisp. With `normalized_pixels` the title says that the true statistics of each patch were used.
    """
    masked, reconstruction = reconstruction_images(
        images, mask, prediction, patch_size=patch_size, normalized_pixels=normalized_pixels,
        pixel_mean=pixel_mean, pixel_std=pixel_std,
    )
    triples = drawable(np.stack([np.asarray(images, np.float32), masked, reconstruction], axis=1))
    triples = enlarge(triples, zoom_to(_TILE, *triples.shape[2:4]))
    count, _, height, width, _ = triples.shape
    across, down = 3 * (width + GAP) + MARGIN - GAP, height + GAP  # from an example to the next one
    columns = columns_for(count, across, down)
    sheet = Sheet(columns * across + MARGIN, LINE + -(-count // columns) * down - GAP + MARGIN,
                  title + f" ({TRUE_STATISTICS})" * normalized_pixels)
    for column in range(columns):
        for place, heading in enumerate(HEADINGS):
            sheet.write(heading, MARGIN + column * across + place * (width + GAP), 0, width, centred=True)
    for example, triple in enumerate(triples):
        row, column = divmod(example, columns)
        for place, picture in enumerate(triple):
            sheet.paste(picture, MARGIN + column * across + place * (width + GAP), LINE + row * down)
    sheet.save(path)


def _check(images: np.ndarray, mask: np.ndarray, prediction: np.ndarray, patch_size: int) -> None:
    if not len(check_images(images)):
        raise ValueError(f"there must be an image, received {images.shape}")
    expected = patchify(images, patch_size).shape
    if mask.shape != expected[:2]:
        raise ValueError(f"mask must be (B, L) = {expected[:2]}, received {mask.shape}")
    if prediction.shape != expected:
        raise ValueError(f"prediction must be (B, L, p*p*C) = {expected}, received {prediction.shape}")
