"""Every recipe of supervised training can be built: its model, its optimizer and schedule, its augmentation."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from cvjax.data.augment import IMAGENET_MEAN, normalize
from cvjax.experiment.augmentation import criterion, mixing, normalized_operations, pixel_operations
from cvjax.experiment.classifier import parse_fields
from cvjax.experiment.training import build_optimizer
from cvjax.models import create_model
from experiments.supervised import PRESETS, Config


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_fits_together(name):
    config = Config(**PRESETS[name])
    model = create_model(config.model, **parse_fields(config.model_fields))
    fields = {field.name for field in dataclasses.fields(model)}
    assert config.drop_path is None or "drop_path" in fields
    _, schedule = build_optimizer(config, 1000)
    rates = jax.vmap(schedule)(jnp.arange(1000))
    peak = config.base_learning_rate * config.batch_size / 256
    final = (config.final_rate or 0) * peak
    assert float(rates.max()) == pytest.approx(peak, rel=1e-3) and float(rates[-1]) < final + 0.02 * peak

    def augmented(key, image):
        for operation in pixel_operations(config, IMAGENET_MEAN):
            image = operation(key, image)
        image = normalize(image)
        for operation in normalized_operations(config):
            image = operation(key, image)
        return image

    def loss(key, images, targets, logits):
        images = jax.vmap(augmented)(jax.random.split(key, 4), images)
        mix = mixing(config)
        images, targets = mix(key, images, targets) if mix else (images, targets)
        return images, criterion(config)(logits, targets)

    images, losses = jax.eval_shape(loss, jax.random.key(0), jnp.zeros((4, 32, 32, 3), jnp.uint8), jnp.zeros((4, 10)),
                                    jnp.zeros((4, 10)))
    assert images.shape == (4, 32, 32, 3) and images.dtype == jnp.float32 and losses.shape == (4,)
