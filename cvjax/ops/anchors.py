"""Anchors: the boxes of several sizes and shapes at each pixel of a feature map that a region proposal network refines.

Ren et al. 2015 (https://arxiv.org/abs/1506.01497), in torchvision's form: an anchor's corners are rounded to whole
pixels around 0, and the pixel in row i and column j has its anchors around (j, i) times the stride, which is
the upper left corner of its cell. (The authors' code centres them half a stride, less half a pixel, further right and
down.)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

SIZES = (128, 256, 512)  # square roots of the areas
ASPECT_RATIOS = (0.5, 1.0, 2.0)  # heights / widths


def anchor_shapes(sizes: Sequence[float] = SIZES, aspect_ratios: Sequence[float] = ASPECT_RATIOS) -> np.ndarray:
    """float32 `(A, 4)`, A = ratios x sizes: the anchors around 0; all sizes of the first ratio come first."""
    if not len(sizes) or not len(aspect_ratios) or min(*sizes, *aspect_ratios) <= 0:
        raise ValueError(f"sizes and aspect ratios must be positive numbers, received {tuple(sizes)} and "
                         f"{tuple(aspect_ratios)}")
    stretch = np.sqrt(np.asarray(aspect_ratios, np.float32))[:, None]
    sides = np.asarray(sizes, np.float32)
    heights, widths = (stretch * sides).ravel(), (1 / stretch * sides).ravel()
    return np.round(np.stack([-widths, -heights, widths, heights], axis=1) / 2)


def grid_anchors(grid: tuple[int, int], stride: tuple[float, float], sizes: Sequence[float] = SIZES,
                 aspect_ratios: Sequence[float] = ASPECT_RATIOS) -> jax.Array:
    """The anchors of a map, float32 `(H * W * A, 4)` in pixels of the image: row by row, all A of a pixel together.

    grid: H and W of the map. stride: pixels of the image per pixel of the map, down and across. Anchors may
    reach out of the image; the caller masks them or clips them (`clip_boxes`).
    """
    if len(grid) != 2 or len(stride) != 2 or min(*grid, *stride) <= 0:
        raise ValueError(f"grid and stride must be two positive numbers each, received {grid} and {stride}")
    y, x = (jnp.arange(length, dtype=jnp.float32) * step for length, step in zip(grid, stride))
    y, x = jnp.meshgrid(y, x, indexing="ij")
    places = jnp.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
    return (places + anchor_shapes(sizes, aspect_ratios)).reshape(-1, 4)


def pyramid_anchors(grids: Sequence[tuple[int, int]], strides: Sequence[tuple[float, float]],
                    sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float] = ASPECT_RATIOS) -> jax.Array:
    """`grid_anchors` of several maps, one after the other; each has sizes of its own."""
    if not len(grids) == len(strides) == len(sizes):
        raise ValueError(f"grids, strides and sizes must be one for each map, received {len(grids)}, {len(strides)} "
                         f"and {len(sizes)}")
    return jnp.concatenate([grid_anchors(*level, aspect_ratios) for level in zip(grids, strides, sizes)])
