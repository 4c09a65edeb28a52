"""The teacher of self-distillation: a network with the student's shape whose parameters follow the student's.

DINO, iBOT and BYOL share it. What the teacher is asked, and what the student makes of its answers, is the task's own.
A teacher is a dict of variables, `{"params": ..., "batch_stats": ...}`. It travels in the model state of the task.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

Network = TypeVar("Network", bound=nn.Module)


def first_teacher(variables: Any) -> Any:
    """A teacher equal to the student: a copy of its variables.

    The training step donates its state, and a donated state must not hold one array twice.
    """
    return jax.tree.map(jnp.copy, variables)


def ask_teacher(network: nn.Module, teacher: Mapping[str, Any], inputs: Any) -> tuple[Any, dict[str, Any]]:
    """The network's outputs with the teacher's variables in training mode, and the teacher after this batch.

    Batch norms use the statistics of the batch and update the teacher's running ones. Parameters do not change.
    """
    outputs, state = network.apply(teacher, inputs, train=True, mutable=[k for k in teacher if k != "params"])
    return outputs, {"params": teacher["params"], **state}


def follow_student(teacher: Mapping[str, Any], params: Any, keep: jax.Array) -> dict[str, Any]:
    """The teacher with parameters `keep * its own + (1 - keep) * the student's`."""
    averaged = jax.tree.map(lambda old, new: old * keep + new * (1 - keep), teacher["params"], params)
    return {**teacher, "params": averaged}


def without_noise(network: Network) -> Network:
    """The network without drop path and dropout: only the student has them."""
    fields = {field.name for field in dataclasses.fields(network)}
    rates: dict[str, Any] = {rate: 0.0 for rate in ("drop_path", "dropout") if rate in fields}
    return network.clone(**rates)
