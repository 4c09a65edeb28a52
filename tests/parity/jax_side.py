"""cvjax's numbers for a case, in the same form, and how near two sets of numbers have to be."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import ClassifierCase, MaeCase, VitCase
from deterministic_weights import fill, sketch

from cvjax.interop import load_weights, to_state_dict
from cvjax.losses.mae import masked_reconstruction_loss, pixel_target
from cvjax.models import create_model
from cvjax.models.mae import MaskedAutoencoder
from cvjax.models.vit import VisionTransformer

Numbers = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]  # of the reference's parameters


def _numbers(model: Any, variables: Any, outputs: Callable[[Any], dict[str, jax.Array]]) -> Numbers:
    def loss(variables: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        values = outputs(variables)
        return values["loss"], values

    gradients, values = jax.jit(jax.grad(loss, has_aux=True))(variables)
    gradients = {f"gradient/{name}": array for name, array in to_state_dict(gradients, model).items()}
    return gradients | {name: np.asarray(value) for name, value in values.items()}


def _apply(model: Any, variables: Any, inputs: Mapping[str, np.ndarray], method: str) -> tuple[Any, Any]:
    """The model's output, and what one of its methods returned on the way."""
    def watched(module: Any, name: str) -> bool:
        return module.path == () and name == method

    output, state = model.apply(variables, **inputs, train=True, capture_intermediates=watched)
    return output, state["intermediates"][method][0]


def mae_model(case: MaeCase) -> MaskedAutoencoder:
    fields = {name: value for name, value in vars(case).items() if name not in ("name", "normalize")}
    return MaskedAutoencoder(**fields)


def mae_numbers(case: MaeCase, shapes: Shapes) -> Numbers:
    model = mae_model(case)
    inputs = case.inputs()

    def outputs(variables: Any) -> dict[str, jax.Array]:
        (prediction, mask), (latent, _) = _apply(model, variables, inputs, "encode")
        target = pixel_target(inputs["images"], model.patch_size, normalize=case.normalize)
        loss = masked_reconstruction_loss(prediction, target, mask).mean()
        return {"latent": latent, "mask": mask, "prediction": prediction, "loss": loss}

    return _numbers(model, load_weights(model, fill(shapes)), outputs)


def vit_model(case: VitCase) -> VisionTransformer:
    elsewhere = ("name", "input_size", "weights_size", "options")
    fields = {name: value for name, value in vars(case).items() if name not in elsewhere}
    return VisionTransformer(**fields, **case.options)


def vit_numbers(case: VitCase, shapes: Shapes) -> Numbers:
    model = vit_model(case)
    inputs = case.inputs()

    def outputs(variables: Any) -> dict[str, jax.Array]:
        logits, tokens = _apply(model, variables, inputs, "tokens")
        return {"tokens": tokens, "logits": logits, "loss": jnp.square(logits).mean()}

    return _numbers(model, load_weights(model, fill(case.weight_shapes(shapes))), outputs)


def classifier_numbers(case: ClassifierCase, shapes: Shapes) -> Numbers:
    model = create_model(case.model, **case.fields)
    variables = load_weights(model, fill(shapes))
    images = case.inputs()["images"]

    def loss(params: Any) -> tuple[jax.Array, dict[str, Any]]:
        logits, state = model.apply({**variables, "params": params}, images, train=True,
                                    mutable=["batch_stats", "intermediates"])
        value = jnp.square(logits).mean()
        for head in state.pop("intermediates", {}).get("auxiliary", ()):
            value += model.auxiliary_weight * jnp.square(head).mean()
        return value, {"logits": logits, "loss": value, "state": dict(state)}

    logits = jax.jit(model.apply)(variables, images)
    gradients, train = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    numbers = {"eval/logits": logits, "train/logits": train["logits"], "train/loss": train["loss"]}
    for kind, tree in (("gradient", {"params": gradients}), ("statistics", train["state"])):
        numbers |= {f"{kind}/{name}": array for name, array in to_state_dict(tree, model, case.layout).items()}
    return {name: sketch(name, np.asarray(array)) for name, array in numbers.items()}


def state_shapes(numbers: Mapping[str, np.ndarray]) -> Shapes:
    """The reference's parameters and statistics, as `torch_side.classifier_numbers` noted them."""
    return {name.removeprefix("shape/"): tuple(value.tolist()) for name, value in numbers.items()
            if name.startswith("shape/")}


def gradient_shapes(numbers: Mapping[str, np.ndarray]) -> Shapes:
    """The reference's parameters, as its gradients tell."""
    return {name.removeprefix("gradient/"): value.shape for name, value in numbers.items() if "/" in name}


def distances(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Name -> largest difference over largest magnitude.

    Where a gradient is zero but for rounding (the key norm's bias moves no softmax, a bias before a batch norm no
    output), the scale is a thousandth of the largest gradient there is.
    """
    gradients = [np.abs(value).max() for name, value in theirs.items() if name.startswith("gradient/")]
    floor = 1e-3 * max(gradients, default=0.0)
    result = {}
    for name, value in theirs.items():
        if name.startswith("shape/"):
            continue
        scale = max(np.abs(value).max(), floor if name.startswith("gradient/") else 0.0)
        result[name] = float(np.abs(ours[name] - value).max() / scale)
    return result


def assert_same(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], *, forward: float = 1e-5,
                backward: float = 1e-4) -> None:
    """Outputs within `forward` and gradients within `backward` of the reference, relative to its largest magnitude."""
    far = {name: distance for name, distance in distances(ours, theirs).items()
           if not distance <= (backward if name.startswith("gradient/") else forward)}
    assert not far, f"differ from the reference: {far}"
