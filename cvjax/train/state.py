"""Everything a training run carries from one step to the next."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


class TrainState(flax.struct.PyTreeNode):
    """A pytree; `rng` is the run's root key and never changes, step keys are `fold_in(rng, step)`."""

    step: jax.Array  # int32 (), optimizer steps done
    params: Any
    model_state: Any  # what else a task carries on: {"batch_stats": ...}, a teacher
    opt_state: Any
    ema: Any  # running average of params and model_state, as {"params": ..., **model_state}; None without
    rng: jax.Array  # typed PRNG key
    constants: Any = flax.struct.field(default_factory=dict)  # what the loss reads and no step changes: {"teacher": its
    # variables}, a frozen network; neither averaged nor in checkpoints

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes for evaluation: the averages where they are kept."""
        return {"params": self.params, **self.model_state} if self.ema is None else self.ema


def create_state(init: Callable[[jax.Array], Any], optimizer: optax.GradientTransformation, rng: jax.Array, *,
                 ema: bool = False, constants: Any = None) -> TrainState:
    """Initial state from `init(rng) -> variables`; pure, so it can be jitted with sharded outputs."""
    params_rng, root = jax.random.split(rng)
    model_state = dict(init(params_rng))
    params = model_state.pop("params")
    averaged = jax.tree.map(jnp.copy, {"params": params, **model_state}) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params), averaged, root,
                      dict(constants or {}))
