"""Semantic segmentation: a class for each pixel."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cvjax.losses.segmentation import IGNORE, pixel_cross_entropy, weighted_mean
from cvjax.tasks.task import Aux, Batch, Task, batch_key, example_keys

_EXACT = 2**24  # whole numbers up to this are exact in float32


def confusion_by_example(truth: jax.Array, prediction: jax.Array, num_classes: int) -> jax.Array:
    """Pixels by true (row) and said (column) class of each example: int32 `(B, K, K)`.

    truth: int `(B, H, W)` in [0, K), 255 where a pixel does not count. prediction: int `(B, H, W)` in [0, K).
    Raises ValueError for images of more than 2^24 pixels.
    """
    if truth.shape[1] * truth.shape[2] > _EXACT:
        raise ValueError(f"images of {truth.shape[1]}x{truth.shape[2]} pixels: their confusion is exact up to {_EXACT}")
    # A product of one-hot matrices and not a scatter, which accelerators do one by one. Ones are exact in any type, and
    # 255 is no class: its row of the matrix is zeros.
    rows, columns = (jax.nn.one_hot(labels, num_classes, dtype=jnp.float32) for labels in (truth, prediction))
    return jnp.einsum("bhwt,bhwp->btp", rows, columns).astype(jnp.int32)


def segmentation_task(model: nn.Module, *, augment: Callable[[jax.Array, jax.Array], jax.Array],
                      preprocess: Callable[[jax.Array], jax.Array],
                      scores: Callable[[np.ndarray], dict[str, float]],
                      class_weights: Sequence[float] | None = None, axis_name: str | None = None) -> Task:
    """Train `model.apply(variables, images, train=...) -> logits (B, H, W, K)`, K the model's `num_classes`.

    augment(key, image uint8 (H, W, C)) -> float (H, W, C): the colours of one training image; its geometry is done.
    preprocess(images uint8 (B, H, W, C)) -> float (B, H, W, C): the same without randomness, for evaluation.
    scores(confusion int64 (K, K)) -> {name: number}: what an evaluation says of the whole data set's matrix, true class
    by row, beside the `loss`.
    class_weights: of the loss, `(K,)`. Auxiliary logits that the model sows (see `cvjax.models.fcn`) are judged alike,
    each with the model's `auxiliary_weight`.
    axis_name: the mapped axis under pmap, over which the loss's weights are averaged, so that each pixel of a batch
    counts the same wherever it is; micro-batches are normalised each by itself.

    The metric `loss` is the main head's over all counted pixels, `pixel_accuracy` the share of them that is right.
    """
    num_classes = model.num_classes
    auxiliary_weight = getattr(model, "auxiliary_weight", 0.0)

    def init(rng: jax.Array, batch: Batch) -> Any:
        return model.init(rng, preprocess(batch["image"]))

    def loss(params: Any, model_state: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Aux]:
        images, labels = jax.vmap(augment)(example_keys(rng, batch), batch["image"]), batch["label_map"]
        mutable = [*model_state, "intermediates"] if auxiliary_weight else list(model_state)
        logits, new_state = model.apply({"params": params, **model_state}, images, train=True,
                                        rngs={"dropout": batch_key(rng, batch)}, mutable=mutable)
        new_state = dict(new_state)
        heads = new_state.pop("intermediates", {}).get("auxiliary", ())
        sums, weights = pixel_cross_entropy(logits, labels, class_weights)
        weight = weights.sum() if axis_name is None else jax.lax.pmean(weights.sum(), axis_name)
        value = weighted_mean(sums.sum(), weight)
        for head in heads:
            value += auxiliary_weight * weighted_mean(pixel_cross_entropy(head, labels, class_weights)[0].sum(), weight)
        counted = labels != IGNORE
        right = counted & (logits.argmax(axis=-1) == labels)
        metrics = {"loss": (sums.sum(), weights.sum()),
                   "pixel_accuracy": (right.sum(dtype=jnp.float32), counted.sum(dtype=jnp.float32))}
        return value, Aux(metrics, new_state)

    def evaluate(variables: Any, batch: Batch) -> dict[str, jax.Array]:
        logits = model.apply(variables, preprocess(batch["image"]), train=False)
        loss, weight = pixel_cross_entropy(logits, batch["label_map"], class_weights)
        confusion = confusion_by_example(batch["label_map"], logits.argmax(axis=-1), num_classes)
        return {"confusion": confusion, "loss": loss, "weight": weight, "mask": batch["mask"], "index": batch["index"]}

    def summarize(parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
        confusion, loss, weight = np.zeros((num_classes, num_classes), np.int64), 0.0, 0.0
        for part in parts:
            confusion += part["confusion"].sum(axis=0, dtype=np.int64)
            loss += part["loss"].sum(dtype=np.float64)
            weight += part["weight"].sum(dtype=np.float64)
        return {"loss": loss / weight if weight else np.nan} | scores(confusion)

    return Task(init, loss, evaluate, summarize=summarize)
