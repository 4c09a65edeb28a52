"""`jax.pmap` with the interface of `cvjax.train.mesh.MeshEngine`, for readers who know JAX by `pmap`.

pmap is in maintenance mode since JAX 0.8; the mesh is the engine, and a test holds both to the same numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cvjax.train.layout import Layout


class PmapEngine:
    """Data parallel: every device holds a copy of the state with a leading device axis, and its rows of the batch."""

    axis_name = "data"
    share = (0, 1)  # of each batch: this process loads all

    def __init__(self, devices: Sequence[Any] | None = None) -> None:
        self.devices = jax.local_devices() if devices is None else devices
        self.layout = Layout(len(self.devices))
        if jax.process_count() > 1:
            raise ValueError("parallel pmap runs in one process; parallel jit runs in several")

    def create(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function(*arguments) -> state` once and copy the state to every device."""
        return self.spread(jax.jit(function)(*arguments))

    def compile_step(self, step: Callable[[Any, Any], tuple[Any, Any]], state: Any) -> Any:
        """Compile `step(state, batch) -> (state, metrics)`, which must average over the axis `data`."""
        mapped = jax.pmap(step, axis_name=self.axis_name, donate_argnums=0, devices=self.devices)

        def run(state: Any, batch: Any) -> tuple[Any, Any]:
            state, metrics = mapped(state, batch)
            return state, self.single(metrics)

        return run

    def compile_evaluation(self, function: Callable[[Any, Any], Any], *,
                           by_example: bool = False) -> Callable[[Any, Any], Any]:
        """Compile `function(variables, batch) -> metrics`, summed over the devices, or arrays by example, gathered."""
        def whole(variables: Any, batch: Any) -> Any:
            found = function(variables, batch)
            if by_example:
                return jax.lax.all_gather(found, self.axis_name, tiled=True)
            return jax.lax.psum(found, self.axis_name)

        mapped = jax.pmap(whole, axis_name=self.axis_name, devices=self.devices)
        return lambda variables, batch: self.single(mapped(variables, batch))

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Send rows `(B, ...)` to the devices as `(devices, B / devices, ...)`."""
        count = len(self.devices)
        return {name: np.reshape(x, (count, -1, *np.shape(x)[1:])) for name, x in batch.items()}

    def single(self, state: Any) -> Any:
        """The first device's copy."""
        return jax.tree.map(lambda x: x.addressable_shards[0].data.reshape(x.shape[1:]), state)

    def whole(self, tree: Any) -> Any:
        """What `single` gives is whole already."""
        return tree

    def spread(self, state: Any) -> Any:
        """Copy one state to every device, with a leading device axis."""
        mesh = jax.sharding.Mesh(np.asarray(self.devices), (self.axis_name,))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(self.axis_name))

        def copies(x: jax.Array) -> jax.Array:
            return jax.device_put(jax.numpy.broadcast_to(x[None], (len(self.devices), *x.shape)), sharding)

        return jax.tree.map(copies, state)


