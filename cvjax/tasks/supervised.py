"""Supervised image classification with soft targets."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from cvjax.data.augment import mixup
from cvjax.losses.classification import smooth_labels, softmax_cross_entropy, top_k_correct
from cvjax.tasks.task import Aux, Batch, Metrics, Task, batch_key, example_keys, masked_sum, total


def supervised_task(model: nn.Module, *, augment: Callable[[jax.Array, jax.Array], jax.Array],
                    preprocess: Callable[[jax.Array], jax.Array], label_smoothing: float = 0.0,
                    mixup_alpha: float = 0.0) -> Task:
    """Cross-entropy of a classifier `model.apply(variables, images, train=...) -> logits (B, K)`.

    augment(key, image uint8 (H, W, C)) -> float (H', W', C): one training image.
    preprocess(images uint8 (B, H, W, C)) -> float (B, H, W, C): the same without randomness, for evaluation.
    mixup_alpha: 0 for no mixup; training accuracy is then counted against the stronger label.
    """
    num_classes = model.num_classes

    def init(rng: jax.Array, batch: Batch) -> Any:
        return model.init(rng, preprocess(batch["image"]))

    def loss(params: Any, model_state: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Aux]:
        mix_key, dropout_key = jax.random.split(batch_key(rng, batch))
        images = jax.vmap(augment)(example_keys(rng, batch), batch["image"])
        targets = smooth_labels(batch["label"], num_classes, label_smoothing)
        if mixup_alpha:
            images, targets = mixup(mix_key, images, targets, mixup_alpha)
        logits, model_state = model.apply({"params": params, **model_state}, images, train=True,
                                          rngs={"dropout": dropout_key}, mutable=list(model_state))
        losses = softmax_cross_entropy(logits, targets)
        accuracy = top_k_correct(logits, targets.argmax(axis=-1))
        return losses.mean(), Aux({"loss": total(losses), "top1": total(accuracy)}, model_state)

    def evaluate(variables: Any, batch: Batch) -> Metrics:
        logits = model.apply(variables, preprocess(batch["image"]), train=False)
        losses = softmax_cross_entropy(logits, smooth_labels(batch["label"], num_classes))
        metrics = {"loss": masked_sum(losses, batch["mask"])}
        for k in (k for k in (1, 5) if k < num_classes):
            metrics[f"top{k}"] = masked_sum(top_k_correct(logits, batch["label"], k), batch["mask"])
        return metrics

    return Task(init, loss, evaluate)
