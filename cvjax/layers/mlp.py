"""The transformer's position-wise feed-forward network."""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.dense import Dense
from cvjax.layers.grn import GlobalResponseNorm
from cvjax.layers.initializers import xavier_uniform
from cvjax.layers.partition import spread
from cvjax.ops.gelu import gelu, quick_gelu

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu", "swiglu_pair"]


def _swiglu(x: jax.Array) -> jax.Array:
    gate, value = x[..., :x.shape[-1] // 2], x[..., x.shape[-1] // 2:]
    return jax.nn.silu(gate) * value


ACTIVATIONS = {"gelu": gelu, "gelu_tanh": partial(jax.nn.gelu, approximate=True), "quick_gelu": quick_gelu,
               "swiglu": _swiglu}


class Mlp(nn.Module):
    """Linear, activation, linear: `(..., D) -> (..., D)` through `hidden` channels.

    kernel_init: the initialiser of both kernels.
    activation: "gelu" is the exact form; "gelu_tanh" its approximation; "quick_gelu" CLIP's; with "swiglu" the first
        half of the hidden channels, through SiLU, multiplies the second (Shazeer 2020,
        https://arxiv.org/abs/2002.05202); "swiglu_pair" is the same of two layers of `hidden` channels each.
    response_norm: whether maps `(B, H, W, hidden)` are normalised before the second layer, see `GlobalResponseNorm`.
    """

    hidden: int
    dtype: Any = jnp.float32
    kernel_init: Any = xavier_uniform
    activation: Activation = "gelu"
    response_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dim = x.shape[-1]
        first = partial(Dense, self.hidden, kernel_init=self.kernel_init, dtype=self.dtype)
        if self.activation == "swiglu_pair":
            x = jax.nn.silu(spread(first(name="fc1_g")(x), -1)) * spread(first(name="fc1_x")(x), -1)
        else:
            x = ACTIVATIONS[self.activation](spread(first(name="fc1")(x), -1))
        x = GlobalResponseNorm(name="grn")(x) if self.response_norm else x
        return Dense(dim, kernel_init=self.kernel_init, dtype=self.dtype, name="fc2")(x)
