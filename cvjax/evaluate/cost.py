"""What a forward pass costs: arithmetic as XLA counts it, time and memory on the device at hand."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Cost(NamedTuple):
    """Of one image, in evaluation mode."""

    flops: float  # a multiplication and an addition count as two
    seconds: float
    cpu_seconds: float  # that this process computed for, all threads together; little where an accelerator computes
    work_bytes: int  # of results and of all that is between them and the arguments


def forward_cost(model: nn.Module, image_size: int, *, repeats: int = 1) -> Cost:
    """The cost of a square image for an image model; its parameters and the image are zeros: see `program_cost`."""
    image = jnp.zeros((1, image_size, image_size, model.in_channels))
    return program_cost(model.apply, zero_variables(model, image), image, repeats=repeats)


def zero_variables(model: nn.Module, *inputs: Any) -> Any:
    """The variables of a model, all zeros, which take as long to compute with as other numbers do."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def program_cost(function: Callable[..., Any], *arguments: Any, repeats: int = 1) -> Cost:
    """The cost of `function(*arguments)` as one program.

    FLOPs are those of the program before XLA optimises it, so that they depend on no device; what is in a loop counts
    once. The times are the best of `repeats` runs after one that compiles.
    """
    lowered = jax.jit(function).lower(*arguments)
    program = lowered.compile()
    jax.block_until_ready(program(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        jax.block_until_ready(program(*arguments))
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    seconds, cpu_seconds = map(min, zip(*times))
    memory = program.memory_analysis()
    return Cost(lowered.cost_analysis()["flops"], seconds, cpu_seconds,
                memory.temp_size_in_bytes + memory.output_size_in_bytes)
