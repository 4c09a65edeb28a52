"""A learned per-channel scale on a residual branch (Touvron et al. 2021, https://arxiv.org/abs/2103.17239)."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class LayerScale(nn.Module):
    """Multiply `(..., D)` by a learned vector that starts at `init`."""

    init: float  # pyright: ignore[reportIncompatibleMethodOverride]  nobody initialises this layer by itself

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gamma = self.param("gamma", nn.initializers.constant(self.init), (x.shape[-1],))
        return (x.astype(jnp.float32) * gamma).astype(x.dtype)  # in float32, for the sum that is gamma's gradient
