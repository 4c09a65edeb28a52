"""The cost of a program: FLOPs as XLA counts them, and time and memory on the first device."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Cost(NamedTuple):
    """The cost of one run of a program."""

    flops: float  # a multiply-add counts as two
    seconds: float
    cpu_seconds: float  # CPU time of all threads of this process; little if an accelerator computes
    work_bytes: int  # of results and intermediate values, without the arguments


def forward_cost(model: Any, image_size: int, *, repeats: int = 1) -> Cost:
    """The cost of one square image of zeros for a model in evaluation mode, by `program_cost`; parameters are zeros."""
    image = jnp.zeros((1, image_size, image_size, model.in_channels))
    return program_cost(model.apply, zero_variables(model, image), image, repeats=repeats)


def zero_variables(model: nn.Module, *inputs: Any) -> Any:
    """The variables of a model, all zeros. They take as long to compute with as other numbers."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def program_cost(function: Callable[..., Any], *arguments: Any, repeats: int = 1) -> Cost:
    """The cost of `function(*arguments)` as one program.

    FLOPs are counted before XLA optimises the program, so they do not depend on the device; the body of a loop counts
    once. Times are the shortest of `repeats` runs, which follow one that compiles.
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
    if memory is None:
        raise RuntimeError(f"XLA does not tell a program's memory on {jax.default_backend()}")
    return Cost(program_flops(lowered), seconds, cpu_seconds, memory.temp_size_in_bytes + memory.output_size_in_bytes)


def program_flops(lowered: jax.stages.Lowered) -> float:
    """FLOPs of a program, as XLA counts them before it optimises."""
    counted = lowered.cost_analysis()
    if counted is None:
        raise RuntimeError(f"XLA does not count a program's operations on {jax.default_backend()}")
    return counted["flops"]
