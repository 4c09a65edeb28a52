"""Supervised classification as a task, with a model whose logits can be worked out."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.data.augment import mixup
from cvjax.layers.norm import BatchNorm
from cvjax.losses.regression import squared_error
from cvjax.models.image_model import ImageModel
from cvjax.tasks.supervised import supervised_task
from cvjax.train.loop import evaluate
from cvjax.train.mesh import MeshEngine


class Brightness(ImageModel):
    """Logits (0, 8 x + bias, ...): class 1 where the image is bright; counts its training batches."""

    num_classes: int = 2
    noisy: bool = False

    @nn.compact
    def __call__(self, images, *, train=False):
        bias = self.param("bias", nn.initializers.zeros, ())
        seen = self.variable("batch_stats", "seen", lambda: jnp.zeros((), jnp.int32))
        if train and not self.is_initializing():
            seen.value += 1
        x = images.mean(axis=(1, 2, 3))
        if train and self.noisy:
            x = x + jax.random.normal(self.make_rng("dropout"), x.shape)
        logits = jnp.zeros((len(x), self.num_classes))
        return logits.at[:, 1].set(8 * x + bias)


class WithHeads(ImageModel):
    """Brightness, and in training two auxiliary heads: one that says the opposite, one that knows nothing."""

    auxiliary_heads = True

    num_classes: int = 2
    auxiliary_weight: float = 0.3

    @nn.compact
    def __call__(self, images, *, train=False):
        logits = Brightness(self.num_classes)(images, train=train)
        if train:
            self.sow("intermediates", "auxiliary", -logits)
            self.sow("intermediates", "auxiliary", 0 * logits)
        return logits


def task_of(model=None, **options):
    return supervised_task(model or Brightness(), augment=lambda key, image: image.astype(jnp.float32) / 255 - 0.5,
                           preprocess=lambda images: images.astype(jnp.float32) / 255 - 0.5, **options)


def batch_of(values, labels, mask=None):
    images = np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], (len(values), 2, 2, 1))
    return {"image": jnp.asarray(images), "label": jnp.array(labels), "index": jnp.arange(len(values)),
            "mask": jnp.ones(len(values), bool) if mask is None else jnp.array(mask)}


def softplus(x):
    return np.log1p(np.exp(x))


def test_loss_and_accuracy_by_hand():
    task = task_of()
    variables = task.init(jax.random.key(0), batch_of([0], [0]))
    batch = batch_of([255, 0, 255, 0], [1, 0, 0, 0])  # logits of class 1: 4, -4, 4, -4
    loss, aux = task.loss(variables["params"], {"batch_stats": variables["batch_stats"]}, batch, jax.random.key(0))
    expected = 3 * softplus(-4) + softplus(4)
    assert float(loss) == pytest.approx(expected / 4, rel=1e-5)  # a float32 exponential and logarithm
    np.testing.assert_allclose(aux.metrics["loss"], (expected, 4), rtol=1e-5)
    assert tuple(map(float, aux.metrics["top1"])) == (3, 4)
    assert aux.model_state["batch_stats"]["seen"] == 1


class Normed(ImageModel):
    """Logits of a batch norm of the mean brightness, with a head more of its double."""

    auxiliary_heads = True

    num_classes: int = 2
    auxiliary_weight: float = 0.5

    @nn.compact
    def __call__(self, images, *, train=False):
        x = BatchNorm(name="bn")(images.mean(axis=(1, 2)), train=train)
        logits = jnp.concatenate([0 * x, x], axis=1)
        if train:
            self.sow("intermediates", "auxiliary", 2 * logits)
        return logits


def test_groups_have_batch_statistics_of_their_own():
    """By hand: groups (10, 50) and (100, 220) of a batch; running statistics are the mean of theirs."""
    values = np.array([10, 50, 100, 220])
    batch = batch_of(values, [1, 0, 1, 0])
    task = task_of(Normed(), batch_norm_group=2)
    variables = task.init(jax.random.key(0), batch)
    given = (variables["params"], {"batch_stats": variables["batch_stats"]}, batch, jax.random.key(0))
    loss, aux = jax.jit(task.loss)(*given)
    x = values / 255 - 0.5
    means, variances = x.reshape(2, 2).mean(1), x.reshape(2, 2).var(1)
    logits = (x - means.repeat(2)) / np.sqrt(variances.repeat(2) + 1e-5)
    signs = np.array([-1, 1, -1, 1])
    expected = softplus(signs * logits).mean()
    np.testing.assert_allclose(aux.metrics["loss"][0] / 4, expected, rtol=1e-5)  # a few float32 roundings
    np.testing.assert_allclose(loss, expected + 0.5 * softplus(2 * signs * logits).mean(), rtol=1e-5)
    running = aux.model_state["batch_stats"]["bn"]
    np.testing.assert_allclose(running["mean"], [0.1 * means.mean()], rtol=1e-5)
    np.testing.assert_allclose(running["var"], [0.9 + 0.1 * 2 * variances.mean()], rtol=1e-5)  # unbiased: 2 / (2 - 1)
    whole, _ = jax.jit(task_of(Normed(), batch_norm_group=4).loss)(*given)
    plain, _ = jax.jit(task_of(Normed()).loss)(*given)
    assert float(whole) == pytest.approx(float(plain), rel=1e-5) and abs(float(whole) - float(loss)) > 0.01


def test_a_group_that_does_not_divide_the_batch_is_refused():
    task, batch = task_of(Normed(), batch_norm_group=3), batch_of([1, 2, 3, 4], [0, 0, 0, 0])
    variables = task.init(jax.random.key(0), batch)
    with pytest.raises(ValueError, match="batch_norm_group 3: it must divide the 4 images"):
        task.loss(variables["params"], {"batch_stats": variables["batch_stats"]}, batch, jax.random.key(0))


def test_auxiliary_heads_add_their_weighted_losses_in_training():
    task = task_of(WithHeads())
    batch = batch_of([255], [1])
    variables = task.init(jax.random.key(0), batch)
    assert set(variables) == {"params", "batch_stats"}
    loss, aux = jax.jit(task.loss)(variables["params"], {"batch_stats": variables["batch_stats"]}, batch,
                                   jax.random.key(0))
    assert float(loss) == pytest.approx(softplus(-4) + 0.3 * softplus(4) + 0.3 * np.log(2), rel=1e-5)
    assert float(aux.metrics["loss"][0]) == pytest.approx(softplus(-4), rel=1e-4)
    assert set(aux.model_state) == {"batch_stats"}
    assert float(task.evaluate(variables, batch)["loss"][0]) == pytest.approx(softplus(-4), rel=1e-4)


def test_label_smoothing_by_hand():
    task = task_of(label_smoothing=0.2)
    variables = task.init(jax.random.key(0), batch_of([0], [0]))
    loss, _ = task.loss(variables["params"], {"batch_stats": variables["batch_stats"]}, batch_of([255], [1]),
                        jax.random.key(0))
    assert float(loss) == pytest.approx(0.9 * softplus(-4) + 0.1 * softplus(4), rel=1e-5)


def test_mixup_mixes_images_and_targets_by_one_share():
    """Bright 1s and dark 0s: mixed by a share s, both images have logit 8 (s - 1/2) of class 1 or its negative."""
    task = task_of(mix=partial(mixup, alpha=1.0))
    variables = task.init(jax.random.key(0), batch_of([0], [0]))
    batch = batch_of([255, 0], [1, 0])
    losses, state = set(), {"batch_stats": variables["batch_stats"]}
    for seed in range(4):
        loss, aux = task.loss(variables["params"], state, batch, jax.random.key(seed))
        shares = np.linspace(0, 1, 200001)
        curve = shares * softplus(-8 * (shares - 0.5)) + (1 - shares) * softplus(8 * (shares - 0.5))
        assert np.abs(curve - float(loss)).min() < 1e-4
        assert float(aux.metrics["top1"][0]) == 2, "counted against the stronger label"
        losses.add(float(loss))
    assert len(losses) == 4


def test_evaluation_is_exact_on_a_ragged_last_batch_of_any_size():
    task, numbers = task_of(), np.random.default_rng(0)
    variables = task.init(jax.random.key(0), batch_of([0], [0]))
    values, labels = numbers.choice([0, 255], 11), numbers.integers(0, 2, 11)
    correct = ((values > 0) == labels).sum()
    assert 0 < correct < 11
    evaluate = jax.jit(task.evaluate)
    losses = []
    for size in (1, 4, 11, 16):
        sums = np.zeros((2, 2))
        for start in range(0, 11, size):
            rows = np.arange(start, start + size)
            batch = batch_of(np.append(values, [255] * 16)[rows], np.append(labels, [1] * 16)[rows], rows < 11)
            metrics = evaluate(variables, batch)
            sums += [[float(x) for x in metrics[name]] for name in ("top1", "loss")]
        assert tuple(sums[0]) == (correct, 11)
        losses.append(sums[1][0] / sums[1][1])
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)  # float32 sums in another order


def targets_task(scores=lambda outputs, labels: {"sum": float(outputs.sum()), "rows": len(labels)}, **options):
    """Brightness with the outputs (0, 8 x) and labels that are targets themselves."""
    return task_of(criterion=squared_error, scores=scores, **options)


def test_labels_that_are_targets_by_hand():
    task, batch = targets_task(), batch_of([255, 0], [[1.0, 2.0], [0.0, -4.0]])  # outputs (0, 4), (0, -4)
    variables = task.init(jax.random.key(0), batch)
    loss, aux = task.loss(variables["params"], {"batch_stats": variables["batch_stats"]}, batch, jax.random.key(0))
    assert float(loss) == pytest.approx((1 + 4) / 2 / 2, rel=1e-6) and set(aux.metrics) == {"loss"}
    found = task.evaluate(variables, batch)
    np.testing.assert_allclose(found["output"], [[0, 4], [0, -4]], rtol=1e-6)
    np.testing.assert_allclose(found["loss"], [2.5, 0], atol=1e-6)


def test_mixup_mixes_targets_that_are_numbers_by_the_share_of_the_images():
    """A perfect prediction of the brightness stays perfect, since both mix linearly."""
    task, batch = targets_task(mix=partial(mixup, alpha=1.0)), batch_of([255, 0], [[0.0, 4.0], [0.0, -4.0]])
    variables = task.init(jax.random.key(0), batch)
    for seed in range(3):
        loss, _ = task.loss(variables["params"], {"batch_stats": variables["batch_stats"]}, batch, jax.random.key(seed))
        assert float(loss) == pytest.approx(0, abs=1e-10)  # squares of float32 roundings of 4


def test_scores_see_every_example_once_whatever_the_batches():
    """Ragged and padded ones, with nan in the padding."""
    seen = []
    task = targets_task(lambda outputs, labels: seen.append((outputs, labels)) or {"rows": len(labels)})
    numbers = np.random.default_rng(0)
    values, labels = numbers.integers(0, 256, 11), numbers.standard_normal((11, 2)).astype(np.float32)
    variables = task.init(jax.random.key(0), batch_of([0], [[0.0, 0.0]]))
    evaluation, results = evaluate(task, MeshEngine(jax.devices()[:1])), []
    for size in (1, 4, 11, 16):
        rows = [np.arange(start, start + size) for start in range(0, 11, size)]
        filled = np.concatenate([labels, np.full((16, 2), np.nan, np.float32)])
        results.append(evaluation(variables, [batch_of(np.append(values, [255] * 16)[r], filled[r], r < 11)
                                              for r in rows]))
    for outputs, truth in seen:
        np.testing.assert_array_equal(truth, labels)
        np.testing.assert_allclose(outputs[:, 1], 8 * (values / 255 - 0.5), rtol=1e-5, atol=1e-6)  # float32 sums
    expected = np.square(seen[0][0] - labels).mean()
    assert [each["rows"] for each in results] == [11] * 4
    np.testing.assert_allclose([each["loss"] for each in results], expected, rtol=1e-6)


@pytest.mark.parametrize("classes, names", [(2, "loss top1"), (5, "loss top1"), (6, "loss top1 top5")])
def test_top_5_is_given_where_it_says_something(classes, names):
    task = task_of(Brightness(num_classes=classes))
    variables = task.init(jax.random.key(0), batch_of([0], [0]))
    assert set(task.evaluate(variables, batch_of([0], [0]))) == set(names.split())


def test_dropout_draws_anew_each_step_and_not_in_evaluation():
    task = task_of(Brightness(noisy=True))
    batch = batch_of([255, 0], [1, 0])
    variables = task.init(jax.random.key(0), batch)
    state = {"batch_stats": variables["batch_stats"]}
    losses = {float(task.loss(variables["params"], state, batch, jax.random.key(step))[0]) for step in range(3)}
    assert len(losses) == 3
    first, second = (float(task.evaluate(variables, batch)["loss"][0]) for _ in range(2))
    assert first == second
