"""Global response normalisation (Woo et al. 2023, sec. 4, https://arxiv.org/abs/2301.00808)."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class GlobalResponseNorm(nn.Module):
    """`x + scale * x * response + bias` on maps `(B, H, W, C)`; scale and bias start at zero.

    A channel's response is its size, the root of the sum of its squares over the map, over the mean size of channels.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.zeros, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        wide = x.astype(jnp.float32)  # for sums over the map, gradients' too
        squares = jnp.square(wide).sum(axis=(1, 2), keepdims=True)
        some = squares > 0  # the root has no slope at zero, where GELU leaves whole channels
        sizes = jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1.0)), 0.0)
        response = sizes / (sizes.mean(axis=-1, keepdims=True) + self.epsilon)
        return (wide + scale * (wide * response) + bias).astype(x.dtype)
