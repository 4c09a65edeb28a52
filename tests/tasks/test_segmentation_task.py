"""Segmentation as a task, with a model whose logits can be worked out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.models.image_model import ImageModel
from cvjax.tasks.segmentation import confusion_by_example, segmentation_task


class Brightness(ImageModel):
    """Logits (0, 8 x + bias, ...) of each pixel; counts its training batches; perhaps a head that says the opposite."""

    auxiliary_heads = True

    num_classes: int = 2
    auxiliary_weight: float = 0.0

    @nn.compact
    def __call__(self, images, *, train=False):
        bias = self.param("bias", nn.initializers.zeros, ())
        seen = self.variable("batch_stats", "seen", lambda: jnp.zeros((), jnp.int32))
        if train and not self.is_initializing():
            seen.value += 1
        logits = jnp.zeros((*images.shape[:3], self.num_classes)).at[..., 1].set(8 * images[..., 0] + bias)
        if train:
            self.sow("intermediates", "auxiliary", -logits)
        return logits


def task_of(model=None, **options):
    options = {"scores": lambda confusion: {"right": int(np.trace(confusion))}} | options
    return segmentation_task(model or Brightness(), augment=lambda key, image: image.astype(jnp.float32) / 255 - 0.5,
                             preprocess=lambda images: images.astype(jnp.float32) / 255 - 0.5, **options)


def batch_of(values, labels):
    images = np.array(values, np.uint8)[..., None]
    return {"image": jnp.asarray(images), "label_map": jnp.array(labels, jnp.int32), "index": jnp.arange(len(images)),
            "mask": jnp.ones(len(images), bool)}


# Two pictures of three pixels, bright (logit 4) or dark (-4).
BATCH = batch_of([[[255, 0, 255]], [[0, 0, 255]]], [[[1, 0, 0]], [[255, 1, 1]]])


def start(task):
    variables = task.init(jax.random.key(0), BATCH)
    return variables["params"], {"batch_stats": variables["batch_stats"]}


def softplus(x):
    return np.log1p(np.exp(x))


def test_loss_and_accuracy_by_hand():
    """Right: bright 1, dark 0, bright 1; wrong: bright 0, dark 1; one pixel does not count."""
    task = task_of()
    loss, aux = task.loss(*start(task), BATCH, jax.random.key(0))
    expected = 3 * softplus(-4) + 2 * softplus(4)
    assert float(loss) == pytest.approx(expected / 5, rel=1e-5)
    np.testing.assert_allclose(aux.metrics["loss"], (expected, 5), rtol=1e-5)
    assert tuple(map(float, aux.metrics["pixel_accuracy"])) == (3, 5)
    assert set(aux.model_state) == {"batch_stats"} and aux.model_state["batch_stats"]["seen"] == 1


def test_class_weights_and_auxiliary_heads_by_hand():
    task = task_of(Brightness(auxiliary_weight=0.5), class_weights=[1.0, 3.0])
    loss, aux = task.loss(*start(task), BATCH, jax.random.key(0))
    main = (1 + 6) * softplus(-4) + (1 + 3) * softplus(4)
    other = (1 + 6) * softplus(4) + (1 + 3) * softplus(-4)
    assert float(loss) == pytest.approx((main + 0.5 * other) / 11, rel=1e-5)
    assert float(aux.metrics["loss"][0]) == pytest.approx(main, rel=1e-5), "only the main head's"


def test_evaluation_of_a_whole_data_set():
    task = task_of()
    params, state = start(task)
    found = jax.device_get(task.evaluate({"params": params, **state}, BATCH))
    assert found["confusion"].tolist() == [[[1, 1], [0, 1]], [[0, 0], [1, 1]]]
    assert found["index"].tolist() == [0, 1] and found["mask"].all()
    scores = task.summarize(iter([{name: array[:1] for name, array in found.items()},
                                  {name: array[1:] for name, array in found.items()}]))
    assert scores["right"] == 3
    assert scores["loss"] == pytest.approx((3 * softplus(-4) + 2 * softplus(4)) / 5, rel=1e-5)


def test_nothing_that_counts_is_no_error():
    task = task_of()
    batch = BATCH | {"label_map": jnp.full((2, 1, 3), 255)}
    loss, _ = task.loss(*start(task), batch, jax.random.key(0))
    assert float(loss) == 0
    assert np.isnan(task.summarize(iter([]))["loss"])


def test_the_loss_of_a_batch_is_the_same_however_it_is_spread():
    """pmap's mean over shards whose pixels count differently, one of them not at all."""
    task, mapped = task_of(), task_of(axis_name="data")
    params, state = start(task)
    batch = {name: array[:2] for name, array in BATCH.items()}
    batch["label_map"] = jnp.array([[[1, 0, 0]], [[255, 255, 255]]])
    key = jax.random.key(0)
    whole, gradient = jax.jit(jax.value_and_grad(lambda p: task.loss(p, state, batch, key)[0]))(params)
    shards = jax.tree.map(lambda x: x[:, None], batch)
    parts, gradients = jax.jit(jax.vmap(jax.value_and_grad(lambda p, b: mapped.loss(p, state, b, key)[0]),
                                        in_axes=(None, 0), axis_name="data"))(params, shards)
    assert float(parts.mean()) == pytest.approx(float(whole), rel=1e-6)
    np.testing.assert_allclose(gradients["bias"].mean(), gradient["bias"], rtol=1e-5)


def test_confusion_equals_a_slow_count():
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 5, (3, 4, 7)), rng.integers(0, 5, (3, 4, 7))
    truth[rng.random(truth.shape) < 0.2] = 255
    expected = np.zeros((3, 5, 5), int)
    for place in np.ndindex(truth.shape):
        if truth[place] != 255:
            expected[place[0], truth[place], said[place]] += 1
    np.testing.assert_array_equal(confusion_by_example(jnp.asarray(truth), jnp.asarray(said), 5), expected)


def test_images_too_large_to_count_exactly_are_refused():
    shape = jax.ShapeDtypeStruct((1, 4097, 4096), jnp.int32)
    with pytest.raises(ValueError, match="4097x4096 pixels: their confusion is exact up to 16777216"):
        jax.eval_shape(lambda a, b: confusion_by_example(a, b, 2), shape, shape)
