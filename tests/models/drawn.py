"""Parameters drawn at random in the place of initial ones, so that nothing in a network is without effect."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def random_like(shapes: Any) -> Any:
    """Numbers that leave no parameter without effect, where an initialiser has zeros or is small."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        fan_in = leaf.size // leaf.shape[-1] if len(leaf.shape) > 1 else 10
        return jnp.asarray(rng.standard_normal(leaf.shape) * np.sqrt(2 / fan_in), leaf.dtype)

    return jax.tree.map(draw, shapes)


def balanced_like(shapes: Any) -> Any:
    """Kernels that keep the size of what passes, scales and variances around one, small biases."""
    rng = np.random.default_rng(0)

    def value(path: Any, leaf: Any) -> jax.Array:
        normal = rng.standard_normal(leaf.shape)  # NumPy's arithmetic, which need not be compiled for each shape
        drawn = (normal * np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1
                 else 0.1 * normal + (path[-1].key in ("scale", "var")))
        return jnp.asarray(drawn, leaf.dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)
