"""A 2-D convolution and its two gradients for CPUs: these forms use all cores. Only shapes decide which is taken.

Arguments, shapes and results are those of `cvjax.ops.xla_convolution`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cvjax.ops import xla_convolution

# From this many multiplications on the kernel's gradient is faster as a matrix product; below it only compiles longer.
# A kernel of one tap needs no copy of the images, so the product is always faster.
WORTHWHILE = 2e8
# WINDOW_BYTES of windows are copied at a time, so that they stay in the cache until they are multiplied. But a product
# should sum over at least PIXELS, so that adding it to the products before it costs little.
WINDOW_BYTES, PIXELS = 4e6, 768
# A factor of at most this many bytes is transposed for a product. XLA's transpose of larger ones, which lie in memory
# and not in the cache, is slow.
TRANSPOSED_BYTES = 1e6
# A convolution becomes a product of copied windows if it has at most FORWARD pixels for each output channel. Its
# transpose becomes one up to TRANSPOSED pixels: it uses the kernel as it lies, which the convolution would transpose.
FORWARD, TRANSPOSED = 1, 4
# XLA's CPU kernels cut an image's columns and the output channels into tiles of this size. They distribute the tiles
# of one row over the cores.
TILE = 64


def convolve(x: jax.Array, kernel: jax.Array, *, strides: int, padding: tuple[int, int], dilation: int) -> jax.Array:
    """The cross-correlation of images and a kernel."""
    window: dict[str, Any] = dict(strides=strides, padding=padding, dilation=dilation)
    output = jax.eval_shape(partial(xla_convolution.convolve, **window), x, kernel)
    if not _pays(output.shape, kernel.shape, padding):
        return xla_convolution.convolve(x, kernel, **window)
    return _on_all_cores(x, kernel, features=kernel.shape[3], few=FORWARD * kernel.shape[3], **window)


def image_gradient(gradient: jax.Array, kernel: jax.Array, *, shape: tuple[int, ...], strides: int,
                   padding: tuple[int, int], dilation: int) -> jax.Array:
    """The gradient of images of this `shape`, from the output's."""
    window: dict[str, Any] = dict(strides=strides, padding=padding, dilation=dilation)
    if not _pays(gradient.shape, kernel.shape, padding):
        return xla_convolution.image_gradient(gradient, kernel, shape=shape, **window)
    return jax.linear_transpose(
        lambda x: _on_all_cores(x, kernel, features=kernel.shape[2], few=TRANSPOSED * kernel.shape[3], **window),
        xla_convolution.like(gradient, shape))(gradient)[0]


def kernel_gradient(x: jax.Array, gradient: jax.Array, *, shape: tuple[int, ...], strides: int,
                    padding: tuple[int, int], dilation: int) -> jax.Array:
    """The gradient of a kernel of this `shape`, from the output's."""
    window: dict[str, Any] = dict(strides=strides, padding=padding, dilation=dilation)
    if not _pays(gradient.shape, shape, padding):
        return xla_convolution.kernel_gradient(x, gradient, shape=shape, **window)
    return _by_windows(x, gradient, shape, **window)


def _pays(output: tuple[int, ...], kernel: tuple[int, ...], padding: tuple[int, int]) -> bool:
    """Whether a form of this file is faster than XLA's."""
    if not all(isinstance(length, int) for length in (*output, *kernel)):  # symbolic, as `jax.export` allows
        return False
    return kernel[:2] == (1, 1) and padding == (0, 0) or math.prod(output[:3]) * math.prod(kernel) >= WORTHWHILE


