"""The engine: `jax.jit` over a mesh of all devices, from one to a pod's.

An engine says where state and batches live and compiles functions for it; `cvjax.train.layout` decides where, and
`cvjax.train.pmap` has the other engine.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cvjax.train.layout import Layout


def arranged(devices: Sequence[Any], layout: Layout) -> np.ndarray:
    """Devices of several processes as `(data, model)`, process by process.

    Each process loads the rows of its own devices, so together they are the batch in order.
    """
    ordered = np.empty(len(devices), object)
    ordered[:] = sorted(devices, key=lambda device: (device.process_index, device.id))
    return ordered.reshape(layout.data, layout.model)


class MeshEngine:
    """`jax.jit` over `devices` (all by default), laid out as `layout` says, by default to split batches over them.

    Raises ValueError for a layout that does not fit the devices.
    """

    axis_name = None  # under jit a mean over the batch is global already

    def __init__(self, devices: Sequence[Any] | None = None, layout: Layout | None = None) -> None:
        devices = jax.devices() if devices is None else devices
        self.layout = layout = layout or Layout(len(devices))
        processes = sorted({device.process_index for device in devices})
        each = len(devices) // len(processes)
        if each % layout.model and layout.model % each:
            raise ValueError(f"mesh model={layout.model} must divide the {each} devices of a process, or be a "
                             "multiple")
        together = max(1, layout.model // each)  # processes whose devices share layers, and so see the same images
        # Which part of each batch this process loads, and into how many parts it is cut.
        self.share = (processes.index(jax.process_index()) // together, len(processes) // together)
        names, types = ("data", "model"), (AxisType.Auto, AxisType.Auto)
        if len(processes) == 1:  # JAX knows best how they stand
            self.mesh = jax.make_mesh((layout.data, layout.model), names, axis_types=types, devices=devices)
        else:
            self.mesh = Mesh(arranged(devices, layout), names, axis_types=types)
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.split = NamedSharding(self.mesh, PartitionSpec("data"))
        self.stacked = NamedSharding(self.mesh, PartitionSpec(None, "data"))

    def shardings(self, state: Any) -> Any:
        """Where each array of a state, or of a part of one, lives; see `Layout.specs`."""
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), self.layout.specs(state))

    def create(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function(*arguments) -> state` on the devices; the state is never whole on one unless it ends so."""
        return jax.jit(function, out_shardings=self.shardings(jax.eval_shape(function, *arguments)))(*arguments)

    def compile_step(self, step: Callable[..., tuple[Any, Any]], state: Any, *, several: bool = False,
                     resident: bool = False) -> Any:
        """Compile `step(state, batch) -> (state, metrics)` for states like `state`; the one given to it is used up.

        several: batches are `(K, B, ...)`. resident: `step` takes arrays of `replicate` as a third argument.
        """
        placed = self.shardings(state)
        arguments = (placed, self.stacked if several else self.split, *[self.replicated] * resident)
        return jax.jit(self._on_mesh(step), donate_argnums=0, in_shardings=arguments,
                       out_shardings=(placed, self.replicated))

    def compile_evaluation(self, function: Callable[[Any, Any], Any], *,
                           by_example: bool = False) -> Callable[[Any, Any], Any]:
        """Compile `function(variables, batch)` of the whole batch.

        It gives sums over the batch, or arrays by example (`by_example`); this engine treats both alike.
        """
        return jax.jit(self._on_mesh(function), in_shardings=(None, self.split), out_shardings=self.replicated)

    def _on_mesh(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, traced so that layers can name the axes of the mesh."""
        def traced(*arguments: Any) -> Any:
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                return function(*arguments)

        return traced

    def put(self, batch: Mapping[str, np.ndarray], *, several: bool = False) -> dict[str, jax.Array]:
        """Send this process's rows of a batch, or of several `(K, B, ...)`, to the devices."""
        sharding = self.stacked if several else self.split
        return {name: jax.make_array_from_process_local_data(sharding, np.asarray(x)) for name, x in batch.items()}

    def replicate(self, arrays: Any) -> Any:
        """Send host arrays, the same in all processes, whole to every device."""
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.replicated, x, x.shape), arrays)

    def single(self, state: Any) -> Any:
        """The state as checkpoints hold it: each array once, wherever its parts are."""
        return state

    def spread(self, state: Any) -> Any:
        """The inverse of `single`, also for host arrays."""
        return jax.device_put(state, self.shardings(state))

    def whole(self, tree: Any) -> Any:
        """Arrays that any function of this process can take: each whole, on its own devices or on the host."""
        if not self.replicated.is_fully_addressable:
            return multihost_utils.process_allgather(tree, tiled=True)
        return jax.device_put(tree, self.replicated)
