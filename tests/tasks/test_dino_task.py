"""DINO as a task: who sees what, who learns from whom, and what moves when."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvjax.losses.dino import dino_loss, entropy, teacher_answers
from cvjax.models import create_model
from cvjax.models.dino import DINO, DINOHead
from cvjax.tasks.dino import dino_task
from cvjax.tasks.task import Aux, batch_key
from cvjax.train.state import TrainState
from cvjax.train.step import make_train_step
from tests.models.drawn import balanced_like

K, BATCH, LARGE, SMALL = 6, 4, 8, 4
MOMENTA = jnp.array([0.5, 0.75, 0.875, 1.0])
TEMPERATURES = jnp.array([0.25, 0.5, 1.0, 2.0, 4.0])
ONCE = {"xla_backend_optimization_level": 0}  # compiled for a few runs


def preprocess(images):
    return images.astype(jnp.float32) / 128 - 1


def views(key, example):
    """Two global and two local views that differ by what was drawn."""
    image = preprocess(example["image"])
    noise = jax.random.normal(key, (4, LARGE, LARGE, 3))
    crops = image + 0.3 * noise
    return [crops[:2], crops[2:, :SMALL, :SMALL]]


VIT = "vit_tiny_patch16_224"
FIELDS = {"resnet20": dict(depths=(1, 1), width=4), "mlp": dict(image_size=LARGE, hidden=(8,)),
          VIT: dict(image_size=LARGE, patch_size=4, width=8, depth=2, heads=2)}


def model_of(name="resnet20", **fields):
    backbone = create_model(name, num_classes=0, **FIELDS[name] | fields)
    return DINO(backbone, DINOHead(K, layers=2, hidden=8, bottleneck=4, batch_norm=name == "resnet20"))


def task_of(model, **options):
    options = dict(views=views, preprocess=preprocess, teacher_momentum=lambda step: MOMENTA[step],
                   teacher_temperature=lambda step: TEMPERATURES[step], student_temperature=0.5) | options
    return dino_task(model, **options)


def batch_of(indices=range(BATCH)):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, LARGE, LARGE, 3), np.uint8)[[max(i, 0) for i in indices]]
    return {"image": jnp.asarray(images), "index": jnp.asarray(list(indices)),
            "mask": jnp.asarray([i >= 0 for i in indices])}


def drawn_state(task: Any) -> tuple[Any, Any]:
    """Parameters and model state with another teacher than the student, and a centre that is not zero."""
    variables = dict(balanced_like(jax.eval_shape(task.init, jax.random.key(0), batch_of())))
    teacher = jax.tree.map(lambda x: x[::-1] + 0.01 * (x.ndim > 1), variables["dino"]["teacher"])
    params = variables.pop("params")
    dino = {"teacher": teacher, "center": jnp.linspace(-0.5, 0.5, K), "temperature": TEMPERATURES[0]}
    return params, variables | {"dino": dino}


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def task(model):
    return task_of(model)


@pytest.fixture(scope="module")
def state(task):
    return drawn_state(task)


@pytest.fixture(scope="module")
def both_gradients(task, state):
    """Of the loss by the student's parameters and by the whole model state."""
    return jax.jit(jax.value_and_grad(task.loss, (0, 1), has_aux=True), compiler_options=ONCE)(
        *state, batch_of(), jax.random.key(3))


def test_the_start_is_a_teacher_equal_to_the_student_in_memory_of_its_own(task):
    variables = jax.jit(task.init, compiler_options=ONCE)(jax.random.key(0), batch_of())
    assert variables.keys() == {"params", "batch_stats", "dino"}
    assert variables["dino"].keys() == {"teacher", "center", "temperature"}
    student = {kind: variables[kind] for kind in ("params", "batch_stats")}
    jax.tree.map(np.testing.assert_array_equal, variables["dino"]["teacher"], student)
    np.testing.assert_array_equal(variables["dino"]["center"], np.zeros(K))
    assert variables["dino"]["temperature"] == TEMPERATURES[0] and variables["dino"]["temperature"].dtype == jnp.float32


def test_a_state_that_is_donated_holds_no_array_twice():
    model = DINO(create_model("linear", image_size=LARGE, num_classes=0), DINOHead(K, layers=1, bottleneck=2))
    leaves = jax.tree.leaves(task_of(model).init(jax.random.key(0), batch_of()))  # not compiled
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves) == 2 * 3 + 2


def test_every_student_parameter_receives_a_gradient(both_gradients):
    _, (gradients, _) = both_gradients
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
    idle = [jax.tree_util.keystr(path, simple=True, separator="/")
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradients) if not np.abs(leaf).max() > 1e-4 * largest]
    assert idle == ["head/mlp/0/bias"], "a bias in front of a batch norm, which takes it out again"


