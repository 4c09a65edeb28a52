"""Which part of a training state lives where on a mesh. It follows from paths and shapes; no device is needed.

The mesh has the axes `data`, over which batches are split, and `model`, over which single layers are (tensor
parallelism). Parameters, and with them optimizer state and averages, are whole on every device, or spread over `data`
too (fully sharded data parallelism, FSDP: Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054, stage 3 of
"ZeRO"); either way the numbers are those of one device, to rounding.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

# Smaller arrays stay whole under FSDP: collecting one costs more than the room that it takes.
SMALL = 2**12


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh of `data` times `model` devices and what it is used for.

    shard: "fsdp" spreads parameters, optimizer state and averages over the axis `data`; "none" copies them.
    spread_axis(path): the axis of the array at this path that is spread over `model`, counted from the last; None for
    an array that is not spread.
    """

    data: int
    model: int = 1
    shard: Literal["none", "fsdp"] = "none"
    spread_axis: Callable[[str], int | None] = lambda path: None

    def specs(self, state: Any) -> Any:
        """How each array of a state, or of a part of one, is spread; `state` may hold shapes only.

        Raises ValueError for an array that cannot be spread as `spread_axis` says, and if there is no array to spread.
        """
        specs = jax.tree_util.tree_map_with_path(self._spec, state)
        if self.model > 1 and not any("model" in spec for spec in jax.tree.leaves(specs)):
            raise ValueError(f"mesh model={self.model} is for transformers: this model has no layer to split")
        return specs

    def _spec(self, path: Any, leaf: Any) -> PartitionSpec:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec: list[str | None] = [None] * leaf.ndim
        axis = self.spread_axis(name)
        if self.model > 1 and axis is not None:
            if leaf.shape[axis] % self.model:
                raise ValueError(f"mesh model={self.model} does not divide axis {axis} of {name} {leaf.shape}")
            spec[axis] = "model"
        if self.shard == "fsdp" and self.data > 1 and leaf.size >= SMALL:
            free = [i for i, length in enumerate(leaf.shape) if spec[i] is None and length % self.data == 0]
            if free:
                spec[max(free, key=lambda i: leaf.shape[i])] = "data"
        while spec and spec[-1] is None:
            spec.pop()
        return PartitionSpec(*spec)

    def bytes_per_device(self, state: Any) -> int:
        """The bytes that the arrays of a state, or of a part of one, take on each device, without typed keys."""
        def size(leaf: Any, spec: PartitionSpec) -> int:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return 0
            parts = math.prod(getattr(self, axis) for axis in spec if axis is not None)
            return leaf.size * leaf.dtype.itemsize // parts

        specs = jax.tree_util.tree_map_with_path(self._spec, state)
        return sum(map(size, jax.tree.leaves(state), jax.tree.leaves(specs)))


def parse_mesh(text: str, devices: int) -> int:
    """The size of the axis `model` from words such as `data=4,model=2`; ValueError unless they fit the devices."""
    sizes = {}
    for word in text.split(","):
        name, _, size = word.partition("=")
        if name not in ("data", "model") or name in sizes or not size.isdecimal() or not int(size):
            raise ValueError(f"mesh {text}: it must be data=N,model=M, or one of the two")
        sizes[name] = int(size)
    model = sizes.get("model", devices // sizes.get("data", devices))
    data = sizes.get("data", devices // model)
    if data * model != devices:
        raise ValueError(f"mesh {text}: data times model must be the {devices} devices there are")
    return model


def check_batch_size(batch_size: int, *, accumulate: int, devices: int) -> None:
    """ValueError unless every micro-batch of a step splits evenly over the devices that batches are split over."""
    if batch_size % (accumulate * devices):
        raise ValueError(f"batch_size {batch_size} does not split over {devices} devices x accumulate {accumulate}: "
                         f"it must be a multiple of {accumulate * devices}")
