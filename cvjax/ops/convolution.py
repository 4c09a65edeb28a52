"""2-D convolution (cross-correlation) of images with kernels, and how a CPU does it with all its cores."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

# The kernel's gradient by a matrix product pays from this many multiplications on; below it only compiles longer.
# A kernel of one tap needs no copy of the images and always pays.
WORTHWHILE = 2e8
# Bytes of image windows that are copied at a time: they should stay in the cache until they are multiplied. But a
# product should also sum over so many windows that adding it to the products before it costs little.
WINDOW_BYTES, WINDOWS = 2.5e6, 768
# XLA's CPU kernels cut an image's columns, and the channels that come out, into tiles of this many, and share out the
# tiles of one row among cores.
TILE = 64


def conv2d(x: jax.Array, kernel: jax.Array, strides: int = 1, padding: tuple[int, int] = (0, 0), dilation: int = 1,
           groups: int = 1) -> jax.Array:
    """`(B, H, W, C)` and kernel `(kh, kw, C / groups, O)` to `(B, H', W', O)`; zeros stand `padding` pixels around.

    Differentiable in reverse mode, as often as wanted; forward mode (`jax.jvp`) is for groups and small maps only.
    """
    convolve = partial(_convolve, strides=strides, padding=padding, dilation=dilation, groups=groups)
    if groups > 1 or not _pays(jax.eval_shape(convolve, x, kernel).shape, kernel.shape, padding):
        return convolve(x, kernel)
    return _conv2d(x, kernel, strides, padding, dilation)


def _convolve(x: jax.Array, kernel: jax.Array, strides: int, padding: tuple[int, int], dilation: int,
              groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (strides, strides), [(p, p) for p in padding], rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)


def _pays(output: tuple[int, ...], kernel: tuple[int, ...], padding: tuple[int, int]) -> bool:
    """Whether `_kernel_gradient` is faster than XLA's convolution, by shapes alone."""
    return kernel[:2] == (1, 1) and padding == (0, 0) or math.prod(output[:3]) * math.prod(kernel) >= WORTHWHILE


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv2d(x: jax.Array, kernel: jax.Array, strides: int, padding: tuple[int, int], dilation: int) -> jax.Array:
    # Chosen where the program is lowered: what is made for a GPU or TPU, from whatever machine, is the convolution.
    return lax.platform_dependent(
        x, kernel, cpu=partial(_on_all_cores, features=kernel.shape[3], strides=strides, padding=padding,
                               dilation=dilation),
        default=partial(_convolve, strides=strides, padding=padding, dilation=dilation))


def _forward(x: jax.Array, kernel: jax.Array, *window: object) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv2d(x, kernel, *window), (x, kernel)


