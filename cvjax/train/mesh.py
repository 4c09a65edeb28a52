"""The engine: `jax.jit` over a mesh of all devices, from one to a pod's.

The mesh has the axes `data`, over which batches are split, and `model`, over which single layers are (tensor
parallelism). Parameters, and with them optimizer state and averages, are whole on every device, or spread over `data`
too (fully sharded data parallelism, FSDP: Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054, stage 3 of
"ZeRO"); either way the numbers are those of one device, to rounding. An engine says where state and batches live and
compiles functions for it; `cvjax.train.pmap` has the other one.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

# Smaller arrays stay whole under FSDP: to collect one costs more than it takes room.
SMALL = 2**12


class MeshEngine:
    """`jax.jit` over `devices` (all by default).

    model: how many devices share a layer; all others make up the axis `data`. shard: "fsdp" spreads parameters,
    optimizer state and averages over the axis `data`, "none" copies them. spread_axis(path): the axis, counted from the
    last, over which the array at a path is spread over `model`, None for none.
    Raises ValueError for a `model` that does not divide the devices, or those of one process.
    """

    axis_name = None  # under jit a mean over the batch is global already

    def __init__(self, devices: list[jax.Device] | None = None, *, model: int = 1,
                 shard: Literal["none", "fsdp"] = "none",
                 spread_axis: Callable[[str], int | None] = lambda path: None) -> None:
        devices = jax.devices() if devices is None else devices
        each = len(devices) // len({device.process_index for device in devices})
        if each % model:  # then a process would need the rows of another one's batch
            raise ValueError(f"--mesh model={model} must divide the {each} devices of a process")
        self.mesh = jax.make_mesh((len(devices) // model, model), ("data", "model"),
                                  axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.split = NamedSharding(self.mesh, PartitionSpec("data"))
        self._shard, self._spread_axis = shard, spread_axis

    @property
    def batch_shards(self) -> int:
        """Into how many parts a batch is split."""
        return self.mesh.shape["data"]

    def shardings(self, state: Any) -> Any:
        """Where each array of a state, or of a part of one, lives; `state` may be shapes alone.

        Raises ValueError for an array that cannot be spread as `spread_axis` says, and if there is none to spread.
        """
        specs = jax.tree_util.tree_map_with_path(self.spec, state)
        if self.mesh.shape["model"] > 1 and not any("model" in spec for spec in jax.tree.leaves(specs)):
            raise ValueError(f"--mesh model={self.mesh.shape['model']} is for transformers: this model has no layer "
                             "that can be split")
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)

    def spec(self, path: Any, leaf: Any) -> PartitionSpec:
        """How the array at a path of a state is spread; see `shardings`."""
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        data, model = self.mesh.shape["data"], self.mesh.shape["model"]
        spec: list[str | None] = [None] * leaf.ndim
        axis = self._spread_axis(name)
        if model > 1 and axis is not None:
            if leaf.shape[axis] % model:
                raise ValueError(f"--mesh model={model} does not divide axis {axis} of {name} {leaf.shape}")
            spec[axis] = "model"
        if self._shard == "fsdp" and data > 1 and leaf.size >= SMALL:
            free = [i for i, length in enumerate(leaf.shape) if spec[i] is None and length % data == 0]
            if free:
                spec[max(free, key=lambda i: leaf.shape[i])] = "data"
        while spec and spec[-1] is None:
            spec.pop()
        return PartitionSpec(*spec)

    def create(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function(*arguments) -> state` on the devices; the state is never whole on one unless it ends so."""
        return jax.jit(function, out_shardings=self.shardings(jax.eval_shape(function, *arguments)))(*arguments)

    def compile_step(self, step: Callable[[Any, Any], tuple[Any, Any]], state: Any) -> Any:
        """Compile `step(state, batch) -> (state, metrics)` for states like `state`; the one given to it is used up."""
        placed = self.shardings(state)
        return jax.jit(self._on_mesh(step), donate_argnums=0, in_shardings=(placed, self.split),
                       out_shardings=(placed, self.replicated))

    def compile_evaluation(self, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Compile `function(variables, batch) -> metrics`, summed over the whole batch."""
        return jax.jit(self._on_mesh(function), in_shardings=(None, self.split), out_shardings=self.replicated)

    def _on_mesh(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` traced with the mesh in sight, for layers that name its axes."""
        def traced(*arguments: Any) -> Any:
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                return function(*arguments)

        return traced

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Send this process's rows of a batch to the devices."""
        return {name: jax.make_array_from_process_local_data(self.split, np.asarray(x)) for name, x in batch.items()}

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


def parse_mesh(text: str, devices: int) -> int:
    """The size of the axis `model` from words such as `data=4,model=2`; ValueError unless they fit the devices."""
    sizes = {}
    for word in text.split(","):
        name, _, size = word.partition("=")
        if name not in ("data", "model") or name in sizes or not size.isdecimal() or not int(size):
            raise ValueError(f"--mesh {text}: it must be data=N,model=M, or one of the two")
        sizes[name] = int(size)
    model = sizes.get("model", devices // sizes.get("data", devices))
    data = sizes.get("data", devices // model)
    if data * model != devices:
        raise ValueError(f"--mesh {text}: data times model must be the {devices} devices there are")
    return model


def check_batch_size(batch_size: int, *, accumulate: int, devices: int) -> None:
    """ValueError unless every micro-batch of a step splits evenly over the devices that batches are split over."""
    if batch_size % (accumulate * devices):
        raise ValueError(f"--batch-size {batch_size} does not split over {devices} devices x --accumulate "
                         f"{accumulate}: it must be a multiple of {accumulate * devices}")
