"""The memory that a training step takes on each device.

The state is exact. Activations are counted before the compiler saves some of them.
Nothing is computed or compiled; everything follows from shapes.
"""

from typing import Any, NamedTuple

import jax

from cvjax.train.layout import Layout
from cvjax.workflow.config import config_errors
from cvjax.workflow.devices import make_layout
from cvjax.workflow.prepared import Prepared


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


def print_memory(prepared: Prepared[Any]) -> None:
    """Print the memory that the training takes on each device at hand; ConfigError if it cannot run on them."""
    with config_errors():
        layout = make_layout(prepared.config, jax.device_count())
        print(memory_table(measure_memory(prepared, layout)))


def measure_memory(prepared: Prepared[Any], layout: Layout) -> Memory:
    """The memory of a training on the devices of `layout`.

    Activations are counted as split over the axis `data` only, and gradients as all alive at once. Memory that a kernel
    needs while it runs is not counted.
    Raises ValueError where the state does not fit the layout.
    """
    state = prepared.state
    layout.specs(state)
    parameters = layout.bytes_per_device(state.params)
    rows = prepared.config.batch_size // layout.data
    return Memory(
        parameters, layout.bytes_per_device(state.opt_state), layout.bytes_per_device((state.model_state, state.ema)),
        parameters, kept_per_example(prepared) * rows // prepared.config.accumulate,
        Layout(1).bytes_per_device(prepared.batch) // layout.data + prepared.resident)


def kept_per_example(prepared: Prepared[Any]) -> int:
    """Bytes that the forward pass keeps for the backward pass, for each example of a batch."""
    def kept(rows: int) -> int:
        batch = {name: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
                 for name, leaf in prepared.batch.items()}

        def backward(params: Any, model_state: Any, batch: Any, rng: jax.Array) -> Any:
            return jax.vjp(lambda params: prepared.task.loss(params, model_state, batch, rng), params, has_aux=True)[1]

        return Layout(1).bytes_per_device(jax.eval_shape(backward, prepared.state.params, prepared.state.model_state,
                                                         batch, prepared.state.rng))

    return (kept(4) - kept(2)) // 2  # the difference leaves out what no batch size changes: casts of parameters


def memory_table(memory: Memory) -> str:
    """One line per part, and the total."""
    parts = [("parameters", memory.parameters), ("optimizer state", memory.optimizer),
             ("averages, statistics, teacher", memory.others), ("gradients", memory.gradients),
             ("activations kept", memory.activations), ("images", memory.batch), ("in all", memory.total)]
    return "\n".join(["memory per device:", *(f"  {name:30} {size_text(size):>10}" for name, size in parts)])


def size_text(size: float) -> str:
    """Bytes as text; 1.50 GB is 1.5e9 bytes."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size:.0f} B"
