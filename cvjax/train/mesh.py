"""The engine: `jax.jit` over a mesh of all devices, the batch split over them.

An engine says where state and batches live and compiles functions for it; `cvjax.train.pmap` has the other one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


class MeshEngine:
    """Data parallel over `devices` (all by default): state replicated, batches split along their first axis."""

    axis_name = None  # under jit a mean over the batch is global already

    def __init__(self, devices: list[jax.Device] | None = None) -> None:
        devices = jax.devices() if devices is None else devices
        self.mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.split = NamedSharding(self.mesh, PartitionSpec("data"))

    def create(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function(*arguments) -> state` on the devices."""
        return jax.jit(function, out_shardings=self.replicated)(*arguments)

    def compile_step(self, step: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[[Any, Any], tuple[Any, Any]]:
        """Compile `step(state, batch) -> (state, metrics)`; the state given to it is used up."""
        return jax.jit(step, donate_argnums=0, in_shardings=(self.replicated, self.split),
                       out_shardings=(self.replicated, self.replicated))

    def compile_evaluation(self, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Compile `function(variables, batch) -> metrics`, summed over the whole batch."""
        return jax.jit(function, in_shardings=(self.replicated, self.split), out_shardings=self.replicated)

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Send this process's rows of a batch to the devices."""
        return {name: jax.make_array_from_process_local_data(self.split, np.asarray(x)) for name, x in batch.items()}

    def single(self, state: Any) -> Any:
        """The state as checkpoints hold it: one copy, whatever the number of devices."""
        return state

    def spread(self, state: Any) -> Any:
        """The inverse of `single`."""
        return state


def check_batch_size(batch_size: int, *, accumulate: int, devices: int) -> None:
    """ValueError unless every micro-batch of a step splits evenly over the devices."""
    if batch_size % (accumulate * devices):
        raise ValueError(f"--batch-size {batch_size} does not split over {devices} devices x --accumulate "
                         f"{accumulate}: it must be a multiple of {accumulate * devices}")
