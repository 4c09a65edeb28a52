"""Distillation as a task: what is learnt from whom, and that the teacher stays as it is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.losses.classification import softmax_cross_entropy
from cvjax.losses.distillation import feature_distance, hard_label_loss, soft_label_loss
from cvjax.models import create_model
from cvjax.models.projected import Projected
from cvjax.tasks.distillation import feature_task, logits_lesson, token_lesson
from cvjax.tasks.supervised import supervised_task
from cvjax.tasks.task import Task

BATCH, SIZE, CLASSES = 4, 4, 3
ONCE = {"xla_backend_optimization_level": 0}  # compiled for a few runs
KEY = jax.random.key(3)
TEACHER = create_model("mlp", num_classes=CLASSES, image_size=SIZE, in_channels=1, hidden=(5,))


def augment(key: jax.Array, image: jax.Array) -> jax.Array:
    """What was drawn shows, so that a teacher of other pictures would be noticed."""
    return preprocess(image) + 0.3 * jax.random.normal(key, image.shape)


def preprocess(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 128 - 1


def ask(variables: Any, images: jax.Array) -> jax.Array:
    return TEACHER.apply(variables, images, train=False)


def batch_of(mask: tuple[bool, ...] = (True,) * BATCH) -> dict[str, jax.Array]:
    draw = np.random.default_rng(0)
    return {"image": jnp.asarray(draw.integers(0, 256, (BATCH, SIZE, SIZE, 1), np.uint8)),
            "label": jnp.array([2, 0, 1, 1]), "index": jnp.arange(BATCH), "mask": jnp.array(mask)}


def shown() -> jax.Array:
    return jnp.stack([augment(jax.random.fold_in(KEY, i), image) for i, image in enumerate(batch_of()["image"])])


def taught_by(task: Task) -> tuple[Any, Any, Any]:
    """Parameters, model state with the teacher, and the teacher's variables."""
    variables = dict(jax.jit(task.init)(jax.random.key(0), batch_of()))
    teacher = jax.jit(TEACHER.init)(jax.random.key(9), preprocess(batch_of()["image"]))
    teacher = jax.tree.map(lambda x: 3 * x, teacher)  # sure of itself
    return variables.pop("params"), {**variables, "teacher": teacher}, teacher


def measured(task: Task, params: Any, state: Any) -> Any:
    """((loss, aux), (gradients of the parameters, of the model state))."""
    gradient = jax.value_and_grad(task.loss, argnums=(0, 1), has_aux=True, allow_int=True)
    return jax.jit(gradient, compiler_options=ONCE)(params, state, batch_of(), KEY)


def student_of(**fields: Any) -> Any:
    return create_model("mlp", num_classes=CLASSES, image_size=SIZE, in_channels=1, hidden=(6,), **fields)


@pytest.fixture(scope="module")
def vit() -> Any:
    return create_model("vit_tiny_patch16_224", image_size=SIZE, patch_size=2, in_channels=1, width=8, depth=1, heads=2,
                        num_classes=CLASSES, distilled=True)


def test_the_loss_of_logits_is_the_weighted_mean_of_both() -> None:
    model = student_of()
    task = supervised_task(model, augment=augment, preprocess=preprocess, label_smoothing=0.1,
                           lesson=logits_lesson(ask, temperature=4.0, hard_weight=0.3))
    params, state, teacher = taught_by(task)
    (value, aux), _ = measured(task, params, state)
    logits, answers = model.apply({"params": params}, shown()), ask(teacher, shown())
    targets = 0.9 * jax.nn.one_hot(batch_of()["label"], CLASSES) + 0.1 / CLASSES
    expected = (0.3 * softmax_cross_entropy(logits, targets) + 0.7 * soft_label_loss(logits, answers, 4.0)).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)  # a few float32 roundings
    hits = [float((x.argmax(axis=1) == batch_of()["label"]).sum()) for x in (logits, answers)]
    assert [tuple(map(float, aux.metrics[name])) for name in ("top1", "teacher/top1")] == [(hit, BATCH) for hit in hits]


