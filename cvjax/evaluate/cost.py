"""What a forward pass costs: arithmetic as XLA counts it, and time on the device at hand."""

import time
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Cost(NamedTuple):
    """Of one image, in evaluation mode."""

    flops: float  # a multiplication and an addition count as two
    seconds: float


def forward_cost(model: nn.Module, image_size: int, *, repeats: int = 1) -> Cost:
    """The cost of a square image for an image model.

    FLOPs are those of the program before XLA optimises it, so that they depend on no device. The time is the best of
    `repeats` runs after one that compiles; parameters and image are zeros, which takes as long as other numbers.
    """
    image = jnp.zeros((1, image_size, image_size, model.in_channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    lowered = jax.jit(model.apply).lower(variables, image)
    forward = lowered.compile()
    jax.block_until_ready(forward(variables, image))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(forward(variables, image))
        seconds.append(time.perf_counter() - start)
    return Cost(lowered.cost_analysis()["flops"], min(seconds))