def test_no_gradient_reaches_the_teacher_or_the_center_or_the_temperature(both_gradients):
    _, (_, gradients) = both_gradients
    for leaf in jax.tree.leaves(gradients["dino"]):
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


def test_loss_is_that_of_the_views_and_batch_norms_use_the_batch(model, state, both_gradients):
    params, before = state
    (value, aux), _ = both_gradients
    keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.key(3), index))(jnp.arange(BATCH))
    crops = jax.vmap(views)(keys, batch_of())

    @partial(jax.jit, compiler_options=ONCE)
    def slow(params, before):
        dino = before["dino"]
        seen, teacher = model.apply(dino["teacher"], crops[:1], train=True, mutable=["batch_stats"])
        given, student = model.apply({"params": params, "batch_stats": before["batch_stats"]}, crops, train=True,
                                     mutable=["batch_stats"])
        answers = teacher_answers(seen, dino["center"], dino["temperature"])
        return dino_loss(given, answers, 0.5), answers, seen, teacher, student

    losses, answers, seen, teacher, student = slow(params, before)
    # The same float32 operations, compiled with other fusions, of sums of some thousand terms.
    np.testing.assert_allclose(value, losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["loss"], (losses.sum(), BATCH), rtol=1e-5)
    np.testing.assert_allclose(aux.extra, seen.mean((0, 1)), rtol=0, atol=1e-5)

    def near(found, expected):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)

    assert aux.model_state.keys() == {"batch_stats", "dino"}
    near(aux.model_state["batch_stats"], student["batch_stats"])
    near(aux.model_state["dino"]["teacher"]["batch_stats"], teacher["batch_stats"])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), teacher["batch_stats"],
                         before["dino"]["teacher"]["batch_stats"])
    assert min(jax.tree.leaves(moved)) > 1e-4, "the teacher keeps running statistics of its own"
    jax.tree.map(np.testing.assert_array_equal, aux.model_state["dino"]["teacher"]["params"],
                 before["dino"]["teacher"]["params"])

    votes = np.bincount(np.asarray(answers.argmax(-1)).ravel(), minlength=K) / answers[..., 0].size
    expected = {"teacher_entropy": entropy(answers).mean(), "kl_to_uniform": np.log(K) - entropy(answers.mean((0, 1))),
                "center_norm": np.linalg.norm(before["dino"]["center"]), "top_prototype": votes.max()}
    means = {name: s / n for name, (s, n) in aux.metrics.items() if name != "loss"}
    assert means == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-4, abs=1e-5)


def test_the_temperature_of_the_answers_is_the_one_in_the_state(task, state, both_gradients):
    params, before = state
    value = float(both_gradients[0][0])
    loss = jax.jit(lambda t: task.loss(params, before | {"dino": before["dino"] | {"temperature": t}}, batch_of(),
                                       jax.random.key(3))[0], compiler_options=ONCE)
    assert float(loss(TEMPERATURES[0])) == pytest.approx(value, rel=1e-5)
    assert float(loss(TEMPERATURES[1])) != pytest.approx(value, rel=1e-3)


def averaged(old, new, keep):
    return jax.tree.map(lambda a, b: keep * np.asarray(a, np.float64) + (1 - keep) * np.asarray(b), old, new)


def walk(task, state, optimizer, steps):
    """The states before and after each step, as training makes them."""
    params, model_state = state
    step = jax.jit(make_train_step(task, optimizer), compiler_options=ONCE)
    states = [TrainState(jnp.int32(0), params, model_state, optimizer.init(params), None, jax.random.key(0))]
    for _ in range(steps):
        states.append(step(states[-1], batch_of())[0])
    return states


@pytest.fixture(scope="module")
def states(task, state):
    return walk(task, state, optax.sgd(0.5), 3)


def test_the_teacher_follows_the_student_after_its_step_with_the_momentum_of_that_step(states):
    for number, (before, after) in enumerate(zip(states, states[1:])):
        keep = float(MOMENTA[number])  # exact in float32, and so is what remains
        expected = averaged(before.model_state["dino"]["teacher"]["params"], after.params, keep)
        # Two products and a sum: at most 2 roundings of 2**-24 each.
        jax.tree.map(lambda found, true: np.testing.assert_allclose(found, true, rtol=2**-22, atol=1e-7),
                     after.model_state["dino"]["teacher"]["params"], expected)
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before.params, after.params)
        assert max(jax.tree.leaves(moved)) > 1e-3, "or it could be the student before its step"


def test_each_step_finds_its_own_temperature(states):
    assert [float(s.model_state["dino"]["temperature"]) for s in states] == TEMPERATURES[:4].tolist()


def test_the_center_moves_after_it_was_used(task, state, states, both_gradients):
    loss = jax.jit(lambda s: task.loss(s.params, s.model_state, batch_of(), jax.random.fold_in(s.rng, s.step))[1].extra,
                   compiler_options=ONCE)
    for before, after in zip(states, states[1:]):
        expected = 0.9 * before.model_state["dino"]["center"] + 0.1 * loss(before)
        np.testing.assert_allclose(after.model_state["dino"]["center"], expected, rtol=0, atol=1e-5)


