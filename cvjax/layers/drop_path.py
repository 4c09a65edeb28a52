"""Stochastic depth per example (Huang et al. 2016, https://arxiv.org/abs/1603.09382)."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class DropPath(nn.Module):
    """Zero a whole residual branch for a random share `rate` of the examples, and scale the others to keep the mean.

    rate: in [0, 1), ValueError otherwise. It may be an array, in a loop that is compiled once for all blocks.
    Input and output `(B, ...)`. Acts only with `train=True`; draws from the `dropout` stream.
    """

    rate: float | jax.Array

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if isinstance(self.rate, float) and not 0.0 <= self.rate < 1.0:
            raise ValueError(f"drop path {self.rate}: the rate must be in [0, 1)")
        if not train or (isinstance(self.rate, float) and self.rate == 0.0):
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return jnp.where(kept, x / jnp.asarray(keep, x.dtype), jnp.zeros_like(x))