def _backward(strides: int, padding: tuple[int, int], dilation: int, residuals: tuple[jax.Array, jax.Array],
              gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    convolve = partial(_convolve, strides=strides, padding=padding, dilation=dilation)
    on_cpu = partial(_on_all_cores, features=kernel.shape[2], strides=strides, padding=padding, dilation=dilation)
    dx = lax.platform_dependent(
        kernel, gradient,
        cpu=lambda kernel, g: jax.linear_transpose(lambda x: on_cpu(x, kernel), x)(g)[0],
        default=lambda kernel, g: jax.linear_transpose(lambda x: convolve(x, kernel), x)(g)[0])
    dkernel = lax.platform_dependent(
        x, gradient,
        cpu=partial(_kernel_gradient, shape=kernel.shape, strides=strides, padding=padding, dilation=dilation),
        default=lambda x, g: jax.linear_transpose(lambda kernel: convolve(x, kernel), kernel)(g)[0])
    return dx, dkernel


_conv2d.defvjp(_forward, _backward)


def _on_all_cores(x: jax.Array, kernel: jax.Array, features: int, strides: int, padding: tuple[int, int],
                  dilation: int) -> jax.Array:
    """`_convolve` in a form that XLA shares out among cores, forward and transposed.

    features: the channels that come out, or, of the transposed form, those that go in.
    """
    batch, height, width, channels = x.shape
    if kernel.shape[:2] == (1, 1) and padding == (0, 0):
        x = x[:, ::strides, ::strides]
        return (x.reshape(-1, channels) @ kernel[0, 0]).reshape(*x.shape[:3], -1)
    groups, gap, reach = math.gcd(batch, jax.device_count()), padding[1], dilation * (kernel.shape[1] - 1)
    if strides > 1 or batch == groups or gap > reach or max(width, features) >= 2 * TILE:
        return _convolve(x, kernel, strides, padding, dilation)
    # Images side by side in a wide one, for each device its own; what is padded between two is padding to both.
    x = jnp.pad(x, ((0, 0), (0, 0), (0, gap), (0, 0))).reshape(groups, -1, height, width + gap, channels)
    x = x.swapaxes(1, 2).reshape(groups, height, -1, channels)
    x = lax.conv_general_dilated(
        x, kernel, (1, 1), [(padding[0], padding[0]), (gap, reach - gap)], rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = x.reshape(groups, x.shape[1], -1, width + gap, x.shape[3])[:, :, :, :width + 2 * gap - reach]
    return x.swapaxes(1, 2).reshape(batch, *x.shape[1:2], *x.shape[3:])


def _kernel_gradient(x: jax.Array, gradient: jax.Array, shape: tuple[int, ...], strides: int,
                     padding: tuple[int, int], dilation: int) -> jax.Array:
    """`(kh, kw, C, O)`: windows of the images `(M, kh * kw * C)` times the output's gradient `(M, O)`.

    XLA makes of this gradient a convolution by a window as large as the map, and its CPU kernels reach a seventh
    (one tap) to a half of their matrix product's speed at it. Windows are copied for a few images at a time.
    """
    batch, rows, columns, features = gradient.shape
    taps = math.prod(shape[:3])

    def pad(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)))

    def product(x: jax.Array, g: jax.Array) -> jax.Array:
        """Of the windows of padded `x`, copied for one axis after the other, with `g`."""
        for axis, steps in ((2, shape[1]), (1, shape[0])):
            reach = strides * (g.shape[axis] - 1) + 1
            x = jnp.concatenate([lax.slice_in_dim(x, i * dilation, i * dilation + reach, strides, axis)
                                 for i in range(steps)], axis=-1)
        pair = x.reshape(-1, taps), g.reshape(-1, features)
        # One contracted axis: for several XLA first transposes the images, slowly. The narrower factor first.
        narrow, wide = pair if taps <= features else pair[::-1]
        return lax.dot_general(narrow, wide, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)

    def finish(total: jax.Array) -> jax.Array:
        if taps > features:  # behind a barrier, for XLA would exchange the factors instead
            total = lax.optimization_barrier(total).T
        return total.reshape(shape).astype(gradient.dtype)

    groups = math.gcd(batch, jax.device_count())  # each device keeps its rows, and sums are exchanged once, at the end
    images, bands = _chunk(batch // groups, rows, columns, taps * gradient.dtype.itemsize)
    if shape[:2] == (1, 1) or images * groups == batch and bands == 1:
        return finish(product(pad(x), gradient))
    height = rows // bands
    reach = strides * (height - 1) + dilation * (shape[0] - 1) + 1

    def of_band(i: jax.Array, x: jax.Array, g: jax.Array) -> jax.Array:
        band = lax.dynamic_slice_in_dim(x, i * height * strides, reach, axis=1)
        return product(band, lax.dynamic_slice_in_dim(g, i * height, height, axis=1))

    def of_images(i: jax.Array, x: jax.Array, g: jax.Array) -> jax.Array:
        x, g = (lax.dynamic_slice_in_dim(y, i * images, images) for y in (x, g))
        return _sum(of_band, bands, pad(x), g)

    def of_group(x: jax.Array, g: jax.Array) -> jax.Array:
        return _sum(of_images, x.shape[0] // images, x, g)

    split = (y.reshape(groups, -1, *y.shape[1:]) for y in (x, gradient))
    return finish(jax.vmap(of_group)(*split).sum(axis=0))


def _sum(of: Callable[..., jax.Array], parts: int, *arrays: jax.Array) -> jax.Array:
    """`of(i, *arrays)` summed over i, one after the other."""
    if parts == 1:
        return of(0, *arrays)
    start = jnp.zeros_like(jax.eval_shape(of, 0, *arrays))
    return lax.fori_loop(0, parts, lambda i, total: total + of(i, *arrays), start)


def _chunk(batch: int, rows: int, columns: int, window_bytes: int) -> tuple[int, int]:
    """How many images are taken at a time, and into how many bands of rows each is cut."""
    wanted = max(WINDOWS, WINDOW_BYTES / window_bytes)

    def nearest(length: int, windows: int) -> int:
        divisors = [n for n in range(1, length + 1) if length % n == 0]
        return min(divisors, key=lambda n: abs(math.log(n * windows / wanted)))

    images = nearest(batch, rows * columns)
    return images, rows // nearest(rows, columns) if rows * columns > 4 * wanted else 1
