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
# Bytes of windows that are copied at a time: they should stay in the cache until they are multiplied. But a product
# should also sum over so many pixels that adding it to the products before it costs little.
WINDOW_BYTES, PIXELS = 4e6, 768
# A factor of so many bytes is transposed for a product: larger ones lie in memory, where XLA's transpose is slow.
TRANSPOSED_BYTES = 1e6
# A convolution is a product of copied windows where it has at most so many times as many pixels as channels come out.
# Its transpose is one sooner, for that takes the kernel as it lies, which a convolution would have to transpose.
FORWARD, TRANSPOSED = 1, 4
# XLA's CPU kernels cut an image's columns, and the channels that come out, into tiles of this many, and share out the
# tiles of one row among cores.
TILE = 64


def conv2d(x: jax.Array, kernel: jax.Array, strides: int = 1, padding: tuple[int, int] = (0, 0), dilation: int = 1,
           groups: int = 1) -> jax.Array:
    """`(B, H, W, C)` and kernel `(kh, kw, C / groups, O)` to `(B, H', W', O)`; zeros stand `padding` pixels around.

    Differentiable in reverse mode, as often as wanted, and in forward mode over that (`jax.jvp` of a `jax.grad`);
    forward mode alone is for groups and small maps.
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


def _per_platform(x: jax.Array, kernel: jax.Array, strides: int, padding: tuple[int, int],
                  dilation: int) -> jax.Array:
    # Chosen where the program is lowered: what is made for a GPU or TPU, from whatever machine, is the convolution.
    return lax.platform_dependent(
        x, kernel, cpu=partial(_on_all_cores, features=kernel.shape[3], few=FORWARD * kernel.shape[3], strides=strides,
                               padding=padding, dilation=dilation),
        default=partial(_convolve, strides=strides, padding=padding, dilation=dilation))


_conv2d = jax.custom_vjp(_per_platform, nondiff_argnums=(2, 3, 4))


def _forward(x: jax.Array, kernel: jax.Array, *window: object) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _per_platform(x, kernel, *window), (x, kernel)


def _backward(strides: int, padding: tuple[int, int], dilation: int, residuals: tuple[jax.Array, jax.Array],
              gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    convolve = partial(_convolve, strides=strides, padding=padding, dilation=dilation)
    on_cpu = partial(_on_all_cores, features=kernel.shape[2], few=TRANSPOSED * kernel.shape[3], strides=strides,
                     padding=padding, dilation=dilation)
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


def _on_all_cores(x: jax.Array, kernel: jax.Array, features: int, few: int, strides: int, padding: tuple[int, int],
                  dilation: int) -> jax.Array:
    """`_convolve` in a form that XLA shares out among cores, forward and transposed.

    features: the channels that come out, or, of the transposed form, those that go in. few: so many pixels make a
    product of windows.
    """
    batch, height, width, channels = x.shape
    rows, columns, *_ = kernel.shape
    if (rows, columns) == (1, 1) and padding == (0, 0):
        x = x[:, ::strides, ::strides]
        return (x.reshape(-1, channels) @ kernel[0, 0]).reshape(*x.shape[:3], -1)
    output = jax.eval_shape(partial(_convolve, strides=strides, padding=padding, dilation=dilation), x, kernel)
    if math.prod(output.shape[:3]) <= few:
        x = jnp.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)))
        x = _windows(_windows(x, 2, columns, strides, dilation), 1, rows, strides, dilation)
        return (x.reshape(-1, x.shape[3]) @ kernel.reshape(-1, kernel.shape[3])).reshape(output.shape)
    groups, gap, reach = math.gcd(batch, jax.device_count()), padding[1], dilation * (columns - 1)
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


def _windows(x: jax.Array, axis: int, taps: int, strides: int, dilation: int) -> jax.Array:
    """What each tap of a kernel sees along an axis, side by side: `(..., taps * C)`, the axis shorter or strided."""
    length = (x.shape[axis] - dilation * (taps - 1) - 1) // strides * strides + 1
    return jnp.concatenate([lax.slice_in_dim(x, i * dilation, i * dilation + length, strides, axis)
                            for i in range(taps)], axis=-1)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, shape: tuple[int, ...], strides: int,
                     padding: tuple[int, int], dilation: int) -> jax.Array:
    """`(kh, kw, C, O)`: windows of the images `(M, kh * kw * C)` times the output's gradient `(M, O)`.

    XLA makes of this gradient a convolution by a window as large as the map, and its CPU kernels reach a seventh
    (one tap) to a half of their matrix product's speed at it. Windows are copied for a few images at a time, and where
    that copies less, those of the kernel's rows from the gradient: `(M, kw * C)` times `(M, kh * O)`.
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
        # Where a product sums over two axes, XLA transposes its first factor, which in the cache pays.
        axes = (0, 1) if in_cache else (0,)
        pair = (y.reshape(-1, *y.shape[4 - len(axes):]) for y in ((g, x) if exchanged else (x, g)))
        return lax.dot_general(*pair, ((axes, axes), ((), ())), preferred_element_type=jnp.float32)

    def of_band(i: jax.Array, x: jax.Array, g: jax.Array) -> jax.Array:
        """Of so many rows of the one without windows, and all that the windows of the other see of them."""
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
    if exchanged:  # behind a barrier, for XLA would exchange the factors instead
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
