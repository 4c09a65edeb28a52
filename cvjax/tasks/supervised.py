"""Supervised image classification with soft targets."""

import contextlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from cvjax.layers.norm import frozen_statistics
from cvjax.losses.classification import smooth_labels, softmax_cross_entropy, top_k_correct
from cvjax.tasks.task import Aux, Batch, Metrics, Task, batch_key, example_keys, masked_sum, total

Answer = Callable[[jax.Array], jax.Array]
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def supervised_task(model: nn.Module, *, augment: Callable[[jax.Array, jax.Array], jax.Array],
                    preprocess: Callable[[jax.Array], jax.Array], label_smoothing: float = 0.0,
                    mix: Mix | None = None,
                    criterion: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
                    frozen: Callable[[str], bool] | None = None,
                    predict: Callable[[Answer, jax.Array], jax.Array] = lambda answer, images: answer(images)) -> Task:
    """Train a classifier `model.apply(variables, images, train=...) -> logits (B, K)`.

    augment(key, image uint8 (H, W, C)) -> float (H', W', C): one training image.
    preprocess(images uint8 (B, H, W, C)) -> float (B, H, W, C): the same without randomness, for evaluation.
    mix(key, images, targets) -> (images, targets): mixup, CutMix; None for none. Training accuracy is counted against
    the strongest label.
    criterion(logits, targets (B, K)) -> losses (B,). Auxiliary logits that the model sows (GoogLeNet) are judged by it
    too, each with the model's `auxiliary_weight`; the metric `loss` is the main head's.
    frozen(path): batch norms of frozen layers keep to their running statistics and leave them as they are.
    predict(answer, images) -> logits (B, K): how an evaluation asks the model `answer(images) -> logits`.
    """
    num_classes = model.num_classes
    auxiliary_weight = getattr(model, "auxiliary_weight", 0.0)

    def init(rng: jax.Array, batch: Batch) -> Any:
        return model.init(rng, preprocess(batch["image"]))

    def loss(params: Any, model_state: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Aux]:
        mix_key, dropout_key = jax.random.split(batch_key(rng, batch))
        images = jax.vmap(augment)(example_keys(rng, batch), batch["image"])
        targets = smooth_labels(batch["label"], num_classes, label_smoothing)
        if mix is not None:
            images, targets = mix(mix_key, images, targets)
        mutable = [*model_state, "intermediates"] if auxiliary_weight else list(model_state)
        with frozen_statistics(frozen) if frozen else contextlib.nullcontext():
            logits, new_state = model.apply({"params": params, **model_state}, images, train=True,
                                            rngs={"dropout": dropout_key}, mutable=mutable)
        new_state = dict(new_state)
        heads = new_state.pop("intermediates", {}).get("auxiliary", ())
        losses = criterion(logits, targets)
        value = losses.mean() + auxiliary_weight * sum(criterion(head, targets).mean() for head in heads)
        accuracy = top_k_correct(logits, targets.argmax(axis=-1))
        return value, Aux({"loss": total(losses), "top1": total(accuracy)}, new_state)

    def evaluate(variables: Any, batch: Batch) -> Metrics:
        logits = predict(lambda images: model.apply(variables, images, train=False), preprocess(batch["image"]))
        losses = softmax_cross_entropy(logits, smooth_labels(batch["label"], num_classes))
        metrics = {"loss": masked_sum(losses, batch["mask"])}
        for k in (k for k in (1, 5) if k < num_classes):
            metrics[f"top{k}"] = masked_sum(top_k_correct(logits, batch["label"], k), batch["mask"])
        return metrics

    return Task(init, loss, evaluate)
