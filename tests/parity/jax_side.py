"""cvjax's numbers for a case, in the same form, and how near two sets of numbers have to be."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import ClassifierCase, DinoCase, MaeCase, VitCase
from deterministic_weights import fill, fill_role, sketch

from cvjax.interop import load_weights, to_state_dict
from cvjax.losses.mae import masked_reconstruction_loss, pixel_target
from cvjax.models import create_model
from cvjax.models.dino import DINO, DINOHead
from cvjax.models.mae import MaskedAutoencoder
from cvjax.models.vit import VisionTransformer
from cvjax.tasks.dino import dino_task
from cvjax.train.optim import make_optimizer
from cvjax.train.schedules import cosine_between, stairs
from cvjax.train.state import TrainState
from cvjax.train.step import make_train_step

Numbers = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]  # of the reference's parameters


# Compiled for a call or two: optimising would take longer than it saves.
_once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _numbers(model: Any, variables: Any, outputs: Callable[[Any], dict[str, jax.Array]]) -> Numbers:
    def loss(variables: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        values = outputs(variables)
        return values["loss"], values

    gradients, values = _once(jax.grad(loss, has_aux=True))(variables)
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
    """In float64 but for the logits, which models give in float32.

    A batch norm over few numbers passes rounding on enlarged, tenfold and more in a chain of them, and a ReLU near zero
    is on or off by it; so float32 would test the processor's order of sums, not the network.
    """
    with jax.enable_x64(True):
        model = create_model(case.model, **case.fields, dtype=jnp.float64)
        variables = jax.tree.map(partial(np.asarray, dtype=np.float64), load_weights(model, fill(shapes)))
        images = case.inputs()["images"].astype(np.float64)

        def loss(params: Any) -> tuple[jax.Array, dict[str, Any]]:
            logits, state = model.apply({**variables, "params": params}, images, train=True,
                                        mutable=["batch_stats", "intermediates"])
            value = jnp.square(logits).mean()
            for head in state.pop("intermediates", {}).get("auxiliary", ()):
                value += model.auxiliary_weight * jnp.square(head).mean()
            return value, {"logits": logits, "loss": value, "state": dict(state)}

        logits = jax.jit(model.apply)(variables, images)
        gradients, train = _once(jax.grad(loss, has_aux=True))(variables["params"])
    numbers = {"eval/logits": logits, "train/logits": train["logits"], "train/loss": train["loss"]}
    for kind, tree in (("gradient", {"params": gradients}), ("statistics", train["state"])):
        numbers |= {f"{kind}/{name}": array for name, array in to_state_dict(tree, model, case.layout).items()}
    return {name: sketch(name, np.asarray(array)) for name, array in numbers.items()}


def dino_model(case: DinoCase) -> DINO:
    return DINO(create_model(case.model, num_classes=0, **case.fields), DINOHead(**case.head()))


def dino_numbers(case: DinoCase, shapes: Shapes) -> Numbers:
    """By the task and the training step that experiments use; the views are in the batch."""
    model = dino_model(case)
    task = dino_task(
        model, views=lambda key, example: [example[f"views{i}"] for i in range(len(case.views))], preprocess=None,
        teacher_momentum=cosine_between(*case.teacher_momentum, case.total_steps),
        teacher_temperature=stairs(*case.teacher_temperature, 1), student_temperature=case.student_temperature,
        center_momentum=case.center_momentum)
    optimizer = make_optimizer(
        "adamw", cosine_between(*case.learning_rate, case.total_steps), eps=case.eps, clip_each=case.clip_each,
        weight_decay=cosine_between(*case.weight_decay, case.total_steps),
        held=(lambda path: "last_layer" in path.split("/"), case.held_steps))

    def batch(step: int) -> dict[str, np.ndarray]:
        views = {f"views{i}": np.swapaxes(x, 0, 1) for i, x in enumerate(case.inputs(step))}
        return {"image": np.zeros((case.batch, 1, 1, 1), np.uint8), "index": np.arange(case.batch), **views}

    student, teacher = (load_weights(model, fill_role(shapes, role)) for role in ("student", "teacher"))
    params, student_state = student["params"], {kind: tree for kind, tree in student.items() if kind != "params"}
    dino = {"teacher": teacher, "center": jnp.asarray(case.center()),
            "temperature": jnp.float32(case.teacher_temperature[0])}
    state = TrainState(jnp.int32(0), params, {**student_state, "dino": dino}, optimizer.init(params), None,
                       jax.random.key(0))

    def named(prefix: str, variables: Any) -> Numbers:
        return {f"{prefix}/{name}": array for name, array in to_state_dict(variables, model).items()}

    loss = _once(jax.value_and_grad(task.loss, has_aux=True))
    (value, aux), gradients = loss(params, state.model_state, batch(0), state.rng)
    numbers = {"loss/0": value, **named("gradient", {"params": gradients})}
    for role, network in (("student", aux.model_state), ("teacher", aux.model_state["dino"]["teacher"])):
        if "batch_stats" in network:
            numbers |= named(f"statistics/{role}", {"batch_stats": network["batch_stats"]})
    # Not compiled: then no two operations are fused, and the average is the reference's bit for bit.
    moved = task.post_update(state.replace(step=state.step + 1, model_state=aux.model_state), aux).model_state["dino"]
    numbers |= {"center": moved["center"], **named("average", {"params": moved["teacher"]["params"]})}

    if case.steps > 1:
        step = _once(make_train_step(task, optimizer))
        for number in range(case.steps):
            state, metrics = step(state, batch(number))
            numbers[f"loss/{number}"] = metrics["loss"][0] / metrics["loss"][1]
        dino = state.model_state["dino"]
        numbers |= {"after/center": dino["center"], **named("after/student", {"params": state.params}),
                    **named("after/teacher", {"params": dino["teacher"]["params"]})}
    return {name: sketch(name, np.asarray(array)) for name, array in numbers.items()}


def state_shapes(numbers: Mapping[str, np.ndarray]) -> Shapes:
    """The reference's parameters and statistics, as torch_side noted them."""
    return {name.removeprefix("shape/"): tuple(value.tolist()) for name, value in numbers.items()
            if name.startswith("shape/")}


