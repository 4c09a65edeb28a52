"""LoRA: Low-Rank Adaptation of Large Language Models (Hu et al. 2021, https://arxiv.org/abs/2106.09685), of any task.

A pre-trained kernel W `(D, K)` stands still. It learns an update of rank r, W + alpha / r A B (sec. 4.1, eq. 3), of
which A `(D, r)` is drawn at random and B `(r, K)` starts at 0, so that training starts at the pre-trained network. The
head learns whole, and so does what the pre-trained weights lack; all else stands still, too.

The network does not know of it: kernels are merged before each call, so that every model, and whatever a model can do,
stays as it is. Only what learns is in `params`, under the paths of the network. The rest travels in the model state, as
in `cvjax.tasks.linear_probe`: it gets no gradient and no optimizer state, and keeps every bit:

    params      = {"blocks": {"0": {"attn": {"qkv": {"lora_a": (D, r), "lora_b": (r, 3D)}, ...}}}, "head": {...}}
    model_state = {"frozen": {"params": all other parameters}, ...}

A step forms the gradient of each merged kernel, from which those of A and B follow. The other way, x A B beside x W,
spares this one product but needs a change in each layer.

Deviations: queries, keys and values are one kernel, as in published weights, and have one A; in the paper each has its
own, and only queries and values learn in most experiments. A starts as in the authors' code, uniform within
1 / sqrt(D); the paper says Gaussian. There is no dropout before A.
"""

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from cvjax.tasks.task import Aux, Batch, Metrics, Task

LoraLayers = Literal["attention", "all"]
Path = tuple[str, ...]

A, B = "lora_a", "lora_b"
# Ends of the paths of the layers that learn, as `cvjax.layers` names them.
LAYERS: dict[LoraLayers, str] = {"attention": r"attn/(qkv|proj)", "all": r"(attn/(qkv|proj)|mlp/(fc1|fc2))"}


class Lora(NamedTuple):
    """What learns.

    rank: r, at least 1. alpha: A B is multiplied by alpha / r. layers: whose kernels learn an update, those of the
    attention, or also those of the MLPs. is_whole(path): whether a parameter learns whole, as those of the head do.
    """

    rank: int
    alpha: float
    layers: LoraLayers
    is_whole: Callable[[str], bool]


def adapted_kernels(params: Any, layers: LoraLayers) -> dict[Path, Any]:
    """The kernels `(D, K)` that learn an update, path -> array or shape; empty where the network has none."""
    return {path: leaf for path, leaf in _flat(params).items()
            if re.search(rf"(^|/){LAYERS[layers]}/kernel$", "/".join(path))}


def lora_task(task: Task, lora: Lora) -> Task:
    """`task` with only low-rank updates and the head to learn; see above for its parameters and its model state.

    ValueError for a task with a `post_update`, which would read parameters that are no longer there.
    """
    if task.post_update is not None:
        raise ValueError("lora_task: the task has a post_update; it must be one without")

    def init(rng: jax.Array, batch: Batch) -> Any:
        variables = task.init(rng, batch)
        return _split(variables, _draw(variables["params"], lora, jax.random.fold_in(rng, 0)), lora)

    def loss(params: Any, model_state: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Aux]:
        own = {name: tree for name, tree in model_state.items() if name != "frozen"}
        whole = merged({"params": params, "frozen": model_state["frozen"]}, lora.alpha)["params"]
        value, aux = task.loss(whole, own, batch, rng)
        return value, aux._replace(model_state={**aux.model_state, "frozen": model_state["frozen"]})

    def evaluate(variables: Any, batch: Batch) -> Metrics:
        return task.evaluate(merged(variables, lora.alpha), batch)

    return Task(init, loss, evaluate, summarize=task.summarize)


def lora_start(adapt: Callable[[Any, Any], Any], lora: Lora) -> Callable[[Any, Any], Any]:
    """`adapt(fresh, pretrained)`, which puts pre-trained parameters into a network's fresh ones, for `lora_task`."""
    def start(fresh: Any, pretrained: Any) -> Any:
        updates = {path: leaf for path, leaf in _flat(fresh["params"]).items() if path[-1] in (A, B)}
        return _split(adapt(merged(fresh, lora.alpha), pretrained), updates, lora)

    return start


def merged(variables: Any, alpha: float) -> dict[str, Any]:
    """The network's variables: kernels W + alpha / r A B in `params`, and no `frozen`.

    The product is float32 on all devices. While B is 0, the kernels equal W.
    """
    learnt, whole = _flat(variables["params"]), _flat(variables["frozen"]["params"])
    for path, leaf in learnt.items():
        if path[-1] == A:
            update = jnp.matmul(leaf, learnt[(*path[:-1], B)], precision="highest")
            kernel = (*path[:-1], "kernel")
            whole[kernel] = whole[kernel] + alpha / leaf.shape[1] * update
        elif path[-1] != B:
            whole[path] = leaf
    others = {name: tree for name, tree in variables.items() if name not in ("params", "frozen")}
    return {"params": unflatten_dict(whole), **others}


def _flat(tree: Any) -> dict[Path, Any]:
    return cast(dict[Path, Any], flatten_dict(tree))  # flax types the leaves as if they could be dicts


def _draw(params: Any, lora: Lora, rng: jax.Array) -> dict[Path, jax.Array]:
    """Updates of all kernels that have one, path -> array, all of them 0."""
    updates = {}
    kernels = adapted_kernels(params, lora.layers)
    for key, (path, kernel) in zip(jax.random.split(rng, len(kernels)), sorted(kernels.items()), strict=True):
        inputs, outputs = kernel.shape
        bound = inputs**-0.5
        updates[(*path[:-1], A)] = jax.random.uniform(key, (inputs, lora.rank), kernel.dtype, -bound, bound)
        updates[(*path[:-1], B)] = jnp.zeros((lora.rank, outputs), kernel.dtype)
    return updates


def _split(variables: Any, updates: dict[Path, jax.Array], lora: Lora) -> dict[str, Any]:
    """A network's variables as what learns and what stands still."""
    params = _flat(variables["params"])
    whole = {path: leaf for path, leaf in params.items() if lora.is_whole("/".join(path))}
    still = {path: leaf for path, leaf in params.items() if path not in whole}
    return {**variables, "params": unflatten_dict(whole | updates), "frozen": {"params": unflatten_dict(still)}}
