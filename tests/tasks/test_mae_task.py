"""MAE pre-training as a task: its loss, its evaluation, and what they draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.losses.mae import masked_reconstruction_loss, pixel_target
from cvjax.models import create_model
from cvjax.tasks.mae import draw_noise, mae_task
from cvjax.tasks.task import example_keys


def preprocess(images):
    return images.astype(jnp.float32) / 255


def augment(key, image):
    """The shift that each example drew is visible in its pixels."""
    return image.astype(jnp.float32) / 255 + jax.random.uniform(key)


@pytest.fixture(scope="module")
def model():
    return create_model("mae_vit_tiny_patch16", image_size=8, patch_size=2, in_channels=1, width=16, depth=1, heads=2,
                        decoder_width=16, decoder_depth=1, decoder_heads=2, mask_ratio=0.5)


@pytest.fixture(scope="module")
def task(model):
    return mae_task(model, augment=augment, preprocess=preprocess, normalize_pixels=True)


def batch_of(indices):
    images = np.stack([np.random.default_rng(max(i, 0)).integers(0, 256, (8, 8, 1), np.uint8) for i in indices])
    return {"image": jnp.asarray(images), "index": jnp.array(indices), "mask": jnp.array([i >= 0 for i in indices])}


@pytest.fixture(scope="module")
def variables(task):
    return jax.jit(task.init)(jax.random.key(0), batch_of([0]))


@pytest.fixture(scope="module")
def loss(task):
    return jax.jit(task.loss)


@pytest.fixture(scope="module")
def evaluate(task):
    return jax.jit(task.evaluate)


def test_loss_is_that_of_the_paper_on_the_augmented_images(model, loss, variables):
    batch, rng = batch_of([4, 2]), jax.random.key(3)
    value, aux = loss(variables["params"], {}, batch, rng)
    keys = jax.vmap(jax.random.split)(example_keys(rng, batch))
    images = jax.vmap(augment)(keys[:, 0], batch["image"])
    output = jax.jit(model.apply)(variables, images, draw_noise(keys[:, 1], 16))
    losses = masked_reconstruction_loss(output.prediction, pixel_target(images, 2, normalize=True), output.mask)
    # The same float32 operations: only their fusion may differ.
    np.testing.assert_allclose(value, losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["loss"], (losses.sum(), 2), rtol=1e-5)
    assert aux.model_state == {}


def test_every_record_has_the_same_mask_at_every_evaluation_and_in_any_batch(evaluate, variables):
    def total_of(*batches):
        sums = [evaluate(variables, batch_of(indices))["loss"] for indices in batches]
        return sum(float(s) for s, _ in sums), sum(float(n) for _, n in sums)

    indices = list(range(8))
    whole = total_of(indices)
    assert whole[1] == 8 and total_of(indices) == whole
    for batches in ([indices[:4], indices[4:]], [indices[::-1]], [indices[:5] + [-1] * 3, [*indices[5:]] + [-1] * 5]):
        value, count = total_of(*batches)
        assert count == 8
        assert value == pytest.approx(whole[0], rel=1e-6)  # float32 sums in another order


def test_padding_rows_do_not_count_whatever_they_hold(evaluate, variables):
    batch = batch_of([1, 2, -1, -1])
    other = batch | {"image": batch["image"].at[2:].set(255)}
    first, second = evaluate(variables, batch)["loss"], evaluate(variables, other)["loss"]
    assert first[1] == 2 and tuple(map(float, first)) == tuple(map(float, second))


def test_training_draws_another_mask_every_step(loss, variables):
    losses = {float(loss(variables["params"], {}, batch_of([1, 2]), jax.random.key(step))[0]) for step in range(3)}
    assert len(losses) == 3