def test_post_update_alone(model, state):
    """Momentum of the step just made, temperature of the next; without centring the centre stays, as does the rest."""
    params, model_state = state
    before = TrainState(jnp.int32(2), params, model_state, None, None, jax.random.key(0))
    aux = Aux({}, None, extra=jnp.ones(K))
    for momentum in (None, 0.75):
        after = task_of(model, center_momentum=momentum).post_update(before, aux)
        dino = after.model_state["dino"]
        expected = averaged(model_state["dino"]["teacher"]["params"], params, float(MOMENTA[1]))
        jax.tree.map(lambda found, true: np.testing.assert_allclose(found, true, rtol=2**-22, atol=1e-7),
                     dino["teacher"]["params"], expected)
        jax.tree.map(np.testing.assert_array_equal, dino["teacher"]["batch_stats"],
                     model_state["dino"]["teacher"]["batch_stats"])
        assert dino["temperature"] == TEMPERATURES[2]
        center = model_state["dino"]["center"]
        np.testing.assert_array_equal(dino["center"], center if momentum is None else center * 0.75 + 0.25)
        assert jax.tree.structure(after) == jax.tree.structure(before)
        assert after.params is params and after.model_state["batch_stats"] is model_state["batch_stats"]


@pytest.mark.parametrize("name, rate", [(VIT, "drop_path"), ("mlp", "dropout")])
def test_drop_path_and_dropout_are_the_students_alone(name, rate):
    """At a high rate the student's answers are others for each key, the teacher's are not."""
    def measured(value):
        task = task_of(model_of(name, **{rate: value}), views=lambda key, example: [
            jnp.stack([preprocess(example["image"]), -preprocess(example["image"])])])
        params, model_state = drawn_state(task)
        loss = jax.jit(lambda rng: task.loss(params, model_state, batch_of(), rng), compiler_options=ONCE)
        (first, aux), (second, other) = loss(jax.random.key(0)), loss(jax.random.key(1))
        np.testing.assert_array_equal(aux.extra, other.extra)
        np.testing.assert_array_equal(aux.metrics["teacher_entropy"], other.metrics["teacher_entropy"])
        assert aux.model_state.keys() == {"dino"}, "there are no statistics"
        return float(first), float(second), np.asarray(aux.extra)

    first, second, center = measured(0.9)
    plain, again, plain_center = measured(0.0)
    assert first != second and plain == again
    np.testing.assert_allclose(center, plain_center, rtol=0, atol=1e-6)


def test_records_draw_their_views_and_batches_their_dropout():
    """Keys by record: a batch in another order has the same views, so the same loss."""
    task = task_of(model_of(VIT))
    params, model_state = drawn_state(task)
    loss = jax.jit(lambda batch: task.loss(params, model_state, batch, jax.random.key(5))[0], compiler_options=ONCE)
    value = float(loss(batch_of(range(4))))
    assert float(loss(batch_of((2, 0, 3, 1)))) == pytest.approx(value, rel=1e-5)
    assert float(loss(batch_of(range(4)) | {"index": jnp.arange(4, 8)})) != pytest.approx(value, rel=1e-4)
    assert (jax.random.key_data(batch_key(jax.random.key(5), batch_of((2, 0)))) != jax.random.key_data(
        batch_key(jax.random.key(5), batch_of((0, 2))))).any()


def test_evaluation_is_in_evaluation_mode_on_whole_images_and_leaves_padding_out(model, task, state):
    params, model_state = state
    variables = {"params": params, **model_state}
    measure = jax.jit(task.evaluate, compiler_options=ONCE)
    found = measure(variables, batch_of((3, 1, 2, -1)))

    @partial(jax.jit, compiler_options=ONCE)
    def slow(variables):
        images = [preprocess(batch_of((3, 1, 2))["image"])[:, None]]
        dino = variables["dino"]
        answers = teacher_answers(model.apply(dino["teacher"], images), dino["center"], dino["temperature"])
        student = {kind: variables[kind] for kind in ("params", "batch_stats")}
        log_p = jax.nn.log_softmax(model.apply(student, images) / 0.5)
        return -(answers * log_p).sum(), entropy(answers).sum()

    assert found.keys() == {"loss", "teacher_entropy"}
    for (value, count), expected in zip((found["loss"], found["teacher_entropy"]), slow(variables)):
        assert count == 3 and float(value) == pytest.approx(float(expected), rel=1e-5)
    single = [measure(variables, batch_of((i, -1, -1, -1)))["loss"][0] for i in (1, 2, 3)]
    assert sum(map(float, single)) == pytest.approx(float(found["loss"][0]), rel=1e-5), "rows do not see each other"
