"""The linear probes of MAE and DINO: a linear head learns from augmented images, through a frozen network.

He et al. 2022, app. A.1 (https://arxiv.org/abs/2111.06377; authors' `main_linprobe.py`): the head is a batch norm
without affine (eps 1e-6) and a linear layer. Caron et al. 2021, sec. 3.2 (https://arxiv.org/abs/2104.14294; authors'
`eval_linear.py`): the head is only a linear layer. In both, kernels start with a standard deviation of 0.01 and biases
at 0.

Only the heads have parameters. The network's variables travel in the model state: it gets no gradient, and a compiled
step takes it as an argument (variables in a closure would become constants of the program):

    params      = {"lr=0.1": {"kernel": (D, K), "bias": (K,)}, ...}
    model_state = {"frozen": the network's variables, "batch_stats": the norm's running statistics}

Several heads are several probes trained at once, each with its own learning rate (layer_scale of `cvjax.train.optim`).
The loss is the sum of their losses, so each head gets the gradient that it would get by itself. Each head has leaves of
its own because LARS computes a norm per leaf. Losses cannot overflow at any learning rate, since the gradients of
softmax regression are bounded.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cvjax.layers.norm import BatchNorm
from cvjax.losses.classification import smooth_labels, softmax_cross_entropy, top_k_correct
from cvjax.tasks.task import Aux, Batch, Metrics, Task, example_keys, masked_sum, outputs_of, total


def linear_probe_task(model: nn.Module, *, features: Callable[[Any, jax.Array], jax.Array],
                      augment: Callable[[jax.Array, jax.Array], jax.Array],
                      preprocess: Callable[[jax.Array], jax.Array], num_classes: int, batch_norm: bool,
                      heads: Sequence[str] = ("head",), axis_name: str | None = None) -> Task:
    """Train linear heads on the features of a frozen network.

    The metric `loss` is the mean over the heads. One head has `top1`, and in evaluation `top5` if there are more than 5
    classes; several heads have `loss/NAME`, `top1/NAME` and `top5/NAME`.

    Args:
        model: the network. `init` returns fresh variables; put trained ones into `model_state["frozen"]`.
        features: variables and images to float32 `(B, D)`, in evaluation mode.
        augment: key and image uint8 `(H, W, C)` to one training image, float `(H', W', C)`.
        preprocess: images uint8 `(B, H, W, C)` to float `(B, H, W, C)`, without randomness, for evaluation.
        num_classes: K, at least 2.
        batch_norm: normalise features first, in training by the batch's statistics, in evaluation by running ones.
        heads: different names without "/".
        axis_name: the mapped axis over which pmap splits the batch.

    Raises:
        ValueError: for other names, or fewer than 2 classes.
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
        """Logits `(heads, B, K)` of features `(B, D)`."""
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
        value = sum((softmax_cross_entropy(answer, targets).mean() for answer in answers), jnp.zeros(()))
        return value, Aux(measure(answers, batch["label"], total, (1,)), model_state)

    def evaluate(variables: Any, batch: Batch) -> Metrics:
        x = features(variables["frozen"], preprocess(batch["image"]))
        if batch_norm:
            x = outputs_of(norm, {"batch_stats": variables["batch_stats"]}, x, train=False)
        top = [k for k in (1, 5) if k < num_classes]
        return measure(logits(variables["params"], x), batch["label"],
                       lambda values: masked_sum(values, batch["mask"]), top)

    return Task(init, loss, evaluate)
