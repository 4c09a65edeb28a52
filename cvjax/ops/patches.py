"""Images to patches and back.

A patch is flattened in (row, column, channel) order and patches follow each other row by row, the order of
He et al. 2022 (MAE) and of a strided convolution's output (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929).
"""

from typing import TypeVar

import jax
import numpy as np

Array = TypeVar("Array", jax.Array, np.ndarray)


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches in an image; ValueError when the patch size does not divide the image size."""
    if height % patch_size or width % patch_size:
        raise ValueError(f"image of {height}x{width} pixels cannot be cut into patches of {patch_size}: "
                         f"height and width must be multiples of {patch_size}")
    return height // patch_size, width // patch_size


def patchify(images: Array, patch_size: int) -> Array:
    """Cut images `(B, H, W, C)` into patches `(B, L, p*p*C)` with `L = (H/p) * (W/p)`; the dtype is kept."""
    batch, height, width, channels = images.shape
    rows, columns = patch_grid(height, width, patch_size)
    x = images.reshape(batch, rows, patch_size, columns, patch_size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)  # (B, rows, columns, p, p, C)
    return x.reshape(batch, rows * columns, patch_size * patch_size * channels)


def unpatchify(patches: Array, patch_size: int, height: int, width: int) -> Array:
    """Put patches `(B, L, p*p*C)` back together to images `(B, height, width, C)`; the inverse of `patchify`."""
    batch, length, dim = patches.shape
    rows, columns = patch_grid(height, width, patch_size)
    if length != rows * columns or dim % (patch_size * patch_size):
        raise ValueError(f"patches of shape {patches.shape} do not tile an image of {height}x{width} pixels "
                         f"with patches of {patch_size}: {rows * columns} patches are needed")
    x = patches.reshape(batch, rows, columns, patch_size, patch_size, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5)  # (B, rows, p, columns, p, C)
    return x.reshape(batch, height, width, -1)
