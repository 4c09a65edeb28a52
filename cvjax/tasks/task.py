"""The contract between what is learnt and the training step."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Batch = Mapping[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count): summed over batches, divided once


class Aux(NamedTuple):
    """What a loss gives besides its value."""

    metrics: Metrics
    model_state: Any  # the other variables after this batch, for example batch statistics
    extra: Any = None  # for `post_update`: means over the batch


@dataclass(frozen=True)
class Task:
    """Pure functions; `variables` is a dict of `params` and the model state: all that gradients do not train.

    init(rng, batch) -> variables.
    loss(params, model_state, batch, rng) -> (mean loss of the batch, Aux).
    evaluate(variables, batch) -> Metrics over the rows where `batch["mask"]` is True.
    post_update(state, aux) -> state, after the optimizer has stepped; None for nothing to do.
    summarize(parts) -> {name: number}, for what is no mean of examples (IoU, AP). With it `evaluate` gives arrays by
    example, `(B, ...)`, `mask` among them; parts: those of each batch, on the host, without the rows where it is False.
    """

    init: Callable[[jax.Array, Batch], Any]
    loss: Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, Aux]]
    evaluate: Callable[[Any, Batch], Any]
    post_update: Callable[[Any, Aux], Any] | None = None
    summarize: Callable[[Iterable[Mapping[str, np.ndarray]]], dict[str, float]] | None = None


def example_keys(rng: jax.Array, batch: Batch) -> jax.Array:
    """One key per example, from the step's key and the record's index: keys `(B,)`.

    An example draws the same numbers wherever its row lands, so one device, eight devices and pmap agree. Where a batch
    repeats records, it has `copy` `(B,)`, and each copy draws its own.
    """
    keys = jax.vmap(lambda index: jax.random.fold_in(rng, index))(batch["index"])
    return jax.vmap(jax.random.fold_in)(keys, batch["copy"]) if "copy" in batch else keys


def batch_key(rng: jax.Array, batch: Batch) -> jax.Array:
    """One key for what is drawn per batch (dropout, mixup); differs between shards and micro-batches of one step."""
    first = {name: batch[name][:1] for name in ("index", "copy") if name in batch}
    return jax.random.fold_in(example_keys(rng, first)[0], batch["index"].shape[0])


def masked_sum(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum and count of per-example values `(B,)` over the rows where mask `(B,)` is True."""
    # Chosen, not multiplied: a padding row may hold nan.
    return jnp.where(mask, values, 0.0).sum(), mask.astype(jnp.float32).sum()


def total(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum and count of per-example values `(B,)`."""
    return masked_sum(values, jnp.ones(values.shape, bool))
