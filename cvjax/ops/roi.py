"""Features of regions: RoI pooling (Girshick 2015), and RoI align (He et al. 2017), which also reads pyramids.

Both take one map per image and the same number of boxes for each image, padding included. So there is no loop on the
host, and no shape depends on a box. Boxes get no gradient, as in the papers.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cvjax.ops.multilinear import Multilinear, varying_axes
from cvjax.ops.window_maxima import window_maxima

Sizes = tuple[tuple[int, int], ...]  # heights and widths of maps

# Up to this many pixels of all maps together, RoI align's gradient is made of matrix products: to add to single
# pixels is slow on a CPU.
_FEW_PIXELS = 8192
_AT_ONCE = 32  # regions per product, which bounds the memory for intermediate results


def roi_pool(features: jax.Array, boxes: jax.Array, output_size: tuple[int, int], spatial_scale: float) -> jax.Array:
    """The largest value in each of `output_size` bins of each region (Fast R-CNN, https://arxiv.org/abs/1504.08083).

    The rounding is that of Fast R-CNN's code and of torchvision.ops.roi_pool: corners times `spatial_scale` go to the
    nearest pixel, halves away from zero; the region covers both corner pixels and at least one; bins start at the floor
    and end at the ceiling of their share, so that they may overlap; what lies outside the map is cut off, and a bin
    without a pixel is 0. Of equal values in a bin one gets the gradient, not always torchvision's first.

    Args:
        features: `(B, H, W, C)`.
        boxes: `(B, R, 4)` in pixels of the image, finite.
        output_size: bins down and across, static.
        spatial_scale: pixels of the map per pixel of the image, as 1 / 16.

    Returns:
        `(B, R, *output_size, C)` in the features' dtype.

    Raises:
        ValueError: for other shapes, or an output size below 1.
    """
    _check(features, boxes, output_size)
    height, width = features.shape[1:3]
    corners = _round_half_away(lax.stop_gradient(boxes).astype(jnp.float32) * jnp.float32(spatial_scale))
    top, bottom = _bins(corners[..., 1], corners[..., 3], output_size[0], height)
    left, right = _bins(corners[..., 0], corners[..., 2], output_size[1], width)
    return jax.vmap(window_maxima)(features, top[..., :, None], bottom[..., :, None],
                                   left[..., None, :], right[..., None, :])


def roi_align(features: jax.Array, boxes: jax.Array, output_size: tuple[int, int], spatial_scale: float, *,
              sampling_ratio: int = 2, aligned: bool = True) -> jax.Array:
    """The mean of `sampling_ratio`**2 bilinear samples in each bin (Mask R-CNN, https://arxiv.org/abs/1703.06870).

    Equals torchvision.ops.roi_align with the same arguments: samples up to one pixel outside the map read its edge,
    those further outside count as 0.

    Args:
        features: `(B, H, W, C)`.
        boxes: `(B, R, 4)` in pixels of the image, finite.
        output_size: bins down and across, static.
        spatial_scale: pixels of the map per pixel of the image, as 1 / 16.
        sampling_ratio: samples down and across in each bin, static, at least 1.
        aligned: pixel i of the map stands at i + 0.5, as its centre does. False is the older form: pixels stand at i,
            and sides are at least 1.

    Returns:
        `(B, R, *output_size, C)` in the features' dtype.

    Raises:
        ValueError: for other shapes, an output size below 1 or a sampling ratio below 1.
    """
    levels = jnp.zeros(boxes.shape[:-1], jnp.int32)
    return pyramid_roi_align((features,), boxes, levels, output_size, (spatial_scale,), sampling_ratio=sampling_ratio,
                             aligned=aligned)


def pyramid_roi_align(maps: Sequence[jax.Array], boxes: jax.Array, levels: jax.Array, output_size: tuple[int, int],
                      spatial_scales: Sequence[float], *, sampling_ratio: int = 2, aligned: bool = True) -> jax.Array:
    """`roi_align` of each region in its own map of a pyramid (Lin et al. 2017, https://arxiv.org/abs/1612.03144).

    Four pixels are read for each sample, however large the maps are.

    Args:
        maps: each `(B, H, W, C)`, of one dtype, with H and W of its own.
        levels: which of the maps each region is read from, int `(B, R)`.
        spatial_scales: one for each map.
        boxes, output_size, sampling_ratio, aligned: see `roi_align`, as are what it returns and raises.
    """
    for features in maps:
        _check(features, boxes, output_size)
    if sampling_ratio < 1:
        raise ValueError(f"sampling_ratio must be at least 1, received {sampling_ratio}")
    scales = jnp.asarray(spatial_scales, jnp.float32)[levels]
    corners = lax.stop_gradient(boxes).astype(jnp.float32) * scales[..., None] - (0.5 if aligned else 0.0)
    return _align(tuple(maps), corners, levels, _Samples(*output_size, sampling_ratio, 0.0 if aligned else 1.0))


class _Samples(NamedTuple):
    """Bins down and across, samples in each along a side, and how short a region's side may be."""

    down: int
    across: int
    per_bin: int
    smallest: float

    def places(self, low: jax.Array, high: jax.Array, bins: int, length: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Places of the samples along a side of a map, `length` pixels long, and their weights: `(..., bins, S)`."""
        side = jnp.maximum(high - low, self.smallest) if self.smallest else high - low
        share, length = (side / bins)[..., None, None], length[..., None, None]
        places = (low[..., None, None] + jnp.arange(bins)[:, None] * share  # in torchvision's order, which rounds
                  + (jnp.arange(self.per_bin) + 0.5) * share / self.per_bin)
        inside = (places >= -1) & (places <= length)
        return jnp.clip(places, 0, length - 1), inside / self.per_bin


def _align(maps: tuple[jax.Array, ...], corners: jax.Array, levels: jax.Array, samples: _Samples) -> jax.Array:
    """Regions `(B, R, 4)` in pixels of their maps -> `(B, R, down, across, C)`."""
    pixels = jnp.concatenate([x.reshape(x.shape[0], -1, x.shape[-1]) for x in maps], axis=1)
    return _aligned(pixels, corners, levels, sizes=tuple(x.shape[1:3] for x in maps), samples=samples)


def _read(pixels: jax.Array, corners: jax.Array, levels: jax.Array, *, sizes: Sizes, samples: _Samples) -> jax.Array:
    """`_align` of maps of these heights and widths, whose pixels `(B, P, C)` lie one map after the other."""
    read = jax.vmap(lambda pixels, places: pixels.at[places].get(mode="clip"))  # a box that is nan reads anything
    total = jnp.zeros((), jnp.float32)
    for places, weights in _reads(sizes, corners, levels, samples):
        total += weights[..., None] * read(pixels, places)
    return total.astype(pixels.dtype)


def _spread(gradient: jax.Array, pixels: jax.Array, corners: jax.Array, levels: jax.Array, *, sizes: Sizes,
            samples: _Samples) -> jax.Array:
    """The gradient of the pixels `(B, P, C)`."""
    spread = _spread_by_products if pixels.shape[1] <= _FEW_PIXELS else _spread_by_pixels
    return spread(gradient.astype(jnp.float32), sizes, corners, levels, samples).astype(pixels.dtype)


_aligned = Multilinear("roi_align", _read, transposes=(_spread, None, None))


def _reads(sizes: Sizes, corners: jax.Array, levels: jax.Array, samples: _Samples
           ) -> Iterator[tuple[jax.Array, jax.Array]]:
    """The pixels that make up the bins, four for each sample: places int32 `(B, R, down, across)` in the pixels of all
    maps, one map after the other, and their weights."""
    (*sides,), areas = np.transpose(sizes), np.prod(sizes, axis=1)
    heights, widths, starts = (jnp.asarray(x)[levels] for x in (*sides, np.cumsum(areas) - areas))
    rows, down = _taps(corners[..., 1], corners[..., 3], samples.down, heights, samples)
    columns, across = _taps(corners[..., 0], corners[..., 2], samples.across, widths, samples)
    rows = starts[..., None, None] + rows * widths[..., None, None]
    for i, j in np.ndindex(rows.shape[-1], columns.shape[-1]):
        yield rows[..., :, None, i] + columns[..., None, :, j], down[..., :, None, i] * across[..., None, :, j]


def _taps(low: jax.Array, high: jax.Array, bins: int, length: jax.Array, samples: _Samples
          ) -> tuple[jax.Array, jax.Array]:
    """Pixels of a side that each bin reads, int32 `(B, R, bins, 2 S)`, and their weights."""
    places, weights = samples.places(low, high, bins, length)
    first = jnp.floor(places)
    second = jnp.minimum(first + 1, length[..., None, None] - 1)
    return (jnp.concatenate([first, second], axis=-1).astype(jnp.int32),
            jnp.concatenate([1 - (places - first), places - first], axis=-1) * jnp.tile(weights, 2))


def _spread_by_pixels(gradient: jax.Array, sizes: Sizes, corners: jax.Array, levels: jax.Array,
                      samples: _Samples) -> jax.Array:
    """Each bin is added to the pixels that it read: `(B, P, C)`."""
    add = jax.vmap(lambda total, places, values: total.at[places].add(values, mode="clip"))
    total = jnp.zeros((gradient.shape[0], sum(height * width for height, width in sizes), gradient.shape[-1]))
    for places, weights in _reads(sizes, corners, levels, samples):
        total = add(total, places, weights[..., None] * gradient)
    return total


def _spread_by_products(gradient: jax.Array, sizes: Sizes, corners: jax.Array, levels: jax.Array,
                        samples: _Samples) -> jax.Array:
    """The sum of `_spread_by_pixels`. A pixel's weight is the weight of its row times that of its column. So a region
    takes two matrix products in every map; the weights are 0 in all maps but its own."""
    def weights(low: jax.Array, high: jax.Array, bins: int, length: int) -> jax.Array:
        """The weight of each pixel of a side in each bin, `(B, R, bins, length)`."""
        places, weights = samples.places(low, high, bins, jnp.full(levels.shape, length))
        return (jnp.maximum(1 - jnp.abs(places[..., None] - jnp.arange(length)), 0) * weights[..., None]).sum(axis=-2)

    def grouped(x: jax.Array) -> jax.Array:
        """`(B, R, ...)` -> `(R / n, B, n, ...)`, filled up with zeros."""
        x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % _AT_ONCE), *[(0, 0)] * (x.ndim - 2)])
        return jnp.moveaxis(x.reshape(x.shape[0], -1, _AT_ONCE, *x.shape[2:]), 1, 0)

    def add(total: jax.Array, group: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        part, down, across = group
        lines = jnp.einsum("brqw,brpqc->brpwc", across, part, precision=exact)
        return total + jnp.einsum("brph,brpwc->bhwc", down, lines, precision=exact), None

    exact, gradients = lax.Precision.HIGHEST, []  # float32 where a TPU would round to bfloat16
    batch, channels = gradient.shape[0], gradient.shape[-1]
    for level, (height, width) in enumerate(sizes):
        down = weights(corners[..., 1], corners[..., 3], samples.down, height)
        across = weights(corners[..., 0], corners[..., 2], samples.across, width)
        groups = (grouped(gradient), grouped(down * (levels == level)[..., None, None]), grouped(across))
        start = lax.pcast(jnp.zeros((batch, height, width, channels)), varying_axes(gradient), to="varying")
        total = lax.scan(add, start, groups)[0]
        gradients.append(total.reshape(batch, -1, channels))
    return jnp.concatenate(gradients, axis=1)


def _bins(first: jax.Array, last: jax.Array, bins: int, length: int) -> tuple[jax.Array, jax.Array]:
    """Where bins start and end, int32 `(..., bins)` in [0, length], of sides that cover the pixels first to last."""
    side = jnp.maximum(last - first + 1, 1)
    # Floor and ceil depend on how float32 rounds. XLA would replace a constant divisor by a product with its inverse,
    # which rounds differently. So the divisor depends on the corners.
    share = (side / jnp.where(jnp.isnan(first), 1.0, bins))[..., None]
    start, end = jnp.floor(jnp.arange(bins) * share), jnp.ceil(jnp.arange(1, bins + 1) * share)
    start, end = (jnp.clip(edge + first[..., None], 0, length).astype(jnp.int32) for edge in (start, end))
    return start, end


def _round_half_away(x: jax.Array) -> jax.Array:
    """C's round; adding a half would round 0.49999997 up."""
    whole = jnp.floor(jnp.abs(x))
    return jnp.sign(x) * (whole + (jnp.abs(x) - whole >= 0.5))


def _check(features: jax.Array, boxes: jax.Array, output_size: tuple[int, int]) -> None:
    if features.ndim != 4 or boxes.ndim != 3 or boxes.shape[-1] != 4 or features.shape[0] != boxes.shape[0]:
        raise ValueError(f"features and boxes must be (B, H, W, C) and (B, R, 4), received {features.shape} and "
                         f"{boxes.shape}")
    if len(output_size) != 2 or min(output_size) < 1:
        raise ValueError(f"output_size must be two numbers of bins, at least 1, received {output_size}")
