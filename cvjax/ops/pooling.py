"""Pooling over windows of feature maps `(B, H, W, C)`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def _right_padding(length: int, window: int, strides: int, padding: int, ceil_mode: bool) -> int:
    """Padding after the last pixel; with `ceil_mode` a last window that starts inside the image or the left padding
    may reach out of it, as Caffe and PyTorch count."""
    if not ceil_mode:
        return padding
    windows = -(-(length + 2 * padding - window) // strides) + 1
    if (windows - 1) * strides >= length + padding:
        windows -= 1
    return max((windows - 1) * strides + window - length - padding, padding)


def max_pool(x: jax.Array, window: int, strides: int, padding: int = 0, *, ceil_mode: bool = False) -> jax.Array:
    """The largest value in each window; padding never wins.

    ceil_mode: keep a last window that hangs over the edge, instead of dropping the pixels it would see.
    """
    if window == strides and not padding and not (ceil_mode and any(n % window for n in x.shape[1:3])):
        return _disjoint_max(x, window)
    pads = [(padding, _right_padding(n, window, strides, padding, ceil_mode)) for n in x.shape[1:3]]
    return lax.platform_dependent(x, cpu=partial(_overlapping_max, window=window, strides=strides, pads=pads),
                                  default=partial(_window_max, window=window, strides=strides, pads=pads))


def _window_max(x: jax.Array, window: int, strides: int, pads: list[tuple[int, int]]) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1),
                             (1, strides, strides, 1), [(0, 0), *pads, (0, 0)])


def _overlapping_max(x: jax.Array, window: int, strides: int, pads: list[tuple[int, int]]) -> jax.Array:
    """`_window_max` by comparisons, first in each row, then between rows. On a CPU its own gradient is slow."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    for axis in (2, 1):
        reach = (x.shape[axis] - window) // strides * strides + 1
        x = _largest([lax.slice_in_dim(x, i, i + reach, strides, axis) for i in range(window)])
    return x


def _disjoint_max(x: jax.Array, window: int) -> jax.Array:
    """`max_pool` of windows side by side, by comparisons: the gradient of `reduce_window` is slow, even on a GPU."""
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = x[:, :rows * window, :columns * window].reshape(batch, rows, window, columns, window, channels)
    return _largest([x[:, :, i, :, j] for i in range(window) for j in range(window)])


def _largest(values: list[jax.Array]) -> jax.Array:
    """The elementwise maximum. The first of equals gets the gradient, and nan wins, as in reduce_window and torch."""
    largest, *others = values
    for other in others:
        largest = jnp.where((other > largest) | jnp.isnan(other), other, largest)
    return largest


def global_max_pool(x: jax.Array) -> jax.Array:
    """The largest value of each channel, `(B, H, W, C) -> (B, C)`; see `largest_along`."""
    return largest_along(largest_along(x, 1), 1)


def largest_along(x: jax.Array, axis: int) -> jax.Array:
    """The maximum over an axis, by comparisons; the first of equals gets the gradient, and nan wins, as in torch.

    The gradient of `jnp.max` looks for the maximum again. Where XLA computes the values anew for that and rounds them
    otherwise, it finds none, and is nan.
    """
    return _largest([lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])])


def average_pool(x: jax.Array, window: int, strides: int, *, ceil_mode: bool = False) -> jax.Array:
    """The mean of each window; with `ceil_mode` that of a last window over the pixels that it still has."""
    pads = [(0, _right_padding(n, window, strides, 0, ceil_mode)) for n in x.shape[1:3]]
    total = lax.reduce_window(x, 0.0, lax.add, (1, window, window, 1), (1, strides, strides, 1),
                              [(0, 0), *pads, (0, 0)])
    if not any(right for _, right in pads):
        return total / (window * window)
    rows, columns = (np.minimum(window, before - strides * np.arange(after))
                     for before, after in zip(x.shape[1:3], total.shape[1:3]))
    return total / jnp.asarray(rows[:, None, None] * columns[:, None], x.dtype)


def blur_pool(x: jax.Array, strides: int) -> jax.Array:
    """Every `strides`-th pixel after a blur by [1, 2, 1] / 4 along rows and columns, which edges reflect (Zhang 2019,
    https://arxiv.org/abs/1904.11486)."""
    for axis in (1, 2):
        length = x.shape[axis]
        if length == 1:
            continue
        weights = np.repeat([[0.25], [0.5], [0.25]], length, axis=1)
        weights[0, -1] = weights[2, 0] = 0.5  # the edge's neighbour counts for the one that is missing, too
        padded = jnp.pad(x, [(int(i == axis),) * 2 for i in range(4)])
        shape = [-1 if i == axis else 1 for i in range(4)]
        left, middle, right = (jnp.asarray(weight[::strides].reshape(shape), x.dtype)
                               * lax.slice_in_dim(padded, i, i + length, strides, axis)
                               for i, weight in enumerate(weights))
        x = left + middle + right
    return x


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """Means over a grid of `size` x `size` bins that cover a map of any size: `(B, size, size, C)`.

    Bin i of a side of n pixels covers pixels `floor(i n / size)` to `ceil((i + 1) n / size)`, so bins overlap where
    `size` does not divide n, and repeat pixels where n < size (PyTorch's AdaptiveAvgPool2d).
    """
    if x.shape[1:3] == (size, size):
        return x
    rows, columns = (jnp.asarray(_bins(n, size), x.dtype) for n in x.shape[1:3])
    return jnp.einsum("bhwc,ih,jw->bijc", x, rows, columns, precision=lax.Precision.HIGHEST)


def _bins(length: int, size: int) -> np.ndarray:
    """`(size, length)`: each row averages one bin."""
    pixels, starts = np.arange(length), np.arange(size)[:, None] * length
    inside = (pixels >= starts // size) & (pixels < -(-(starts + length) // size))
    return inside / inside.sum(axis=1, keepdims=True)
