"""DINO self-distillation (Caron et al. 2021, https://arxiv.org/abs/2104.14294, algorithm 1).

The teacher is a running average of the student. It travels in the model state, with the centre of its answers and the
temperature of the next step:

    model_state = {"batch_stats": ...} of the student, where it has any, and
                  {"dino": {"teacher": variables, "center": (K,), "temperature": ()}}

As in the authors' code the teacher's batch norms use the batch's statistics and keep running ones of their own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.losses.dino import dino_loss, entropy, teacher_answers, update_center
from cvjax.models.dino import DINO
from cvjax.tasks.task import Aux, Batch, Metrics, Task, batch_key, example_keys, masked_sum, total

Schedule = Callable[[jax.Array], jax.Array]  # of the step, from 0
Views = Callable[[jax.Array, Mapping[str, jax.Array]], Sequence[jax.Array]]


def dino_task(model: DINO, *, views: Views, preprocess: Callable[[jax.Array], jax.Array], teacher_momentum: Schedule,
              teacher_temperature: Schedule, student_temperature: float = 0.1, center_momentum: float | None = 0.9,
              axis_name: str | None = None) -> Task:
    """The task of answering as the teacher does, from other views.

    views(key, example) -> the views of one image by size, normalised, `[(G, g, g, C), (N, l, l, C)]`; the global ones
    come first, and they are what the teacher sees. example: a batch's arrays without their first axis.
    preprocess(images uint8 (B, H, W, C)) -> float (B, H, W, C): without randomness, for evaluation.
    teacher_momentum, teacher_temperature: functions of the step. center_momentum: None for no centring; that collapses.
    Metrics besides the loss: `teacher_entropy`, the mean entropy of the answers; `kl_to_uniform`, ln K less the entropy
    of the mean answer; `center_norm`; `top_prototype`, the share of the batch on the commonest prototype.
    axis_name: the mapped axis that the batch is split over under pmap.
    """
    teacher_model = _without_noise(model)

    def init(rng: jax.Array, batch: Batch) -> Any:
        images = preprocess(batch["image"])
        variables = dict(model.init(rng, [images[:, None]]))
        teacher = jax.tree.map(jnp.copy, variables)  # the state is donated: no array may be in it twice
        center = jnp.zeros((model.head.out_dim,))
        temperature = jnp.asarray(teacher_temperature(jnp.zeros((), jnp.int32)), jnp.float32)
        return variables | {"dino": {"teacher": teacher, "center": center, "temperature": temperature}}

    def loss(params: Any, model_state: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Aux]:
        crops = jax.vmap(views)(example_keys(rng, batch), batch)  # each (B, V, h, w, C)
        dino, student_state = model_state["dino"], {k: v for k, v in model_state.items() if k != "dino"}
        teacher_logits, teacher_state = teacher_model.apply(
            dino["teacher"], crops[:1], train=True, mutable=[k for k in dino["teacher"] if k != "params"])
        answers = jax.lax.stop_gradient(teacher_answers(teacher_logits, dino["center"], dino["temperature"]))
        logits, student_state = model.apply({"params": params, **student_state}, crops, train=True,
                                            rngs={"dropout": batch_key(rng, batch)}, mutable=list(student_state))
        losses = dino_loss(logits, answers, student_temperature)
        dino = dino | {"teacher": {"params": dino["teacher"]["params"], **teacher_state}}
        measured = {"loss": total(losses)} | _watched(answers, dino["center"], axis_name)
        return losses.mean(), Aux(measured, {**student_state, "dino": dino}, teacher_logits.mean(axis=(0, 1)))

    def post_update(state: Any, aux: Aux) -> Any:
        dino = state.model_state["dino"]
        keep = teacher_momentum(state.step - 1)  # of the step that was just made
        teacher = jax.tree.map(lambda old, new: old * keep + new * (1 - keep), dino["teacher"]["params"], state.params)
        dino = {"teacher": dino["teacher"] | {"params": teacher},
                "center": dino["center"] if center_momentum is None
                else update_center(dino["center"], aux.extra, center_momentum),
                "temperature": jnp.asarray(teacher_temperature(state.step), jnp.float32)}
        return state.replace(model_state=state.model_state | {"dino": dino})

    def evaluate(variables: Any, batch: Batch) -> Metrics:
        """The loss between two like views of each whole image: the student's answer against the teacher's."""
        images = [preprocess(batch["image"])[:, None]]
        dino = variables["dino"]
        answers = teacher_answers(model.apply(dino["teacher"], images), dino["center"], dino["temperature"])
        logits = model.apply({k: v for k, v in variables.items() if k != "dino"}, images)
        losses = dino_loss(jnp.concatenate([logits, logits], axis=1), answers, student_temperature)
        return {"loss": masked_sum(losses, batch["mask"]),
                "teacher_entropy": masked_sum(entropy(answers[:, 0]), batch["mask"])}

    return Task(init, loss, evaluate, post_update)


def _without_noise(model: DINO) -> DINO:
    """The teacher's network: drop path and dropout are the student's alone."""
    rates = {name: 0.0 for name in ("drop_path", "dropout") if hasattr(model.backbone, name)}
    return model.clone(backbone=model.backbone.clone(**rates))


def _watched(answers: jax.Array, center: jax.Array, axis_name: str | None) -> Metrics:
    """What tells a collapse, of the teacher's answers `(B, G, K)` and the centre they were given with."""
    out_dim = answers.shape[-1]
    mean_answer = answers.mean(axis=(0, 1))
    votes = jnp.bincount(answers.argmax(axis=-1).ravel(), length=out_dim) / answers[..., 0].size
    if axis_name is not None:
        mean_answer, votes = jax.lax.pmean((mean_answer, votes), axis_name)
    one = jnp.ones(())
    return {"teacher_entropy": total(entropy(answers).ravel()),
            "kl_to_uniform": (jnp.log(out_dim) - entropy(mean_answer), one),
            "center_norm": (jnp.linalg.norm(center), one),
            "top_prototype": (votes.max(), one)}
