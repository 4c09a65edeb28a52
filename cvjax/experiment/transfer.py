"""Starting from weights that were learnt elsewhere: what is loaded, what is frozen, what learns how fast."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from cvjax.experiment.config import ConfigError
from cvjax.train.optim import HEADS, head_scale, vit_layer_decay


def is_head(path: str) -> bool:
    """Whether a parameter's path is in the layers that give a model's output."""
    return bool(set(path.split("/")) & set(HEADS))


def load_pretrained(source: str, model: nn.Module, seed: int) -> Any:
    """The model's variables from a weight file, `hf-hub:OWNER/NAME`, or a run's folder: supervised, MAE or DINO.

    A head that is missing or of other classes starts fresh, and is named in a warning.
    """
    from cvjax.experiment.classifier import EXPERIMENTS, load_classifier
    from cvjax.experiment.encoder import load_encoder
    from cvjax.interop import load_weights, to_state_dict
    from cvjax.train.checkpoint import read_meta

    weights: Any = source
    try:
        if Path(source).is_dir():
            folder = Path(source) / "checkpoints"
            pretraining = folder.is_dir() and read_meta(folder).get("experiment") not in EXPERIMENTS
            trained = load_encoder(Path(source)) if pretraining else load_classifier(Path(source))
            weights = to_state_dict(trained.variables, trained.model)
        return load_weights(model, weights, rng=jax.random.key(seed))
    except (ValueError, OSError) as error:
        raise ConfigError(f"--pretrained {source}: {str(error).splitlines()[0]}") from None


def with_parameters(variables: Any, given: Any) -> Any:
    """The variables with some parameters replaced: `given` is a part of their tree."""
    params = flatten_dict(variables["params"]) | flatten_dict(given)
    return {**variables, "params": unflatten_dict(params)}


def module_order(model: nn.Module) -> list[str]:
    """Paths of an image model's modules that hold parameters, in the order in which they are first called."""
    paths: list[str] = []

    def noting(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name == "__call__":
            paths.append("/".join(context.module.path))
        return call(*arguments, **options)

    size = model.image_size if isinstance(model.image_size, tuple) else (model.image_size,) * 2
    with nn.intercept_methods(noting):
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, model.in_channels)))
    names = ["/".join(path) for path in flatten_dict(shapes["params"])]
    return [path for path in dict.fromkeys(paths) if path and any(name.startswith(path + "/") for name in names)]


def frozen_parameters(freeze: str, model: nn.Module) -> Callable[[str], bool] | None:
    """Which paths `--freeze` holds still: "none", "backbone" (all but the head) or "up-to:NAME".

    "up-to:NAME" freezes the module NAME and all that is called before it; tokens and positions belong to no module and
    count as the first. Parameters that a model names in `frozen` are held still in any case.
    """
    chosen, always = _chosen_parameters(freeze, model), getattr(model, "frozen", ())
    if not always:
        return chosen
    return lambda path: path in always or (chosen is not None and chosen(path))


def _chosen_parameters(freeze: str, model: nn.Module) -> Callable[[str], bool] | None:
    if freeze == "none":
        return None
    if freeze == "backbone":
        return lambda path: not is_head(path)
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


def learning_rates(layer_decay: float, backbone_rate: float, model: nn.Module) -> Callable[[str], float] | None:
    """Each path's share of the learning rate; None where all have the whole.

    layer_decay: each layer's rate relative to the next one's; layers are the blocks of a ViT, the stages of a Swin, and
    the top-level modules of other models in the order of the network. backbone_rate: all but the head relative to the
    head.
    """
    scales: list[Callable[[str], float]] = []
    if layer_decay != 1:
        scales.append(vit_layer_decay(layer_decay, model.depth) if hasattr(model, "depth")
                      else _module_decay(layer_decay, model))
    if backbone_rate != 1:
        scales.append(head_scale(backbone_rate, is_head))
    if not scales:
        return None

    def scale(path: str) -> float:
        product = 1.0
        for each in scales:
            product *= each(path)
        return product

    return scale


def norm_bias_rates(rate: float, model: nn.Module) -> Callable[[str], float] | None:
    """Each path's share of the learning rate: `rate` for biases of normalisation layers, 1 for the rest; None for 1."""
    if rate == 1:
        return None

    def is_norm(module: str) -> bool:
        return module.split("/")[-1].startswith(("bn", "norm"))

    if not any(map(is_norm, module_order(model))):
        raise ConfigError(f"--norm-bias-rate {rate}: it must be 1, the model has no normalisation layers")

    def scale(path: str) -> float:
        module, _, leaf = path.rpartition("/")
        return rate if leaf == "bias" and is_norm(module) else 1.0

    return scale


def _module_decay(rate: float, model: nn.Module) -> Callable[[str], float]:
    def layer(path: str) -> str:
        parts = path.split("/")
        return "/".join(parts[:2]) if parts[0] == "layers" else parts[0]  # Swin's stages, and an MLP's layers

    body = [name for name in dict.fromkeys(map(layer, module_order(model))) if not is_head(name)]
    body = [name for name in body if not any(other.startswith(name + "/") for other in body)]
    return lambda path: rate ** (len(body) - body.index(layer(path))) if layer(path) in body else 1.0