def _on_all_cores(x: jax.Array, kernel: jax.Array, features: int, few: int, strides: int, padding: tuple[int, int],
                  dilation: int) -> jax.Array:
    """The convolution in a form that XLA shares out among cores, forward and transposed.

    features: the number of output channels; for the transposed form, of input channels. few: up to this many pixels
    the convolution is a product of windows.
    """
    batch, height, width, channels = x.shape
    rows, columns, *_ = kernel.shape
    if (rows, columns) == (1, 1) and padding == (0, 0):
        x = x[:, ::strides, ::strides]
        return (x.reshape(-1, channels) @ kernel[0, 0]).reshape(*x.shape[:3], -1)
    plain = partial(xla_convolution.convolve, strides=strides, padding=padding, dilation=dilation)
    output = jax.eval_shape(plain, x, kernel)
    if math.prod(output.shape[:3]) <= few:
        x = jnp.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)))
        x = _windows(_windows(x, 2, columns, strides, dilation), 1, rows, strides, dilation)
        return (x.reshape(-1, x.shape[3]) @ kernel.reshape(-1, kernel.shape[3])).reshape(output.shape)
    groups, gap, reach = math.gcd(batch, jax.device_count()), padding[1], dilation * (columns - 1)
    if strides > 1 or batch == groups or gap > reach or max(width, features) >= 2 * TILE:
        return plain(x, kernel)
    # Images lie side by side in one wide image per device. The padding between two images serves both.
    x = jnp.pad(x, ((0, 0), (0, 0), (0, gap), (0, 0))).reshape(groups, -1, height, width + gap, channels)
    x = x.swapaxes(1, 2).reshape(groups, height, -1, channels)
    x = lax.conv_general_dilated(
        x, kernel, (1, 1), [(padding[0], padding[0]), (gap, reach - gap)], rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = x.reshape(groups, x.shape[1], -1, width + gap, x.shape[3])[:, :, :, :width + 2 * gap - reach]
    return x.swapaxes(1, 2).reshape(batch, *x.shape[1:2], *x.shape[3:])


def _windows(x: jax.Array, axis: int, taps: int, strides: int, dilation: int) -> jax.Array:
    """The inputs of each tap of a kernel along an axis, side by side: `(..., taps * C)`; the axis gets shorter."""
    length = (x.shape[axis] - dilation * (taps - 1) - 1) // strides * strides + 1
    return jnp.concatenate([lax.slice_in_dim(x, i * dilation, i * dilation + length, strides, axis)
                            for i in range(taps)], axis=-1)


def _by_windows(x: jax.Array, gradient: jax.Array, shape: tuple[int, ...], strides: int,
                     padding: tuple[int, int], dilation: int) -> jax.Array:
    """`(kh, kw, C, O)`: windows of the images `(M, kh * kw * C)` times the output's gradient `(M, O)`.

    XLA computes this gradient as a convolution with a window as large as the map. Its CPU kernels are then slower than
    a matrix product: they reach a seventh (one tap) to a half of its speed. Here windows are copied for a few images at
    a time. Where it copies less, the windows of the kernel's rows are taken from the gradient: `(M, kw * C)` times
    `(M, kh * O)`.
    """
    (kh, kw, channels, features), reach = shape, dilation * (shape[0] - 1)
    copied, copied_split = kh * kw * channels + features, kw * channels + kh * features  # numbers for a pixel
    split = strides == 1 and padding[0] <= reach and copied_split < copied
    one_tap = kh == kw == 1  # nothing is copied
    exchanged = one_tap and channels > features
    in_cache = not one_tap or 4 * min(x.size, gradient.size) <= TRANSPOSED_BYTES

    def product(x: jax.Array, g: jax.Array) -> jax.Array:
        x = _windows(x, 2, kw, strides, dilation)
        if split:
            g = _windows(g, 1, kh, 1, dilation)  # its first window is the kernel's last row's
        else:
            x = _windows(x, 1, kh, strides, dilation)
        # If a product sums over two axes, XLA transposes its first factor. In the cache that is worth it.
        axes = (0, 1) if in_cache else (0,)
        first, second = (y.reshape(-1, *y.shape[4 - len(axes):]) for y in ((g, x) if exchanged else (x, g)))
        return lax.dot_general(first, second, ((axes, axes), ((), ())), preferred_element_type=jnp.float32)

    def of_band(i: jax.Array, x: jax.Array, g: jax.Array) -> jax.Array:
        """The product over a band of `height` rows: of one array these rows, of the other all that windows need."""
        part = partial(lax.dynamic_slice_in_dim, start_index=i * height, slice_size=height, axis=1)
        seen = partial(lax.dynamic_slice_in_dim, start_index=i * height * strides,
                       slice_size=(height - 1) * strides + reach + 1, axis=1)
        return product(part(x), seen(g)) if split else product(seen(x), part(g))

    def of_images(i: jax.Array, x: jax.Array, g: jax.Array) -> jax.Array:
        x, g = (lax.dynamic_slice_in_dim(y, i * images, images) for y in (x, g))
        x = jnp.pad(x, ((0, 0), (0, 0) if split else (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
        g = jnp.pad(g, ((0, 0), (reach - padding[0],) * 2, (0, 0), (0, 0))) if split else g
        return _sum(of_band, bands, x, g)

    def of_group(x: jax.Array, g: jax.Array) -> jax.Array:
        return _sum(of_images, x.shape[0] // images, x, g)

    groups = math.gcd(len(x), jax.device_count())  # each device keeps its rows, and sums are exchanged once, at the end
    rows, columns = (x if split else gradient).shape[1], gradient.shape[2]
    images, bands = (len(x) // groups, 1) if one_tap else _chunk(
        len(x) // groups, rows, columns, (copied_split if split else copied) * gradient.dtype.itemsize)
    height = rows // bands
    total = jax.vmap(of_group)(*(y.reshape(groups, -1, *y.shape[1:]) for y in (x, gradient))).sum(axis=0)
    if exchanged:  # without a barrier XLA would exchange the factors instead
        total = lax.optimization_barrier(total).T
    if split:
        total = total.reshape(kw, channels, kh, features)[:, :, ::-1].transpose(2, 0, 1, 3)
    return total.reshape(shape).astype(gradient.dtype)


def _sum(of: Callable[..., jax.Array], parts: int, *arrays: jax.Array) -> jax.Array:
    """`of(i, *arrays)` summed over i, one after the other."""
    if parts == 1:
        return of(0, *arrays)
    start = jnp.zeros_like(jax.eval_shape(of, 0, *arrays))
    return lax.fori_loop(0, parts, lambda i, total: total + of(i, *arrays), start)


def _chunk(batch: int, rows: int, columns: int, pixel_bytes: int) -> tuple[int, int]:
    """How many images are taken at a time, and into how many bands of rows each is cut."""
    wanted = max(PIXELS, WINDOW_BYTES / pixel_bytes)

    def nearest(length: int, pixels: int) -> int:
        divisors = [n for n in range(1, length + 1) if length % n == 0]
        return min(divisors, key=lambda n: abs(math.log(n * pixels / wanted)))

    images = nearest(batch, rows * columns)
    return images, rows // nearest(rows, columns) if rows * columns > 4 * wanted else 1
