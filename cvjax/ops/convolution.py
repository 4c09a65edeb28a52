"""2-D convolution (cross-correlation) of images with kernels."""

import jax


def conv2d(x: jax.Array, kernel: jax.Array, strides: int = 1, padding: tuple[int, int] = (0, 0), dilation: int = 1,
           groups: int = 1) -> jax.Array:
    """`(B, H, W, C)` and kernel `(kh, kw, C / groups, O)` to `(B, H', W', O)`; zeros stand `padding` pixels around."""
    return jax.lax.conv_general_dilated(
        x, kernel, (strides, strides), [(p, p) for p in padding], rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)
