"""The memory that a training step takes on each device.

The state is exact. What lies beside it is reckoned from the step's trace (`cvjax.workflow.liveness`); a compiler that
is installed is asked by `experiments.plan --compile`. Nothing is computed or compiled here.
"""

from typing import Any, NamedTuple

import jax

from cvjax.train.layout import Layout
from cvjax.workflow.config import config_errors
from cvjax.workflow.devices import make_layout
from cvjax.workflow.liveness import array_bytes, flatten, temporary_bytes
from cvjax.workflow.prepared import Prepared


class Memory(NamedTuple):
    """Bytes per device."""

    parameters: int
    optimizer: int
    others: int  # averages of parameters, batch statistics, a teacher
    batch: int  # images, as they arrive, and those that stay (--resident)
    working: int  # activations, gradients and whatever else a step needs at the time when it needs most

    @property
    def total(self) -> int:
        return sum(self)


def print_memory(prepared: Prepared[Any]) -> None:
    """Print the memory that the training takes on each device at hand; ConfigError if it cannot run on them."""
    with config_errors():
        layout = make_layout(prepared.config, jax.device_count())
        print(memory_table(measure_memory(prepared, layout)))


def measure_memory(prepared: Prepared[Any], layout: Layout, platform: str | None = None) -> Memory:
    """The memory of a training on the devices of `layout`.

    Activations are counted as split over the axis `data` only. Memory that a kernel needs while it runs is not counted.
    platform: "cpu", "cuda" or "tpu"; by default that of the devices at hand.
    Raises ValueError where the state does not fit the layout.
    """
    state = prepared.state
    layout.specs(state)
    if platform is None:
        platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    return Memory(
        layout.bytes_per_device(state.params), layout.bytes_per_device(state.opt_state),
        layout.bytes_per_device((state.model_state, state.ema, state.constants)),
        Layout(1).bytes_per_device(prepared.batch) // layout.data + prepared.resident,
        _working_bytes(prepared, layout, platform))


def _working_bytes(prepared: Prepared[Any], layout: Layout, platform: str) -> int:
    """Bytes of a step's temporary arrays on a device.

    An array that grows with the batch is split over the devices; for that the step is traced with twice the batch as
    well. One with the shape of a parameter (a gradient, an update) is as large as the parameter is on a device.
    """
    trace = flatten(jax.make_jaxpr(prepared.step)(prepared.state, prepared.batch), platform)
    if layout.data * layout.model == 1:
        return temporary_bytes(trace)
    doubled = {name: jax.ShapeDtypeStruct((2 * leaf.shape[0], *leaf.shape[1:]), leaf.dtype)
               for name, leaf in prepared.batch.items()}
    larger = flatten(jax.make_jaxpr(prepared.step)(prepared.state, doubled), platform)
    if [operation.name for operation in larger.operations] != [operation.name for operation in trace.operations]:
        raise ValueError("the step's operations depend on the batch size: its memory on several devices is not known")
    parts = {tuple(sorted(leaf.shape)): layout.bytes_per_device(leaf) / array_bytes(leaf)
             for leaf in jax.tree.leaves(prepared.state.params)}
    sizes = []
    for once, twice in zip(trace.shapes, larger.shapes, strict=True):
        whole = array_bytes(once)
        growing = array_bytes(twice) - whole
        fixed = (whole - growing) * (parts.get(tuple(sorted(once.shape)), 1) if not growing else 1)
        sizes.append(int(fixed + growing / layout.data))
    return temporary_bytes(trace, sizes)


def memory_table(memory: Memory) -> str:
    """One line per part, and the total."""
    parts = [("parameters", memory.parameters), ("optimizer state", memory.optimizer),
             ("averages, statistics, teacher", memory.others), ("images", memory.batch),
             ("activations and gradients", memory.working), ("in all, at the peak", memory.total)]
    return "\n".join(["memory per device:", *(f"  {name:30} {size_text(size):>10}" for name, size in parts)])


def size_text(size: float) -> str:
    """Bytes as text; 1.50 GB is 1.5e9 bytes."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size:.0f} B"
