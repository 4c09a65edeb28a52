"""Supervised learning of images: of classes with soft targets, or of targets that are numbers already."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.layers.norm import frozen_statistics
from cvjax.losses.classification import smooth_labels, softmax_cross_entropy, top_k_correct
from cvjax.models.image_model import ImageModel
from cvjax.tasks.task import Aux, Batch, Metrics, Task, batch_key, example_keys, masked_sum, outputs_of, total

Answer = Callable[[jax.Array], jax.Array]  # images to logits
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

TEACHER = "teacher"  # the place of a frozen teacher's variables in the model state
Ask = Callable[[Any, jax.Array], jax.Array]  # the teacher's variables, the student's images (B, H, W, C), to answers
Hard = Callable[[jax.Array], jax.Array]  # logits (B, K) to losses (B,) against the true labels


@dataclass(frozen=True)
class Lesson:
    """What a frozen teacher adds to supervised learning; `cvjax.tasks.distillation` makes them.

    ask: gives the teacher's logits `(B, K)` for training images as the student sees them, mixed ones too.
    learn(outputs, answers, hard) -> the student's logits `(B, K)`, and losses `(B,)`.
    method: the student's method that gives its outputs in training; None: its logits.
    """

    ask: Ask
    learn: Callable[[Any, jax.Array, Hard], tuple[jax.Array, jax.Array]]
    method: str | None = None


def supervised_task(model: ImageModel, *, augment: Callable[[jax.Array, jax.Array], jax.Array],
                    preprocess: Callable[[jax.Array], jax.Array], label_smoothing: float = 0.0,
                    mix: Mix | None = None,
                    criterion: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
                    scores: Callable[[np.ndarray, np.ndarray], dict[str, float]] | None = None,
                    frozen: Callable[[str], bool] | None = None, batch_norm_group: int | None = None,
                    lesson: Lesson | None = None,
                    predict: Callable[[Answer, jax.Array], jax.Array] = lambda answer, images: answer(images)) -> Task:
    """Train a classifier, an `ImageModel`: `model.apply(variables, images, train=...) -> logits (B, K)`.

    The metric `loss` is the main head's; `top1` counts against the strongest label of a mixed target. Auxiliary logits
    that the model sows (`auxiliary_heads`, for example GoogLeNet) add the same loss, times its `auxiliary_weight`.

    Args:
        augment: key and image uint8 `(H, W, C)` to one training image, float `(H', W', C)`.
        preprocess: images uint8 `(B, H, W, C)` to float `(B, H, W, C)`, without randomness, for evaluation.
        label_smoothing: share of each target that is spread over all classes, in [0, 1).
        mix: key, images and targets to images and targets (mixup, CutMix). None: images stay apart.
        criterion: logits and targets `(B, K)` to losses `(B,)`.
        scores: where the labels of a batch are targets themselves, float32 `(B, K)`: outputs and labels of a whole
            part, float32 `(N, K)`, to `{name: number}`. An evaluation reports these and the loss by `criterion`. None:
            labels are classes, int `(B,)`.
        frozen: path of a layer to bool. Batch norms of frozen layers use their running statistics and do not update
            them.
        batch_norm_group: batch norms see this many images at a time, consecutive ones of the batch, and the running
            statistics are the mean over these groups. None: they see the whole batch. Published ResNets learnt on many
            GPUs, each with statistics of its own 32 images (Goyal et al. 2017, sec. 2.3,
            https://arxiv.org/abs/1706.02677).
        lesson: what a teacher adds, whose variables are in `model_state["teacher"]`. The metric `teacher/top1` counts
            the teacher's hits on the training images, as `top1` the student's: it tells whether the teacher sees its
            images as it learnt to.
        predict: how an evaluation calls the model: `answer` (images to logits) and images to logits `(B, K)`.
    """
    num_classes = model.num_classes
    auxiliary_weight = model.auxiliary_weight if model.auxiliary_heads else 0.0

    def init(rng: jax.Array, batch: Batch) -> Any:
        return model.init(rng, preprocess(batch["image"]))

    def loss(params: Any, model_state: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Aux]:
        mix_key, dropout_key = jax.random.split(batch_key(rng, batch))
        images = jax.vmap(augment)(example_keys(rng, batch), batch["image"])
        targets = batch["label"] if scores else smooth_labels(batch["label"], num_classes, label_smoothing)
        if mix is not None:
            images, targets = mix(mix_key, images, targets)
        own = {name: tree for name, tree in model_state.items() if name != TEACHER}
        mutable = [*own, "intermediates"] if auxiliary_weight else list(own)

        def apply(images: jax.Array, key: jax.Array) -> tuple[Any, Any]:
            return model.apply({"params": params, **own}, images, train=True, rngs={"dropout": key}, mutable=mutable,
                               method=lesson and lesson.method)

        with frozen_statistics(frozen) if frozen else contextlib.nullcontext():
            if batch_norm_group is None:
                outputs, new_state = apply(images, dropout_key)
            else:
                outputs, new_state = _in_groups(apply, images, dropout_key, batch_norm_group)
        new_state = dict(new_state)
        heads = new_state.pop("intermediates", {}).get("auxiliary", ())
        metrics = {}
        if lesson is None:
            logits, losses = outputs, criterion(outputs, targets)
        else:
            taught = jax.lax.stop_gradient(lesson.ask(model_state[TEACHER], images))
            logits, losses = lesson.learn(outputs, taught, lambda logits: criterion(logits, targets))
            metrics["teacher/top1"] = total(top_k_correct(taught, targets.argmax(axis=-1)))
        value = losses.mean() + auxiliary_weight * sum(criterion(head, targets).mean() for head in heads)
        metrics["loss"] = total(losses)
        if scores is None:
            metrics["top1"] = total(top_k_correct(logits, targets.argmax(axis=-1)))
        return value, Aux(metrics, new_state)

    def answers(variables: Any, batch: Batch) -> jax.Array:
        return predict(lambda images: outputs_of(model, variables, images, train=False), preprocess(batch["image"]))

    def evaluate(variables: Any, batch: Batch) -> Metrics:
        logits = answers(variables, batch)
        losses = softmax_cross_entropy(logits, smooth_labels(batch["label"], num_classes))
        metrics = {"loss": masked_sum(losses, batch["mask"])}
        for k in (k for k in (1, 5) if k < num_classes):
            metrics[f"top{k}"] = masked_sum(top_k_correct(logits, batch["label"], k), batch["mask"])
        return metrics

    if scores is None:
        return Task(init, loss, evaluate)

    def examples(variables: Any, batch: Batch) -> dict[str, jax.Array]:
        outputs = answers(variables, batch)
        return {"output": outputs.astype(jnp.float32), "label": batch["label"],
                "loss": criterion(outputs, batch["label"]), "mask": batch["mask"]}

    def summarize(parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
        arrays = list(parts)
        outputs, labels, losses = (np.concatenate([each[name] for each in arrays])
                                   for name in ("output", "label", "loss"))
        return {"loss": float(losses.mean(dtype=np.float64)), **scores(outputs, labels)}

    return Task(init, loss, examples, summarize=summarize)


def _in_groups(apply: Callable[[jax.Array, jax.Array], tuple[Any, Any]], images: jax.Array, key: jax.Array,
               size: int) -> tuple[Any, Any]:
    """`apply` to each `size` images by themselves: outputs `(B, K)`, and a state that is the mean of the
    groups'."""
    if len(images) % size:
        raise ValueError(f"batch_norm_group {size}: it must divide the {len(images)} images that are seen together")
    groups = images.reshape(-1, size, *images.shape[1:])
    outputs, state = jax.vmap(apply)(groups, jax.random.split(key, len(groups)))
    state = dict(state)
    heads = state.pop("intermediates", {})  # they have a row per image
    state = jax.tree.map(lambda x: x.mean(axis=0) if jnp.issubdtype(x.dtype, jnp.inexact) else x[0], state)
    outputs, heads = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (outputs, heads))
    return outputs, {**state, "intermediates": heads}
