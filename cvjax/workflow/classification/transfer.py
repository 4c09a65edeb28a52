"""Training that starts from learnt weights: freezing some, and a learning rate for each layer."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from cvjax.errors import ConfigError
from cvjax.models.image_model import ImageModel
from cvjax.tasks.lora import Lora, adapted_kernels, lora_start, lora_task
from cvjax.tasks.task import Task
from cvjax.train.optim import head_scale, product, vit_layer_decay
from cvjax.workflow.classification.options import LoraConfig
from cvjax.workflow.config import config_errors

Adapt = Callable[[Any, Any], Any]


def is_head(model: ImageModel, path: str) -> bool:
    """Whether a parameter's path is in the layers that give a model's output."""
    return not set(path.split("/")).isdisjoint(model.output_modules)


def with_parameters(variables: Any, given: Any) -> Any:
    """The variables with some parameters replaced: `given` is a part of their tree."""
    params = flatten_dict(variables["params"]) | flatten_dict(given)
    return {**variables, "params": unflatten_dict(params)}


def module_order(model: ImageModel) -> list[str]:
    """Paths of an image model's modules that hold parameters, in the order in which they are first called."""
    paths: list[str] = []

    def noting(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name == "__call__":
            paths.append("/".join(context.module.path))
        return call(*arguments, **options)

    with nn.intercept_methods(noting):
        names = parameter_shapes(model)
    return [path for path in dict.fromkeys(paths) if path and any(name.startswith(path + "/") for name in names)]


def parameter_shapes(model: ImageModel) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a model's parameters, by path; ConfigError for fields that do not go together."""
    size = model.image_size if isinstance(model.image_size, tuple) else (model.image_size,) * 2
    with config_errors():
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, model.in_channels)))
    return cast(dict[str, jax.ShapeDtypeStruct], flatten_dict(shapes["params"], sep="/"))


def frozen_parameters(freeze: str, model: ImageModel) -> Callable[[str], bool] | None:
    """A function that says of a parameter's path whether it is frozen; None if no parameter is.

    freeze: "none", "backbone" (all but the head) or "up-to:NAME", which freezes the module NAME and all modules called
    before it. Tokens and positions belong to no module and count as the first. The parameters in a model's `frozen` are
    frozen in any case.
    """
    chosen, always = _chosen_parameters(freeze, model), model.frozen
    if not always:
        return chosen
    return lambda path: path in always or (chosen is not None and chosen(path))


def _chosen_parameters(freeze: str, model: ImageModel) -> Callable[[str], bool] | None:
    if freeze == "none":
        return None
    if freeze == "backbone":
        return lambda path: not is_head(model, path)
    kind, _, name = freeze.partition(":")
    if kind != "up-to" or not name:
        raise ConfigError(f"--freeze {freeze}: it must be none, backbone or up-to:NAME")
    order = module_order(model)
    inside = [i for i, path in enumerate(order) if path == name or path.startswith(name + "/")]
    if not inside:
        top = list(dict.fromkeys(path.split("/")[0] for path in order))
        raise ConfigError(f"--freeze {freeze}: the model has no such module; it has {', '.join(top)} and their parts")
    after = set(order[inside[-1] + 1:])

    def frozen(path: str) -> bool:
        parts = path.split("/")
        return not any("/".join(parts[:i]) in after for i in range(1, len(parts) + 1))

    return frozen


def learning_rates(layer_decay: float, backbone_rate: float, model: ImageModel) -> Callable[[str], float] | None:
    """Each path's share of the learning rate; None if every path has the whole rate.

    layer_decay: each layer's rate relative to the next one's; layers are the blocks of a ViT, the stages of a Swin, and
    the top-level modules of other models in the order of the network. backbone_rate: the rate of all but the head,
    relative to the head's.
    """
    scales: list[Callable[[str], float]] = []
    if layer_decay != 1:
        scales.append(_layer_decay(layer_decay, model))
    if backbone_rate != 1:
        scales.append(head_scale(backbone_rate, partial(is_head, model)))
    return product(*scales)


def with_lora(config: LoraConfig, model: ImageModel, task: Task, adapt: Adapt | None, fresh: Collection[str] = ()
              ) -> tuple[Task, Adapt | None, float | None]:
    """The task and its start with the low-rank updates that a configuration asks for, and their alpha, None for none.

    adapt: see `cvjax.workflow.prepared.prepare_training`. fresh: paths of the parameters that the weights lack; they
    learn whole, as the head does. ConfigError if the model cannot have such updates.
    """
    rank = config.lora
    if rank is None:
        return task, adapt, None
    kernels = adapted_kernels(unflatten_dict(parameter_shapes(model), sep="/"), config.lora_layers)
    if not kernels:
        what = "attention kernels" if config.lora_layers == "attention" else "kernels of attention or of MLPs"
        raise ConfigError(f"--lora {rank}: a {type(model).__name__} has no {what}; it is for ViTs and Swins")
    path, kernel = min(kernels.items(), key=lambda each: min(each[1].shape))
    if rank > min(kernel.shape):
        raise ConfigError(f"--lora {rank}: it must be at most {min(kernel.shape)}, the rank that {'/'.join(path)} "
                          f"{kernel.shape} can have")
    others = frozenset(path for path in fresh if not is_head(model, path))
    lora = Lora(rank, float(config.lora_alpha or rank), config.lora_layers,
                lambda path: path in others or is_head(model, path))
    print(f"lora: {len(kernels)} kernels learn an update of rank {rank}, times {lora.alpha / rank:g}"
          + f"; {', '.join(sorted(others))} learn whole, because the weights lack them" * bool(others))
    return lora_task(task, lora), adapt and lora_start(adapt, lora), lora.alpha


def norm_bias_rates(rate: float, model: ImageModel) -> Callable[[str], float] | None:
    """Each path's share of the learning rate: `rate` for biases of normalisation layers, 1 for the rest; None for 1."""
    if rate == 1:
        return None

    def is_norm(module: str) -> bool:
        return module.split("/")[-1].startswith(("bn", "norm"))

    if not any(map(is_norm, module_order(model))):
        raise ConfigError(f"--norm-bias-rate {rate}: it must be 1, because the model has no normalisation layers")

    def scale(path: str) -> float:
        module, _, leaf = path.rpartition("/")
        return rate if leaf == "bias" and is_norm(module) else 1.0

    return scale


def _layer_decay(rate: float, model: ImageModel) -> Callable[[str], float]:
    if model.layer_decay is None:
        raise ConfigError(f"--layer-decay {rate}: it must be 1, because a {type(model).__name__} has no order of "
                          "layers")
    return vit_layer_decay(rate, model.depth) if model.layer_decay == "blocks" else _module_decay(rate, model)


def _module_decay(rate: float, model: ImageModel) -> Callable[[str], float]:
    def layer(path: str) -> str:
        parts = path.split("/")
        return "/".join(parts[:2]) if parts[0] == "layers" else parts[0]  # Swin's stages, and an MLP's layers

    body = [name for name in dict.fromkeys(map(layer, module_order(model))) if not is_head(model, name)]
    body = [name for name in body if not any(other.startswith(name + "/") for other in body)]
    return lambda path: rate ** (len(body) - body.index(layer(path))) if layer(path) in body else 1.0
