"""Local response normalisation across channels."""

import jax
import jax.numpy as jnp
from jax import lax


def local_response_norm(x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75,
                        k: float = 2.0) -> jax.Array:
    """`x / (k + alpha * sum of x^2 over `size` neighbouring channels)^beta`, for `(..., C)`; computed in float32.

    The window of channel i is `i - size // 2 ... i + (size - 1) // 2`, cut off at the first and the last channel.
    alpha multiplies the sum, as in the paper; `torch.nn.LocalResponseNorm` and Caffe multiply the mean over the
    window: their alpha is `size` times this one.
    """
    wide = x.astype(jnp.float32)
    window, strides, still = (1,) * (x.ndim - 1) + (size,), (1,) * x.ndim, [(0, 0)] * (x.ndim - 1)
    energy = lax.reduce_window(wide * wide, 0.0, lax.add, window, strides, [*still, (size // 2, (size - 1) // 2)])
    return (wide * (k + alpha * energy) ** -beta).astype(x.dtype)
