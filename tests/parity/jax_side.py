"""cvjax's numbers for a case, in the same form, and how near two sets of numbers have to be."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import MaeCase, VitCase
from deterministic_weights import fill

from cvjax.interop import load_weights, to_state_dict
from cvjax.losses.mae import masked_reconstruction_loss, pixel_target
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


def gradient_shapes(numbers: Mapping[str, np.ndarray]) -> Shapes:
    """The reference's parameters, as its gradients tell."""
    return {name.removeprefix("gradient/"): value.shape for name, value in numbers.items() if "/" in name}


def distances(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Name -> largest difference over largest magnitude.

    Where a gradient is zero but for rounding (the key norm's bias moves no softmax), the scale is a
    thousandth of the largest gradient there is.
    """
    floor = 1e-3 * max((np.abs(value).max() for name, value in theirs.items() if "/" in name), default=0.0)
    result = {}
    for name, value in theirs.items():
        scale = max(np.abs(value).max(), floor if "/" in name else 0.0)
        result[name] = float(np.abs(ours[name] - value).max() / scale)
    return result


def assert_same(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    """Outputs within 1e-5 and gradients within 1e-4 of the reference, relative to its largest magnitude."""
    far = {name: distance for name, distance in distances(ours, theirs).items()
           if not distance <= (1e-4 if "/" in name else 1e-5)}
    assert not far, f"differ from the reference: {far}"
