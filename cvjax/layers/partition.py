"""Tensor parallelism of transformer blocks (Shoeybi et al. 2019, https://arxiv.org/abs/1909.08053, sec. 3).

Heads and hidden channels are spread over the mesh axis `model`: each device computes its share of them. One sum
over that axis follows the attention and one follows the MLP. Modules mark the arrays that are spread. Without a mesh
axis `model` the marks do nothing.
"""

import re

import jax
from jax.sharding import AxisType, PartitionSpec

AXIS = "model"

# Ends of parameters' paths, and the axis that is spread, counted from the last. `qkv` holds queries, keys and values
# side by side, so its shares are not whole heads. Devices exchange them for whole heads where they are used.
RULES = {
    r"attn/qkv/(kernel|bias|q_bias|v_bias)": -1,
    r"attn/proj/kernel": -2,
    r"mlp/fc1(_g|_x)?/(kernel|bias)": -1,
    r"mlp/fc2/kernel": -2,
}


def spread_axis(path: str) -> int | None:
    """The axis, counted from the last, over which the array at `path` (`params/blocks/0/attn/qkv/kernel`) is spread."""
    return next((axis for end, axis in RULES.items() if re.search(rf"/{end}$", path)), None)


def is_spread(over: str = AXIS) -> bool:
    """Whether there is a mesh axis `over`, so that `spread` does something."""
    mesh = jax.sharding.get_abstract_mesh()
    return over in mesh.axis_names and mesh.axis_types[mesh.axis_names.index(over)] == AxisType.Auto


def spread(x: jax.Array, axis: int, over: str = AXIS) -> jax.Array:
    """`x` with its `axis` spread over the mesh axis `over`, if there is one; its other axes stay as they are.

    Raises ValueError if the length of the mesh axis does not divide that of `axis`.
    """
    if not is_spread(over):
        return x
    mesh = jax.sharding.get_abstract_mesh()
    if x.shape[axis] % mesh.shape[over]:
        raise ValueError(f"mesh axis {over}={mesh.shape[over]} must divide the {x.shape[axis]} "
                         f"{'heads or channels' if over == AXIS else 'examples'} that are to be spread: "
                         f"axis {axis % x.ndim} of {x.shape}")
    spec: list = [PartitionSpec.UNCONSTRAINED] * x.ndim
    spec[axis] = over
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))
