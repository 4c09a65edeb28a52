"""Features of regions in maps of one size: RoI pooling (Girshick 2015) and RoI align (He et al. 2017).

Both take a map for each image and the same number of boxes for each, padding included: no loop on the host, and
nothing whose shape depends on a box. Boxes get no gradient, as in the papers.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cvjax.ops.window_maxima import window_maxima

_AT_ONCE = 32  # regions that RoI align interpolates together: bounds what is between its two products


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
    those further outside count as 0. The weights of a sample are a product of one for its row and one for its column,
    so a region is two matrix products: bins x rows, and bins x columns.

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
    _check(features, boxes, output_size)
    if sampling_ratio < 1:
        raise ValueError(f"sampling_ratio must be at least 1, received {sampling_ratio}")
    corners = lax.stop_gradient(boxes).astype(jnp.float32) * jnp.float32(spatial_scale) - (0.5 if aligned else 0.0)
    weigh = partial(_bilinear_weights, samples=sampling_ratio, smallest=0.0 if aligned else 1.0)
    rows = weigh(corners[..., 1], corners[..., 3], bins=output_size[0], length=features.shape[1])
    columns = weigh(corners[..., 0], corners[..., 2], bins=output_size[1], length=features.shape[2])
    return jax.vmap(_interpolate)(features, rows, columns)


def _interpolate(features: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """`(H, W, C)`, `(R, P, H)` and `(R, Q, W)` -> `(R, P, Q, C)`."""
    exact = lax.Precision.HIGHEST  # float32 where a TPU would round to bfloat16
    dtype = features.dtype

    def one(weights: tuple[jax.Array, jax.Array]) -> jax.Array:
        down, across = (x.astype(dtype) for x in weights)
        lines = jnp.einsum("ph,hwc->pwc", down, features, precision=exact)
        across = jnp.broadcast_to(across, (down.shape[0], *across.shape))  # a plain batch: nothing is transposed
        return jnp.einsum("pqw,pwc->pqc", across, lines, precision=exact)

    return lax.map(one, (rows, columns), batch_size=_AT_ONCE)


def _bilinear_weights(low: jax.Array, high: jax.Array, *, bins: int, length: int, samples: int, smallest: float
                      ) -> jax.Array:
    """`(..., bins, length)`: what each pixel of a side adds to the mean of a bin's samples, from low to high."""
    side = high - low if not smallest else jnp.maximum(high - low, smallest)
    share = (side / bins)[..., None, None]
    places = low[..., None, None] + jnp.arange(bins)[:, None] * share + (jnp.arange(samples) + 0.5) * share / samples
    inside = (places >= -1) & (places <= length)
    places = jnp.clip(places, 0, length - 1)
    weights = jnp.maximum(1 - jnp.abs(places[..., None] - jnp.arange(length)), 0) * inside[..., None]
    return weights.mean(axis=-2)


def _bins(first: jax.Array, last: jax.Array, bins: int, length: int) -> tuple[jax.Array, jax.Array]:
    """Where bins start and end, int32 `(..., bins)` in [0, length], of sides that cover the pixels first to last."""
    side = jnp.maximum(last - first + 1, 1)
    # Floor and ceil see how float32 rounds. A divisor that is a constant would become a product with its inverse, which
    # rounds otherwise, so it is one only where corners are numbers.
    share = (side / jnp.where(jnp.isnan(first), 1.0, bins))[..., None]
    start, end = jnp.floor(jnp.arange(bins) * share), jnp.ceil(jnp.arange(1, bins + 1) * share)
    return tuple(jnp.clip(edge + first[..., None], 0, length).astype(jnp.int32) for edge in (start, end))


def _round_half_away(x: jax.Array) -> jax.Array:
    """C's round; adding a half would round 0.49999997 up."""
    whole = jnp.floor(jnp.abs(x))
    return jnp.sign(x) * (whole + (jnp.abs(x) - whole >= 0.5))


def _check(features: jax.Array, boxes: jax.Array, output_size: tuple[int, int]) -> None:
    if features.ndim != 4 or boxes.ndim != 3 or boxes.shape[-1] != 4 or len(features) != len(boxes):
        raise ValueError(f"features and boxes must be (B, H, W, C) and (B, R, 4), received {features.shape} and "
                         f"{boxes.shape}")
    if len(output_size) != 2 or min(output_size) < 1:
        raise ValueError(f"output_size must be two numbers of bins, at least 1, received {output_size}")
