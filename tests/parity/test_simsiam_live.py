"""SimSiam against torch, side by side: `pytest -m parity tests/parity` where torch is.

Outputs in training mode, loss and gradients of a step, then parameters and running statistics after several steps of
the optimizer that the experiment builds.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
from deterministic_weights import fill, random

from cvjax.models import create_model
from cvjax.models.simsiam import SimSiam
from cvjax.tasks.simsiam import simsiam_task
from cvjax.train.optim import make_optimizer
from cvjax.train.schedules import make_schedule
from cvjax.train.state import TrainState
from cvjax.train.step import make_train_step
from experiments.wiring.simsiam_pretrain import is_predictor

pytestmark = pytest.mark.parity

BATCH, SIDE, WIDTH, HIDDEN, DIM, PREDICTOR = 16, 4, 10, 12, 8, 4
STEPS, RATE, MOMENTUM, DECAY = 5, 0.1, 0.9, 1e-2
NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    """The module simsiam_reference, which needs torch."""
    pytest.importorskip("torch")
    import simsiam_reference

    return simsiam_reference


@pytest.fixture(scope="module")
def reference(theirs: ModuleType) -> Any:
    """torch's model with weights that nothing else knows, and these weights."""
    import torch

    model = theirs.TorchSimSiam(SIDE * SIDE, WIDTH, HIDDEN, DIM, PREDICTOR)
    start = fill({name: tuple(x.shape) for name, x in model.state_dict().items() if x.ndim})
    model.load_state_dict({name: torch.from_numpy(x) for name, x in start.items()}, strict=False)
    return model, start


def views() -> np.ndarray:
    """Two views of each image that have something in common, float32 `(2, B, pixels)`."""
    drawn = random("views")
    common = drawn.standard_normal((1, BATCH, SIDE * SIDE))
    return (common + 0.5 * drawn.standard_normal((2, BATCH, SIDE * SIDE))).astype(np.float32)


def as_theirs(path: Any, leaf: Any) -> tuple[str, np.ndarray]:
    """A leaf of ours by the name, and in the layout, that torch has it in."""
    *place, name = (entry.key for entry in path)
    return ".".join([*place, NAMES[name]]), np.asarray(leaf).T


def flat(tree: Any) -> dict[str, np.ndarray]:
    return dict(as_theirs(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))


def filled(shapes: Any, start: Mapping[str, np.ndarray]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: start[as_theirs(path, np.empty(leaf.shape))[0]].T, shapes)


def test_a_step_and_the_state_after_several(theirs: ModuleType, reference: Any) -> None:
    torch_model, start = reference
    expected, after = theirs.numbers(torch_model, views(), RATE, STEPS, MOMENTUM, DECAY)
    pairs = views().transpose(1, 0, 2).reshape(BATCH, 2, SIDE, SIDE, 1)
    batch = {"image": np.zeros((BATCH, SIDE, SIDE, 1), np.uint8), "pair": pairs, "index": np.arange(BATCH)}
    backbone = create_model("mlp", hidden=(WIDTH,), image_size=SIDE, in_channels=1, num_classes=0)
    model = SimSiam(backbone, DIM, 3, HIDDEN, PREDICTOR)
    task = simsiam_task(model, views=lambda key, example: example["pair"],
                        preprocess=lambda images: images.astype(np.float32))
    shapes = jax.eval_shape(task.init, jax.random.key(0), batch)
    params, state = (filled(shapes[collection], start) for collection in ("params", "batch_stats"))
    outputs, _ = model.apply({"params": params, "batch_stats": state}, pairs, train=True, mutable=["batch_stats"])
    (value, aux), gradients = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(
        params, {"batch_stats": state}, batch, jax.random.key(0))
    np.testing.assert_allclose(value, expected.pop("loss"), rtol=1e-5)
    for name, ours in zip(("predictions", "projections"), outputs):
        np.testing.assert_allclose(ours, expected.pop(name), rtol=0, atol=1e-5)
    found = {f"gradient/{name}": x for name, x in flat(gradients).items()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=1e-5 + 1e-4 * np.abs(gradient).max())

    schedule = make_schedule("cosine", RATE, warmup_steps=0, total_steps=STEPS)
    optimizer = make_optimizer("momentum", schedule, momentum=MOMENTUM, weight_decay=DECAY, decay="all",
                               own_schedules=[(is_predictor, lambda step: RATE)])
    step = jax.jit(make_train_step(task, optimizer))
    ours = TrainState(np.int32(0), params, {"batch_stats": state}, optimizer.init(params), None, jax.random.key(0))
    for _ in range(STEPS):
        ours, _ = step(ours, batch)
    found = flat(ours.params) | flat(ours.model_state["batch_stats"])
    unused = {name for name in after if name.endswith("num_batches_tracked")}
    assert found.keys() == after.keys() - unused - {"projector.6.bias"}
    # The bias before the last norm, which ours has not, is part of the mean that it keeps.
    remembered = 1 - 0.9 ** (2 * STEPS)
    for name, value in found.items():
        bias = remembered * after["projector.6.bias"] if name == "projector.7.running_mean" else 0.0
        np.testing.assert_allclose(value + bias, after[name], rtol=0, atol=1e-5 + 1e-4 * np.abs(after[name]).max(),
                                   err_msg=name)
