"""Several steps in one call of a compiled program, on batches from data that is already on the device.

A small step takes the device less time than the host needs to start it and to send its batch. K steps in one program,
and positions instead of images, take this load off the host. The numbers are those of single steps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

Feed = Callable[[Mapping[str, jax.Array], Any], dict[str, jax.Array]]


def compile_dispatch(engine: Any, step: Callable[[Any, Any], tuple[Any, Any]], state: Any, *, steps: int = 1,
                     feed: Feed | None = None, resident: Any = None) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Compile `step(state, batch) -> (state, metrics)` for `fit`, or several steps in a row.

    steps: 1 for a single step. With more, batches are `(K, B, ...)` and metrics are `(K,)`, for any K.
    feed(batch, resident) -> batch: changes a batch before the step, in the same program; None leaves it as it is.
    resident: host arrays for `feed`, sent to every device once, now; None where `feed` needs no arrays.
    """
    if feed is not None:
        alone, step = step, lambda state, batch, arrays=None: alone(state, feed(batch, arrays))
    options = {}
    if steps > 1:
        step, options = in_a_row(step), {"several": True}
    if resident is None:
        return engine.compile_step(step, state, **options)
    arrays, compiled = engine.replicate(resident), engine.compile_step(step, state, resident=True, **options)
    return lambda state, batch: compiled(state, batch, arrays)


def in_a_row(step: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """`step` over the first axis of batches `(K, B, ...)`: the last state, and metrics with an axis of K in front."""
    def steps(state: Any, batches: Any, *constant: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda state, batch: step(state, batch, *constant), state, batches)

    return steps


def draw(batches: Iterator[Mapping[str, np.ndarray]], steps: int) -> dict[str, np.ndarray]:
    """The next batches of a stream, stacked: `(steps, B, ...)`."""
    drawn = [next(batches) for _ in range(steps)]
    return {name: np.stack([batch[name] for batch in drawn]) for name in drawn[0]}


def steps_ahead(done: int, total_steps: int, steps: int) -> int:
    """How many steps go together after `done` of them: to the next multiple of `steps`, or to the end."""
    return min(steps - done % steps, total_steps - done)


def check_room(arrays: Mapping[str, np.ndarray], devices: Sequence[Any], name: str) -> None:
    """ValueError when arrays do not fit into the free memory of one of jax's devices, where that is known."""
    size = sum(array.nbytes for array in arrays.values())
    for device in devices:
        memory = device.memory_stats() or {}
        if "bytes_limit" not in memory:
            continue
        free = memory["bytes_limit"] - memory.get("bytes_in_use", 0)
        if size > free:
            raise ValueError(f"{name} has {size:,} bytes, {device.device_kind} has {free:,} free: it must fit")
