"""Pre-training that goes on from learnt weights, whose part stands still until the fresh rest has caught up."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cvjax.errors import ConfigError
from cvjax.workflow.config import ContinuedConfig
from cvjax.workflow.prepared import schedule_of


def with_part(variables: Mapping[str, Any], part: str, learnt: Mapping[str, Any]) -> dict[str, Any]:
    """A network's variables in which the part of this name has learnt ones, `{"params": ...}` with any `batch_stats`.
    """
    return {collection: {**tree, part: learnt[collection]} if collection in learnt else tree
            for collection, tree in variables.items()}


def late_schedules(config: ContinuedConfig, part: str, total_steps: int, images: int
                   ) -> list[tuple[Callable[[str], bool], optax.Schedule]]:
    """The `own_schedules` of `cvjax.train.optim.make_optimizer` by which the learnt part of a network goes on.

    Its learning rate is 0 while the rest warms up. Then the configuration's schedule, with its own warm-up, runs over
    the steps that are left, times `backbone_rate`. An optimizer's moments gather from the first step on.

    images: how many an epoch has. ConfigError for a warm-up that leaves no steps.
    """
    still = round(config.head_warmup_epochs * images / config.batch_size)
    if still >= total_steps:
        raise ConfigError(f"--head-warmup-epochs {config.head_warmup_epochs:g}: it must be less than the run's "
                          f"{total_steps * config.batch_size / images:.2g} epochs")
    later = schedule_of(config, total_steps - still)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        since = jnp.asarray(step) - still
        return jnp.where(since < 0, 0.0, config.backbone_rate * later(jnp.maximum(since, 0)))

    print(f"{part}: learnt; it stands still for {still} of {total_steps} steps, then its learning rate is "
          f"{config.backbone_rate:g} times that of a run of the rest")
    return [(lambda path: path.startswith(f"{part}/"), schedule)]
