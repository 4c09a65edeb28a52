"""A linear probe that trains on augmented images through a frozen network, as it is published.

He et al. 2022, app. A.1 (https://arxiv.org/abs/2111.06377; authors' `main_linprobe.py`): the head is a batch norm
without affine (eps 1e-6) and a linear layer. Caron et al. 2021, sec. 3.2 (https://arxiv.org/abs/2104.14294; authors'
`eval_linear.py`): a linear layer alone. In both, kernels start with a deviation of 0.01 and biases at 0.

The parameters are the heads'. The network's variables travel in the model state, where no gradient is taken and which a
compiled step gets as an argument (a closure would make them constants of the program):

    params      = {"lr=0.1": {"kernel": (D, K), "bias": (K,)}, ...}
    model_state = {"frozen": the network's variables, "batch_stats": the norm's running statistics}

Several heads are several probes at once, each with its learning rate (layer_scale of `cvjax.train.optim`): the sum of
their losses gives each the gradient that it has by itself. Each is a leaf of its own, for LARS takes a norm of each.
Losses cannot overflow, whatever the rate: gradients of softmax regression are bounded.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.norm import BatchNorm
from cvjax.losses.classification import smooth_labels, softmax_cross_entropy, top_k_correct
from cvjax.tasks.task import Aux, Batch, Metrics, Task, example_keys, masked_sum, total


def linear_probe_task(model: nn.Module, *, features: Callable[[Any, jax.Array], jax.Array],
                      augment: Callable[[jax.Array, jax.Array], jax.Array],
                      preprocess: Callable[[jax.Array], jax.Array], num_classes: int, batch_norm: bool,
                      heads: Sequence[str] = ("head",), axis_name: str | None = None) -> Task:
    """Train linear heads on features of a network that stays as it is.

    model: gives `init` its variables, fresh ones; trained ones take their place in `model_state["frozen"]`.
    features(variables, images) -> float32 (B, D), without training mode: its batch norms use running statistics.
    augment(key, image uint8 (H, W, C)) -> float (H', W', C): one training image.
    preprocess(images uint8 (B, H, W, C)) -> float (B, H, W, C): the same without randomness, for evaluation.
    batch_norm: normalise features with the batch's statistics first, and in evaluation with running ones.
    heads: names, without "/"; each head is trained as if alone. Metrics are `loss`, the mean over the heads, and of a
    single head `top1` (and `top5` in evaluation where there are more classes), of several `loss/NAME` and `top1/NAME`.
    axis_name: the mapped axis that the batch is split over under pmap.
    """
    if not heads or len(set(heads)) < len(heads) or any("/" in name or not name for name in heads):
        raise ValueError(f"heads must be one or more different names without '/', received {tuple(heads)}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, received {num_classes}")
    norm = BatchNorm(epsilon=1e-6, affine=False, axis_name=axis_name)

    def init(rng: jax.Array, batch: Batch) -> Any:
        images = preprocess(batch["image"])
        network_key, *keys = jax.random.split(rng, 1 + len(heads))
        frozen = model.init(network_key, images)
        x = jax.eval_shape(features, frozen, images)
        params = {name: {"kernel": 0.01 * jax.random.normal(key, (x.shape[1], num_classes)),
                         "bias": jnp.zeros(num_classes)} for name, key in zip(heads, keys, strict=True)}
        state = norm.init(rng, jnp.zeros(x.shape), train=False) if batch_norm else {}
        return {"params": params, "frozen": frozen, **state}

    def logits(params: Any, x: jax.Array) -> jax.Array:
        """`(heads, B, K)` of features."""
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[name] for name in heads))
        return jax.vmap(lambda head: x @ head["kernel"] + head["bias"])(stacked)

    def measure(answers: jax.Array, labels: jax.Array, summed: Callable, top: Sequence[int]) -> Metrics:
        losses = jnp.stack([softmax_cross_entropy(a, smooth_labels(labels, num_classes)) for a in answers])
        metrics = {"loss": summed(losses.mean(axis=0))}
        for name, answer, loss in zip(heads, answers, losses):
            suffix = f"/{name}" if len(heads) > 1 else ""
            metrics |= {f"loss{suffix}": summed(loss)}
            metrics |= {f"top{k}{suffix}": summed(top_k_correct(answer, labels, k)) for k in top}
        return metrics

    def loss(params: Any, model_state: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Aux]:
        images = jax.vmap(augment)(example_keys(rng, batch), batch["image"])
        x = features(model_state["frozen"], images)
        if batch_norm:
            x, state = norm.apply({"batch_stats": model_state["batch_stats"]}, x, train=True, mutable=["batch_stats"])
            model_state = {**model_state, **state}
        answers = logits(params, x)
        targets = smooth_labels(batch["label"], num_classes)
        value = sum(softmax_cross_entropy(answer, targets).mean() for answer in answers)
        return value, Aux(measure(answers, batch["label"], total, (1,)), model_state)

    def evaluate(variables: Any, batch: Batch) -> Metrics:
        x = features(variables["frozen"], preprocess(batch["image"]))
        if batch_norm:
            x = norm.apply({"batch_stats": variables["batch_stats"]}, x, train=False)
        top = [k for k in (1, 5) if k < num_classes]
        return measure(logits(variables["params"], x), batch["label"],
                       lambda values: masked_sum(values, batch["mask"]), top)

    return Task(init, loss, evaluate)
