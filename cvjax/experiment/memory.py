"""What a training step takes on each device: its state exactly, its activations before the compiler saves some.

Nothing is computed or compiled: all follows from shapes.
"""

from typing import Any, NamedTuple

import jax

from cvjax.train.layout import Layout


class Memory(NamedTuple):
    """Bytes per device."""

    parameters: int
    optimizer: int
    others: int  # averages of parameters, batch statistics, a teacher
    gradients: int
    activations: int  # what the forward pass keeps for the backward pass
    batch: int  # images, as they arrive, and those that stay (--resident)

    @property
    def total(self) -> int:
        return sum(self)


def measure_memory(prepared: Any, layout: Layout) -> Memory:
    """The memory of a `cvjax.experiment.training.Prepared` on the devices of `layout`.

    Activations count as split over the axis `data` alone, and gradients as live all at once; what a kernel needs while
    it runs is not counted.
    Raises ValueError where the state cannot be laid out so.
    """
    state = prepared.state
    layout.specs(state)
    parameters = layout.bytes_per_device(state.params)
    rows = prepared.config.batch_size // layout.data
    return Memory(
        parameters, layout.bytes_per_device(state.opt_state), layout.bytes_per_device((state.model_state, state.ema)),
        parameters, kept_per_example(prepared) * rows // prepared.config.accumulate,
        Layout(1).bytes_per_device(prepared.batch) // layout.data + prepared.resident)


def kept_per_example(prepared: Any) -> int:
    """Bytes that the forward pass keeps for the backward pass, for each example of a batch."""
    def kept(rows: int) -> int:
        batch = {name: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
                 for name, leaf in prepared.batch.items()}

        def backward(params: Any, model_state: Any, batch: Any, rng: jax.Array) -> Any:
            return jax.vjp(lambda params: prepared.task.loss(params, model_state, batch, rng), params, has_aux=True)[1]

        return Layout(1).bytes_per_device(jax.eval_shape(backward, prepared.state.params, prepared.state.model_state,
                                                         batch, prepared.state.rng))

    return (kept(4) - kept(2)) // 2  # the difference leaves out what there is once: parameters, and casts of them


def memory_table(memory: Memory) -> str:
    """One line per part, and the total."""
    parts = [("parameters", memory.parameters), ("optimizer state", memory.optimizer),
             ("averages, statistics, teacher", memory.others), ("gradients", memory.gradients),
             ("activations kept", memory.activations), ("images", memory.batch), ("in all", memory.total)]
    return "\n".join(["memory per device:", *(f"  {name:30} {size_text(size):>10}" for name, size in parts)])


def size_text(size: float) -> str:
    """Bytes in words: 1.50 GB is 1.5e9 of them."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size:.0f} B"
