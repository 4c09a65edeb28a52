"""2-D convolution (cross-correlation) of images with kernels."""

import jax

from cvjax.ops import cpu_convolution, xla_convolution
from cvjax.ops.multilinear import Multilinear


def conv2d(x: jax.Array, kernel: jax.Array, strides: int = 1, padding: tuple[int, int] = (0, 0), dilation: int = 1,
           groups: int = 1) -> jax.Array:
    """`(B, H, W, C)` and kernel `(kh, kw, C / groups, O)` to `(B, H', W', O)`; zeros stand `padding` pixels around.

    It is XLA's convolution. Programs for a CPU have faster forms of the same sums (`cvjax.ops.cpu_convolution`), except
    with groups, under `jax.vmap` and where a shape is symbolic.
    """
    if groups > 1:
        return xla_convolution.convolve(x, kernel, strides=strides, padding=padding, dilation=dilation, groups=groups)
    return _output(x, kernel, strides=strides, padding=padding, dilation=dilation)


# Linear in both arrays, and so are its two gradients: each of the three is what the others become when transposed.
_output = Multilinear(
    "conv2d", xla_convolution.convolve, cpu=cpu_convolution.convolve, transposes=(
        lambda g, x, kernel, **window: _image_gradient(g, kernel, shape=x.shape, **window),
        lambda g, x, kernel, **window: _kernel_gradient(x, g, shape=kernel.shape, **window)))

_image_gradient = Multilinear(
    "conv2d_image_gradient", xla_convolution.image_gradient, cpu=cpu_convolution.image_gradient, transposes=(
        lambda x, gradient, kernel, *, shape, **window: _output(x, kernel, **window),
        lambda x, gradient, kernel, *, shape, **window: _kernel_gradient(x, gradient, shape=kernel.shape, **window)))

_kernel_gradient = Multilinear(
    "conv2d_kernel_gradient", xla_convolution.kernel_gradient, cpu=cpu_convolution.kernel_gradient, transposes=(
        lambda kernel, x, gradient, *, shape, **window: _image_gradient(gradient, kernel, shape=x.shape, **window),
        lambda kernel, x, gradient, *, shape, **window: _output(x, kernel, **window)))
