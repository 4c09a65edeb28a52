"""The Gaussian error linear unit (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415), and CLIP's form."""

import math

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """`x` times the standard normal's distribution function at `x`; of any shape, the dtype is kept.

    It is the exact form. bfloat16 and float16 are computed in float32, to 1e-6, and then rounded.
    """
    if jnp.finfo(x.dtype).bits >= 32:
        return 0.5 * x * lax.erfc(-x * math.sqrt(0.5))
    # `erfc` keeps the digits of results close to 0, but costs an accelerator more than reading and writing them.
    wide = x.astype(jnp.float32)
    return (wide * _distribution(wide)).astype(x.dtype)


def _distribution(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * lax.erf(x * math.sqrt(0.5))


@gelu.defjvp
def _tangent(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # `erf` costs a CPU much less than `erfc`. Far below 0 it rounds to steps of 6e-8, and there so does the slope.
    # The derivative that JAX would find makes a ViT's step a twentieth longer.
    (x,), (dx,) = primals, tangents
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    density = jnp.exp(-0.5 * wide * wide) * (1 / math.sqrt(2 * math.pi))
    return gelu(x), dx * (_distribution(wide) + wide * density).astype(x.dtype)


def quick_gelu(x: jax.Array) -> jax.Array:
    """`x` times the logistic function at `1.702 x` (sec. 2 of the paper), as CLIP learnt; of any shape and dtype."""
    return x * jax.nn.sigmoid(1.702 * x)