def gradient_shapes(numbers: Mapping[str, np.ndarray]) -> Shapes:
    """The reference's parameters, as its gradients tell."""
    return {name.removeprefix("gradient/"): value.shape for name, value in numbers.items() if "/" in name}


def distances(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], zero: float = 1e-3,
              ) -> dict[str, float]:
    """Name -> largest difference over largest magnitude.

    Where a gradient is zero but for rounding (the key norm's bias moves no softmax, a bias before a batch norm no
    output), the scale is the share `zero` of the largest gradient there is.
    """
    gradients = [np.abs(value).max() for name, value in theirs.items() if name.startswith("gradient/")]
    floor = zero * max(gradients, default=0.0)
    result = {}
    for name, value in theirs.items():
        if name.startswith("shape/"):
            continue
        scale = max(np.abs(value).max(), floor if name.startswith("gradient/") else 0.0)
        result[name] = float(np.abs(ours[name] - value).max() / scale)
    return result


def assert_same(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], *, forward: float = 1e-5,
                backward: float = 1e-4, zero: float = 1e-3) -> None:
    """Outputs within `forward`, gradients and what they moved (`after/`) within `backward` of the reference, relative
    to its largest magnitude."""
    far = {name: distance for name, distance in distances(ours, theirs, zero).items()
           if not distance <= (backward if name.startswith(("gradient/", "after/")) else forward)}
    assert not far, f"differ from the reference: {far}"


def assert_same_dino(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    """`assert_same`; and a teacher that moved towards a student of the same bits has the same bits.

    The two biases in front of the head's batch norms have gradients of 1e-7, beside a largest of 2: a sum of roundings.
    """
    assert_same(ours, theirs, zero=1e-2)
    for name, value in theirs.items():
        if name.startswith("average/"):
            np.testing.assert_array_equal(ours[name], value, err_msg=name)
