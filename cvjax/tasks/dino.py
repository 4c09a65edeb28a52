"""DINO self-distillation (Caron et al. 2021, https://arxiv.org/abs/2104.14294, algorithm 1).

The teacher is a running average of the student (`cvjax.tasks.teacher`). It travels in the model state, with the centre
of its answers and the temperature of the next step:

    model_state = {"batch_stats": ...,  # of the student, if it has batch norms
                   "dino": {"teacher": variables, "center": (K,), "temperature": ()}}

As in the authors' code, the teacher's batch norms use the statistics of the batch and keep running ones of their own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cvjax.losses.dino import dino_loss, entropy, teacher_answers, update_center
from cvjax.models.dino import DINO
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
from cvjax.tasks.teacher import ask_teacher, first_teacher, follow_student, without_noise

Schedule = Callable[[jax.Array], Any]  # step, counted from 0, to a number
Views = Callable[[jax.Array, Mapping[str, jax.Array]], Sequence[jax.Array]]


def dino_task(model: DINO, *, views: Views, preprocess: Callable[[jax.Array], jax.Array], teacher_momentum: Schedule,
              teacher_temperature: Schedule, student_temperature: float = 0.1, center_momentum: float | None = 0.9,
              axis_name: str | None = None) -> Task:
    """The student learns to give the teacher's answers from other views of the same image.

    Metrics besides the loss: `teacher_entropy`, the mean entropy of the answers; `kl_to_uniform`, ln K minus the
    entropy of the mean answer; `center_norm`; `top_prototype`, the share of the batch on the most frequent prototype.

    Args:
        views: `views(key, example)` gives the normalised views of one image, one array per size:
            `[(G, g, g, C), (N, l, l, C)]`. The first array holds the global views, which are all that the teacher sees.
            `example` has the arrays of a batch without their first axis.
        preprocess: images uint8 `(B, H, W, C)` to float `(B, H, W, C)`, without randomness, for evaluation.
        teacher_momentum, teacher_temperature: functions of the step.
        center_momentum: None switches centring off; training then collapses.
        axis_name: the mapped axis over which pmap splits the batch.
    """
    teacher_model = model.clone(backbone=without_noise(model.backbone))

    def init(rng: jax.Array, batch: Batch) -> Any:
        images = preprocess(first_images(batch))
        variables = dict(model.init(rng, [images[:, None]]))
        center = jnp.zeros((model.head.out_dim,))
        temperature = jnp.asarray(teacher_temperature(jnp.zeros((), jnp.int32)), jnp.float32)
        return variables | {"dino": {"teacher": first_teacher(variables), "center": center, "temperature": temperature}}

    def loss(params: Any, model_state: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Aux]:
        crops = jax.vmap(views)(example_keys(rng, batch), batch)  # each (B, V, h, w, C)
        dino, student_state = model_state["dino"], {k: v for k, v in model_state.items() if k != "dino"}
        teacher_logits, teacher = ask_teacher(teacher_model, dino["teacher"], crops[:1])
        answers = jax.lax.stop_gradient(teacher_answers(teacher_logits, dino["center"], dino["temperature"]))
        logits, student_state = model.apply({"params": params, **student_state}, crops, train=True,
                                            rngs={"dropout": batch_key(rng, batch)}, mutable=list(student_state))
        losses = dino_loss(logits, answers, student_temperature)
        measured = {"loss": total(losses)} | _watched(answers, dino["center"], axis_name)
        new_state = {**student_state, "dino": dino | {"teacher": teacher}}
        return losses.mean(), Aux(measured, new_state, teacher_logits.mean(axis=(0, 1)))

    def post_update(state: Any, aux: Aux) -> Any:
        dino = state.model_state["dino"]
        keep = teacher_momentum(state.step - 1)  # of the step that was just made
        dino = {"teacher": follow_student(dino["teacher"], state.params, keep),
                "center": dino["center"] if center_momentum is None
                else update_center(dino["center"], aux.extra, center_momentum),
                "temperature": jnp.asarray(teacher_temperature(state.step), jnp.float32)}
        return state.replace(model_state=state.model_state | {"dino": dino})

    def evaluate(variables: Any, batch: Batch) -> Metrics:
        """The loss of the student's answer to each whole image against the teacher's, as if there were two views."""
        images = [preprocess(batch["image"])[:, None]]
        dino = variables["dino"]
        answers = teacher_answers(outputs_of(model, dino["teacher"], images), dino["center"], dino["temperature"])
        logits = outputs_of(model, {k: v for k, v in variables.items() if k != "dino"}, images)
        losses = dino_loss(jnp.concatenate([logits, logits], axis=1), answers, student_temperature)
        return {"loss": masked_sum(losses, batch["mask"]),
                "teacher_entropy": masked_sum(entropy(answers[:, 0]), batch["mask"])}

    return Task(init, loss, evaluate, post_update)


def with_teacher(variables: Any) -> Any:
    """The first variables of a `dino_task`, of which the student's were changed, with a teacher equal to it again."""
    student = {collection: tree for collection, tree in variables.items() if collection != "dino"}
    return student | {"dino": variables["dino"] | {"teacher": first_teacher(student)}}


def _watched(answers: jax.Array, center: jax.Array, axis_name: str | None) -> Metrics:
    """Metrics that show a collapse, from the teacher's answers `(B, G, K)` and the centre used for them."""
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
