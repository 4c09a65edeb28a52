"""SimSiam as a task: what is compared with what, which parameters learn, and what is measured."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.losses.simsiam import simsiam_loss
from cvjax.models import create_model
from cvjax.models.simsiam import SimSiam
from cvjax.tasks.simsiam import simsiam_task
from cvjax.tasks.task import Task
from tests.models.drawn import balanced_like

BATCH, SIZE, DIM = 4, 8, 6
ONCE = {"xla_backend_optimization_level": 0}  # compiled for a few runs
KEY = jax.random.key(3)


def preprocess(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 128 - 1


def views(key: jax.Array, example: Any) -> jax.Array:
    """Two views that differ by what was drawn."""
    return preprocess(example["image"]) + 0.3 * jax.random.normal(key, (2, SIZE, SIZE, 1))


def model_of() -> SimSiam:
    """On a perceptron: four rows of a ResNet's features differ so little that norms would enlarge rounding."""
    return SimSiam(create_model("mlp", num_classes=0, image_size=SIZE, in_channels=1, hidden=(8,)), DIM, 2, 5, 3)


def task_of(model: SimSiam, **options: Any) -> Task:
    return simsiam_task(model, views=views, preprocess=preprocess, **options)


def batch_of(indices: Any = range(BATCH)) -> dict[str, jax.Array]:
    images = np.random.default_rng(0).integers(0, 256, (100, SIZE, SIZE, 1), np.uint8)
    return {"image": jnp.asarray(images[[max(i, 0) for i in indices]]), "index": jnp.asarray(list(indices)),
            "mask": jnp.asarray([i >= 0 for i in indices])}


def drawn_state(task: Task) -> tuple[Any, Any]:
    variables = dict(balanced_like(jax.eval_shape(task.init, jax.random.key(0), batch_of())))
    return variables.pop("params"), variables


@pytest.fixture(scope="module")
def model() -> SimSiam:
    return model_of()


@pytest.fixture(scope="module")
def state(model: SimSiam) -> tuple[Any, Any]:
    return drawn_state(task_of(model))


def measured(task: Task, state: Any) -> Any:
    """((loss, aux), gradients of the parameters)."""
    return jax.jit(jax.value_and_grad(task.loss, has_aux=True), compiler_options=ONCE)(*state, batch_of(), KEY)


@pytest.fixture(scope="module")
def found(model: SimSiam, state: Any) -> Any:
    return measured(task_of(model), state)


def shown() -> jax.Array:
    batch = batch_of()
    return jnp.stack([views(jax.random.fold_in(KEY, i), {"image": image}) for i, image in enumerate(batch["image"])])


def test_loss_metrics_and_statistics_are_those_of_the_networks_outputs(model: SimSiam, state: Any, found: Any) -> None:
    (value, aux), _ = found
    variables = {"params": state[0], **state[1]}
    apply = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]), compiler_options=ONCE)
    (predictions, projections), statistics = apply(variables, shown())
    assert float(value) == pytest.approx(float(simsiam_loss(predictions, projections).mean()), abs=1e-5)
    unit = np.asarray(projections, np.float64).reshape(-1, DIM)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    means = {name: float(s / n) for name, (s, n) in aux.metrics.items()}
    assert means == pytest.approx({"loss": float(value), "projection_std": unit.std(axis=0).mean()}, rel=1e-4)
    assert aux.model_state.keys() == {"batch_stats"} and aux.extra is None
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), aux.model_state, statistics)


def test_projections_are_constants_for_the_gradient(model: SimSiam, state: Any, found: Any) -> None:
    """The gradient is that of a loss whose targets were computed before; with targets that learn it is another one."""
    params, model_state = state

    def loss(params: Any, targets: Any) -> Any:
        pairs = model.apply({"params": params, **model_state}, shown(), train=True, mutable=["batch_stats"])[0]
        return simsiam_loss(pairs[0], targets, stop_gradient=False).mean(), pairs[1]

    gradient = jax.jit(jax.grad(loss, has_aux=True), compiler_options=ONCE)
    _, targets = gradient(params, jnp.ones((BATCH, 2, DIM)))
    expected, _ = gradient(params, targets)
    _, gradients = found
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), gradients, expected)
    (value, _), through = measured(task_of(model, stop_gradient=False), state)
    assert float(value) == pytest.approx(float(found[0][0]), abs=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), through["predictor"],
                 gradients["predictor"])
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), through["projector"], gradients["projector"])
    assert min(jax.tree.leaves(difference)) > 1e-4


def test_every_parameter_learns(found: Any) -> None:
    still = [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(found[1])
             if not leaf.any()]
    assert not still


def test_records_draw_their_views(model: SimSiam, state: Any) -> None:
    """Keys by record: a batch in another order has the same views, so the same loss."""
    task = task_of(model)
    loss = jax.jit(lambda batch: task.loss(*state, batch, KEY)[0], compiler_options=ONCE)
    value = float(loss(batch_of()))
    assert float(loss(batch_of((2, 0, 3, 1)))) == pytest.approx(value, abs=1e-5)
    assert float(loss(batch_of() | {"index": jnp.arange(4, 8)})) != pytest.approx(value, abs=1e-3)


def test_evaluation_is_in_evaluation_mode_on_whole_images_and_leaves_padding_out(model: SimSiam, state: Any) -> None:
    variables = {"params": state[0], **state[1]}
    measure = jax.jit(task_of(model).evaluate, compiler_options=ONCE)
    value, count = measure(variables, batch_of((3, 1, 2, -1)))["loss"]
    predictions, projections = jax.jit(model.apply, compiler_options=ONCE)(
        variables, preprocess(batch_of((3, 1, 2))["image"])[:, None])
    p, z = (np.asarray(x, np.float64)[:, 0] for x in (predictions, projections))
    cosines = (p * z).sum(1) / np.linalg.norm(p, axis=1) / np.linalg.norm(z, axis=1)
    assert count == 3 and float(value) == pytest.approx(-cosines.sum(), rel=1e-4)
    single = [float(measure(variables, batch_of((i, -1, -1, -1)))["loss"][0]) for i in (1, 2, 3)]
    assert sum(single) == pytest.approx(float(value), rel=1e-4), "rows do not see each other"
