"""The contract between what is learnt and the training step."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Batch = Mapping[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count): summed over batches, divided once


class Aux(NamedTuple):
    """What a loss gives besides its value."""

    metrics: Metrics
    model_state: Any  # the other variables after this batch, for example batch statistics
    extra: Any = None  # means over the batch, which `post_update` reads


@dataclass(frozen=True)
class Task:
    """Pure functions. `variables` is a dict of `params` and of the model state, which gradients do not train.

    init(rng, batch) -> variables.
    loss(params, model_state, batch, rng) -> (mean loss of the batch, Aux). What no step changes (a frozen teacher) is
    among `model_state`, and left out of that of `Aux`.
    evaluate(variables, batch) -> Metrics over the rows where `batch["mask"]` is True.
    post_update(state, aux) -> state, called after the optimizer has stepped. None: nothing to do.
    summarize(parts) -> {name: number}, for numbers that are not means over examples (IoU, AP). A task that has it
    returns arrays with one row per example from `evaluate`, `(B, ...)`, and `mask` is one of them. parts: these arrays
    of each batch, on the host, without the rows where `mask` is False.
    """

    init: Callable[[jax.Array, Batch], Any]
    loss: Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, Aux]]
    evaluate: Callable[[Any, Batch], Any]
    post_update: Callable[[Any, Aux], Any] | None = None
    summarize: Callable[[Iterable[Mapping[str, np.ndarray]]], dict[str, float]] | None = None


def outputs_of(model: nn.Module, variables: Any, *inputs: Any, **options: Any) -> Any:
    """`model.apply` where no variable changes. Flax types its result as if a tuple could come back."""
    return model.apply(variables, *inputs, **options)


def example_keys(rng: jax.Array, batch: Batch) -> jax.Array:
    """One key per example, from the step's key and the record's index: keys `(B,)`.

    An example draws the same numbers wherever its row lands, so one device, eight devices and pmap agree. A batch that
    repeats records has a field `copy` `(B,)`, and each copy draws its own numbers.
    """
    keys = jax.vmap(lambda index: jax.random.fold_in(rng, index))(batch["index"])
    return jax.vmap(jax.random.fold_in)(keys, batch["copy"]) if "copy" in batch else keys


def batch_key(rng: jax.Array, batch: Batch) -> jax.Array:
    """One key for numbers that are drawn per batch (dropout, mixup).

    It differs between shards and between micro-batches of one step.
    """
    first = {name: batch[name][:1] for name in ("index", "copy") if name in batch}
    return jax.random.fold_in(example_keys(rng, first)[0], batch["index"].shape[0])


def first_images(batch: Batch) -> jax.Array:
    """An image of each example, uint8 `(B, H, W, C)`, to make parameters with: its first view where it is read as views
    (`global`, uint8 `(B, G, H, W, C)`)."""
    return batch["global"][:, 0] if "global" in batch else batch["image"]


def masked_sum(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum and count of per-example values `(B,)` over the rows where mask `(B,)` is True."""
    # Selected, not multiplied by the mask: a padding row may hold nan.
    return jnp.where(mask, values, 0.0).sum(), mask.astype(jnp.float32).sum()


def total(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum and count of per-example values `(B,)`."""
    return masked_sum(values, jnp.ones(values.shape, bool))
