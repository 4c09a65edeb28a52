"""Lowering a whole training step for platforms that need not be here."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def lower_step(prepared: Any, platforms: Sequence[str]) -> jax.export.Exported:
    """The step of a `cvjax.experiment.training.Prepared` as StableHLO for "cpu", "tpu", "cuda" or "rocm".

    The state's root key travels as its two words, for exported programs take arrays.
    """
    def on_arrays(state: Any, key: jax.Array, batch: Any) -> tuple[Any, Any]:
        state, metrics = prepared.step(state.replace(rng=jax.random.wrap_key_data(key)), batch)
        return state.replace(rng=None), metrics

    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    return jax.export.export(jax.jit(on_arrays), platforms=list(platforms))(
        prepared.state.replace(rng=None), key, prepared.batch)
