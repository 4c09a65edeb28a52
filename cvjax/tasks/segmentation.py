"""Semantic segmentation: a class for each pixel."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvjax.losses.segmentation import IGNORE, pixel_cross_entropy, weighted_mean
from cvjax.models.image_model import ImageModel
from cvjax.tasks.task import Aux, Batch, Task, batch_key, example_keys, outputs_of

_EXACT = 2**24  # whole numbers up to this are exact in float32


def confusion_by_example(truth: jax.Array, prediction: jax.Array, num_classes: int) -> jax.Array:
    """Number of pixels of each true class (row) and predicted class (column), per example: int32 `(B, K, K)`.

    truth: int `(B, H, W)` in [0, K), or 255 for a pixel that does not count. prediction: int `(B, H, W)` in [0, K).
    Raises ValueError for images of more than 2^24 pixels.
    """
    if truth.shape[1] * truth.shape[2] > _EXACT:
        raise ValueError(f"images of {truth.shape[1]}x{truth.shape[2]} pixels: their confusion is exact up to {_EXACT}")
    # A product of one-hot matrices; accelerators would do the entries of a scatter one by one. Ones are exact in any
    # type. 255 is not a class, so its one-hot row is zeros.
    rows, columns = (jax.nn.one_hot(labels, num_classes, dtype=jnp.float32) for labels in (truth, prediction))
    return jnp.einsum("bhwt,bhwp->btp", rows, columns).astype(jnp.int32)


def segmentation_task(model: ImageModel, *, augment: Callable[[jax.Array, jax.Array], jax.Array],
                      preprocess: Callable[[jax.Array], jax.Array],
                      scores: Callable[[np.ndarray], dict[str, float]],
                      class_weights: Sequence[float] | None = None, axis_name: str | None = None) -> Task:
    """Train an `ImageModel`: `model.apply(variables, images, train=...) -> logits (B, H, W, num_classes)`.

    The metric `loss` is the main head's loss over all pixels that count, and `pixel_accuracy` is the share of them that
    is right. Auxiliary logits that the model sows (see `cvjax.models.fcn`) add the same loss, times the model's
    `auxiliary_weight`.

    Args:
        augment: key and image uint8 `(H, W, C)` to float `(H, W, C)`. It changes colours only: the host has cropped the
            image together with its label map.
        preprocess: images uint8 `(B, H, W, C)` to float `(B, H, W, C)`, without randomness, for evaluation.
        scores: confusion matrix of the whole data set, int64 `(K, K)` with true classes as rows, to `{name: number}`;
            an evaluation reports these and the loss.
        class_weights: of the loss, float `(K,)`, 0 or more; None for 1.
        axis_name: the mapped axis over which pmap splits the batch. The loss's weights are averaged over it, so each
            pixel of the batch counts the same on any device. Each micro-batch is normalised by itself.
    """
    num_classes = model.num_classes
    auxiliary_weight = model.auxiliary_weight if model.auxiliary_heads else 0.0

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
        logits = outputs_of(model, variables, preprocess(batch["image"]), train=False)
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
