"""Lowers and compiles a whole training step for platforms that this machine need not have."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.errors import ConfigError
from cvjax.train.layout import Layout
from cvjax.train.mesh import MeshEngine
from cvjax.workflow.absent_devices import compile_for_absent
from cvjax.workflow.prepared import Prepared


def lower_step(prepared: Prepared[Any], platforms: Sequence[str]) -> jax.export.Exported:
    """The training step as StableHLO for "cpu", "tpu", "cuda" or "rocm".

    The state's root key travels as its two words, because exported programs take arrays.
    """
    def on_arrays(state: Any, key: jax.Array, batch: Any) -> tuple[Any, Any]:
        state, metrics = prepared.step(state.replace(rng=jax.random.wrap_key_data(key)), batch)
        return state.replace(rng=None), metrics

    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    return jax.export.export(jax.jit(on_arrays), platforms=list(platforms))(
        prepared.state.replace(rng=None), key, prepared.batch)


def compiled_peak(prepared: Prepared[Any], layout: Layout, devices: Sequence[Any]) -> int:
    """Bytes that the training step needs on each of these devices, as their compiler says; arguments included.

    Raises ConfigError if it does not compile, such as one that does not fit the memory.
    """
    engine = MeshEngine(devices=devices, layout=layout)
    lowered = engine.compile_step(prepared.step, prepared.state).lower(prepared.state, prepared.batch)
    try:
        return compile_for_absent(lowered).memory_analysis().peak_memory_in_bytes
    except jax.errors.JaxRuntimeError as problem:
        raise ConfigError(f"the step does not compile: {str(problem).strip().splitlines()[0]}") from None
