"""A map of any size to a fixed number of bins: spatial pyramid pooling (He et al. 2014).

https://arxiv.org/abs/1406.4729. A level of n has n x n bins; bin i of a side of w pixels covers floor(i w / n) to
ceil((i + 1) w / n), as the paper's appendix A writes it. Where section 2.3's windows of ceil(w / n) with strides of
floor(w / n) reach the last pixel, as for its 13 x 13 maps, they are the same. Bins repeat pixels where w < n. Levels
follow each other, and the bins of a level row by row.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from cvjax.ops.pooling import largest_along
from cvjax.ops.window_maxima import window_maxima

LEVELS = (1, 2, 3, 6)  # 50 bins, the paper's for detection and its best for classification


def pyramid_pool(features: jax.Array, levels: Sequence[int] = LEVELS) -> jax.Array:
    """The largest value in each bin of whole maps, `(B, H, W, C)` -> `(B, sum of n * n, C)`; nan wins.

    Of the pixels of a bin that share the largest value, the first gets its gradient.
    """
    _check(features, levels)

    def maxima(x: jax.Array, axis: int, bins: int) -> list[jax.Array]:
        length = x.shape[axis]
        return [largest_along(lax.slice_in_dim(x, i * length // bins, -(-(i + 1) * length // bins), axis=axis), axis)
                for i in range(bins)]

    return jnp.stack([x for bins in levels for row in maxima(features, 1, bins) for x in maxima(row, 1, bins)], axis=1)


def region_pyramid_pool(features: jax.Array, boxes: jax.Array, spatial_scale: float,
                        levels: Sequence[int] = LEVELS) -> jax.Array:
    """`pyramid_pool` of each region of a map, as SPP-net sees its windows.

    A region has the pixels of the map whose centres of view, a step of S = 1 / spatial_scale apart from 0 on, lie in
    it, and at least one pixel: ceil(x1 / S) to ceil(x2 / S), cut to the map. (Appendix A starts at floor(x1 / S) + 1,
    so that a box over the whole image would lose the first row and column.) Boxes get no gradient; of equal values in
    a bin one gets it.

    Args:
        features: `(B, H, W, C)`.
        boxes: `(B, R, 4)` in pixels of the image, finite.
        spatial_scale: pixels of the map per pixel of the image, as 1 / 16.

    Returns:
        `(B, R, sum of n * n, C)`.

    Raises:
        ValueError: for other shapes, no level, or a level below 1.
    """
    _check(features, levels)
    if boxes.ndim != 3 or boxes.shape[-1] != 4 or boxes.shape[0] != features.shape[0]:
        raise ValueError(f"boxes must be (B, R, 4) with B = {features.shape[0]}, received {boxes.shape}")
    height, width = features.shape[1:3]
    corners = lax.stop_gradient(boxes).astype(jnp.float32) * jnp.float32(spatial_scale)
    down, across = (_pixels(corners[..., axis], corners[..., axis + 2], length) for axis, length in
                    ((1, height), (0, width)))
    bins = [(n, i, j) for n in levels for i in range(n) for j in range(n)]
    n, i, j = jnp.array(bins).T
    (top, bottom), (left, right) = (_part(*side, place, n) for side, place in ((down, i), (across, j)))
    return jax.vmap(window_maxima)(features, top, bottom, left, right)


def _pixels(low: jax.Array, high: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """First pixel and the number of pixels, int32 `(...)`: at least one, all inside the map."""
    first = jnp.clip(jnp.ceil(low), 0, length - 1)
    end = jnp.clip(jnp.ceil(high), first + 1, length)
    return first.astype(jnp.int32), (end - first).astype(jnp.int32)


def _part(first: jax.Array, count: jax.Array, place: jax.Array, bins: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Start and end, int32 `(..., L)`, of bins number `place` of `bins`."""
    first, count = first[..., None], count[..., None]
    return first + place * count // bins, first - (-(place + 1) * count // bins)


def _check(features: jax.Array, levels: Sequence[int]) -> None:
    if features.ndim != 4 or not len(levels) or min(levels) < 1:
        raise ValueError(f"features must be (B, H, W, C) and levels at least one number of 1 or more, received "
                         f"{features.shape} and {tuple(levels)}")
