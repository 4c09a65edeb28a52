"""SimSiam: two views of an image predict each other (Chen and He 2021, https://arxiv.org/abs/2011.10566, algorithm 1).

One network sees both views. There is no teacher, no queue and no negative example; the gradient does not flow into the
projections that are predicted.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.losses.simsiam import mean_deviation, simsiam_loss, unit_moments
from cvjax.models.simsiam import SimSiam
from cvjax.tasks.task import (
    Aux,
    Batch,
    Metrics,
    Task,
    batch_key,
    example_keys,
    first_images,
    masked_sum,
    outputs_of,
    total,
)

Views = Callable[[jax.Array, Mapping[str, jax.Array]], jax.Array]


def simsiam_task(model: SimSiam, *, views: Views, preprocess: Callable[[jax.Array], jax.Array],
                 stop_gradient: bool = True, axis_name: str | None = None) -> Task:
    """The network learns to predict from one view of an image its projection of the other.

    Metrics besides the loss: `projection_std`, the deviation of a channel of the projections, scaled to length 1. It is
    about 1 / sqrt(dim) in a healthy network, and falls towards 0 in one that collapses.

    Args:
        views: `views(key, example)` gives two normalised views of one image, `(2, h, w, C)`. `example` has the arrays
            of a batch without their first axis.
        preprocess: images uint8 `(B, H, W, C)` to float `(B, H, W, C)`, without randomness, for evaluation.
        stop_gradient: False lets the gradient into the projections; training then collapses.
        axis_name: the mapped axis over which pmap splits the batch.
    """
    def init(rng: jax.Array, batch: Batch) -> Any:
        return model.init(rng, preprocess(first_images(batch))[:, None])

    def loss(params: Any, model_state: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Aux]:
        pairs = jax.vmap(views)(example_keys(rng, batch), batch)  # (B, 2, h, w, C)
        outputs, model_state = model.apply({"params": params, **model_state}, pairs, train=True,
                                           rngs={"dropout": batch_key(rng, batch)}, mutable=list(model_state))
        predictions, projections = outputs
        losses = simsiam_loss(predictions, projections, stop_gradient)
        moments = unit_moments(projections.reshape(-1, projections.shape[-1]))
        if axis_name is not None:
            moments = jax.lax.pmean(moments, axis_name)
        measured = {"loss": total(losses), "projection_std": (mean_deviation(*moments), jnp.ones(()))}
        return losses.mean(), Aux(measured, model_state)

    def evaluate(variables: Any, batch: Batch) -> Metrics:
        """The loss of each whole image, used as both views."""
        predictions, projections = outputs_of(model, variables, preprocess(batch["image"])[:, None])
        return {"loss": masked_sum(simsiam_loss(predictions, projections), batch["mask"])}

    return Task(init, loss, evaluate)