@pytest.mark.parametrize("method", ["logits", "token", "features"])
def test_the_teacher_gets_no_gradient_and_does_not_change(method: str, vit: Any) -> None:
    if method == "features":
        task = feature_task(Projected(student_of().clone(num_classes=0), CLASSES), ask=ask, augment=augment,
                            preprocess=preprocess, distance="cosine")
    else:
        lesson = (logits_lesson(ask, temperature=2.0, hard_weight=0.5) if method == "logits"
                  else token_lesson(ask, hard_weight=0.5))
        task = supervised_task(student_of() if method == "logits" else vit, augment=augment, preprocess=preprocess,
                               lesson=lesson)
    params, state, _ = taught_by(task)
    (_, aux), (gradients, of_state) = measured(task, params, state)
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_state["teacher"]))
    still = [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
             if not leaf.any()]
    assert not still, "every parameter of the student learns"
    assert "teacher" not in aux.model_state, "it is no state of the student"


def test_each_head_of_a_distilled_vit_has_its_own_teacher(vit: Any) -> None:
    def gradients(weight: float, labels: list[int], sign: float) -> Any:
        lesson = token_lesson(lambda variables, images: sign * ask(variables, images), hard_weight=weight)
        task = supervised_task(vit, augment=augment, preprocess=preprocess, lesson=lesson)
        params, state, _ = taught_by(task)
        found = jax.jit(jax.grad(lambda params, batch: task.loss(params, state, batch, KEY)[0]), compiler_options=ONCE)
        return found(params, batch_of() | {"label": jnp.array(labels)})

    one, other_labels = gradients(0.4, [2, 0, 1, 1], 1), gradients(0.4, [0, 1, 2, 2], 1)
    other_answers = gradients(0.4, [2, 0, 1, 1], -1)
    for head, same, changed in (("head", other_answers, other_labels), ("head_dist", other_labels, other_answers)):
        np.testing.assert_array_equal(one[head]["kernel"], same[head]["kernel"])
        assert np.abs(one[head]["kernel"] - changed[head]["kernel"]).max() > 1e-3


def test_the_loss_of_tokens_and_the_answer_are_those_of_deit(vit: Any) -> None:
    task = supervised_task(vit, augment=augment, preprocess=preprocess, lesson=token_lesson(ask, hard_weight=0.5))
    params, state, teacher = taught_by(task)
    (value, aux), _ = measured(task, params, state)
    by_class, by_teacher = vit.apply({"params": params}, shown(), train=False, method="both_logits")
    true = softmax_cross_entropy(by_class, jax.nn.one_hot(batch_of()["label"], CLASSES))
    expected = 0.5 * true.mean() + 0.5 * hard_label_loss(by_teacher, ask(teacher, shown())).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    answer = vit.apply({"params": params}, shown())
    np.testing.assert_array_equal(answer, (by_class + by_teacher) / 2)
    assert float(aux.metrics["top1"][0]) == float((answer.argmax(axis=1) == batch_of()["label"]).sum())


def test_the_teacher_sees_mixed_pictures() -> None:
    def mix(key: jax.Array, images: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        return 0.7 * images + 0.3 * images[::-1], targets

    model = student_of()
    task = supervised_task(model, augment=augment, preprocess=preprocess, mix=mix,
                           lesson=logits_lesson(ask, temperature=1.0, hard_weight=0.0))
    params, state, teacher = taught_by(task)
    value = jax.jit(task.loss, compiler_options=ONCE)(params, state, batch_of(), KEY)[0]
    mixed = mix(KEY, shown(), shown())[0]
    expected, apart = (soft_label_loss(model.apply({"params": params}, mixed), ask(teacher, seen), 1.0).mean()
                       for seen in (mixed, shown()))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert abs(float(expected - apart)) > 1e-3


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_features_are_compared_through_the_projection_and_without_labels(distance: Any) -> None:
    model = Projected(student_of().clone(num_classes=0), CLASSES)
    task = feature_task(model, ask=ask, augment=augment, preprocess=preprocess, distance=distance)
    params, state, teacher = taught_by(task)
    assert params["projection"]["kernel"].shape == (6, CLASSES)
    unlabelled = {name: array for name, array in batch_of().items() if name != "label"}
    value, aux = jax.jit(task.loss, compiler_options=ONCE)(params, state, unlabelled, KEY)
    features = model.backbone.apply({"params": params["backbone"]}, shown())
    projected = features @ params["projection"]["kernel"] + params["projection"]["bias"]
    expected = feature_distance(projected, ask(teacher, shown()), distance)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["loss"], (expected.sum(), BATCH), rtol=1e-5)
    judged, count = task.evaluate({"params": params, **state}, batch_of((True, False, True, True)))["loss"]
    whole = preprocess(batch_of()["image"])
    each = feature_distance(model.apply({"params": params}, whole), ask(teacher, whole), distance)
    np.testing.assert_allclose(judged, each[0] + each[2] + each[3], rtol=1e-5)
    assert count == 3
