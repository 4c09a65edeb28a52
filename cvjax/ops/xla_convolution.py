"""A 2-D convolution and its two gradients by XLA's own operation.

Images are `(B, H, W, C)`, kernels `(kh, kw, C / groups, O)`, outputs and their gradients `(B, H', W', O)`.
"""

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec


def convolve(x: jax.Array, kernel: jax.Array, *, strides: int, padding: tuple[int, int], dilation: int,
             groups: int = 1) -> jax.Array:
    """The cross-correlation of images and a kernel; zeros stand `padding` pixels around the images."""
    return lax.conv_general_dilated(
        x, kernel, (strides, strides), [(p, p) for p in padding], rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)


def image_gradient(gradient: jax.Array, kernel: jax.Array, *, shape: tuple[int, ...], strides: int,
                   padding: tuple[int, int], dilation: int) -> jax.Array:
    """The gradient of images of this `shape`, from the output's."""
    images = like(gradient, shape)
    return jax.linear_transpose(
        lambda x: convolve(x, kernel, strides=strides, padding=padding, dilation=dilation), images)(gradient)[0]


def kernel_gradient(x: jax.Array, gradient: jax.Array, *, shape: tuple[int, ...], strides: int,
                    padding: tuple[int, int], dilation: int) -> jax.Array:
    """The gradient of a kernel of this `shape`, from the output's."""
    kernel = like(gradient, shape)
    return jax.linear_transpose(
        lambda k: convolve(x, k, strides=strides, padding=padding, dilation=dilation), kernel)(gradient)[0]


def like(array: jax.Array, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """The type of an array with this shape, and with the dtype and the device-varying axes of `array`."""
    over = jax.typeof(array).manual_axis_type
    where = NamedSharding(jax.sharding.get_abstract_mesh(), PartitionSpec()) if over.varying else None
    return jax.ShapeDtypeStruct(shape, array.dtype, sharding=where, manual_axis_type=over)
