"""Distillation: a student learns what a frozen teacher answers to the same pictures.

The teacher's variables travel beside the student's, as what no step changes (`constants` of `cvjax.train.state`): they
get no gradient, and a compiled step takes them as an argument.

    model_state = {"batch_stats": ...,  # of the student, if it has batch norms
                   "teacher": the teacher's variables}

`logits_lesson` and `token_lesson` add to the loss of `cvjax.tasks.supervised`. `feature_task` needs no labels.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.losses.distillation import Distance, feature_distance, hard_label_loss, soft_label_loss
from cvjax.models.projected import Projected
from cvjax.tasks.supervised import TEACHER, Ask, Hard, Lesson, Mix
from cvjax.tasks.task import (
    Aux,
    Batch,
    Metrics,
    Task,
    batch_key,
    example_keys,
    masked_sum,
    outputs_of,
    total,
)


def logits_lesson(ask: Ask, *, temperature: float, hard_weight: float) -> Lesson:
    """The student's logits learn the teacher's (Hinton et al. 2015, sec. 2, https://arxiv.org/abs/1503.02531).

    temperature: see `soft_label_loss`. hard_weight: share of the true labels' loss in [0, 1]; the rest is the
    teacher's.
    """
    def learn(logits: jax.Array, answers: jax.Array, hard: Hard) -> tuple[jax.Array, jax.Array]:
        soft = soft_label_loss(logits, answers, temperature)
        return logits, hard_weight * hard(logits) + (1 - hard_weight) * soft

    return Lesson(ask, learn)


def token_lesson(ask: Ask, *, hard_weight: float) -> Lesson:
    """The distillation token's head learns the teacher's likeliest class, the class token's head the true labels.

    Source: DeiT, Touvron et al. 2021, sec. 4 (https://arxiv.org/abs/2012.12877). The student is a distilled
    `VisionTransformer`; its answers are the mean of both heads' logits.
    """
    def learn(outputs: tuple[jax.Array, jax.Array], answers: jax.Array, hard: Hard) -> tuple[jax.Array, jax.Array]:
        by_class, by_teacher = outputs
        losses = hard_weight * hard(by_class) + (1 - hard_weight) * hard_label_loss(by_teacher, answers)
        return (by_class + by_teacher) / 2, losses

    return Lesson(ask, learn, method="both_logits")


def feature_task(model: Projected, *, ask: Ask, augment: Callable[[jax.Array, jax.Array], jax.Array],
                 preprocess: Callable[[jax.Array], jax.Array], distance: Distance, mix: Mix | None = None) -> Task:
    """Train a backbone, through a linear projection, to give the teacher's features `(B, D)`, without labels.

    The metric `loss` is `feature_distance`, also in evaluations. augment, preprocess and mix: as of `supervised_task`.
    """
    def init(rng: jax.Array, batch: Batch) -> Any:
        return model.init(rng, preprocess(batch["image"]))

    def loss(params: Any, model_state: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Aux]:
        mix_key, dropout_key = jax.random.split(batch_key(rng, batch))
        images = jax.vmap(augment)(example_keys(rng, batch), batch["image"])
        if mix is not None:  # pictures alone: there are no labels to mix
            images, _ = mix(mix_key, images, jnp.zeros((len(images), 1)))
        own = without_teacher(model_state)
        features, new_state = model.apply({"params": params, **own}, images, train=True, rngs={"dropout": dropout_key},
                                          mutable=list(own))
        taught = jax.lax.stop_gradient(ask(model_state[TEACHER], images))
        losses = feature_distance(features, taught, distance)
        return losses.mean(), Aux({"loss": total(losses)}, dict(new_state))

    def evaluate(variables: Any, batch: Batch) -> Metrics:
        images = preprocess(batch["image"])
        features = outputs_of(model, without_teacher(variables), images, train=False)
        losses = feature_distance(features, ask(variables[TEACHER], images), distance)
        return {"loss": masked_sum(losses, batch["mask"])}

    return Task(init, loss, evaluate)


def without_teacher(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The student's own part of variables, or of a model state."""
    return {name: tree for name, tree in variables.items() if name != TEACHER}
