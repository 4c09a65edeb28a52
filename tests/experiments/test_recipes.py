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


def test_airbenchs_rates_are_those_of_its_authors():
    """Their rates are of the sum over 1024 losses and, decoupled, of a step without momentum."""
    for name, rate, decay, warmup, final in (("94", 11.5, 0.0153, 109, 0.07), ("96", 9.0, 0.012, 177, 0.0)):
        config = Config(**PRESETS[f"cifar10_airbench{name}"])
        _, schedule = build_optimizer(config, config.steps)
        scale = 1024 * (1 + 1 / (1 - 0.85))
        peak = rate / scale * 1024
        rates = [float(schedule(step)) for step in (0, warmup, config.steps)]
        assert rates == pytest.approx([0.2 * peak, peak, final * peak], rel=1e-5, abs=1e-7)
        assert config.weight_decay * peak == pytest.approx(decay * 1024 / scale)
        assert config.momentum == 0.85 and config.decay == "all" and config.norm_bias_rate == 64


def test_a_run_too_short_for_its_warm_up_starts_at_the_peak():
    config = Config(**PRESETS["cifar10_airbench94"])
    assert float(build_optimizer(config, 4)[1](0)) == pytest.approx(config.base_learning_rate * 4)  # 1,024 of 256
    assert float(build_optimizer(config, 5)[1](0)) == pytest.approx(0.2 * config.base_learning_rate * 4)


def test_crop_and_colours_are_drawn_apart():
    """`fold_in(key, 0)` is the first key of `split(key)`: an operation that got it would repeat the crop's draws."""
    import jax
    import numpy as np

    from cvjax.data.bad_files import BadFiles
    from cvjax.data.dataset import ArraySource, Dataset
    from cvjax.experiment.inputs import Inputs

    source = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int32))
    seen = []
    inputs = Inputs(Dataset(source, None, ("a",), 3), 8, 2, BadFiles(4, 0.0, None),
                    pixel_operations=(lambda key, image: seen.append(key) or image,) * 2,
                    normalized_operations=(lambda key, image: seen.append(key) or image,))
    key = jax.random.key(5)
    inputs.augment(key, source.images[0])
    numbers = [tuple(np.asarray(jax.random.key_data(each)).tolist()) for each in [*seen, *jax.random.split(key)]]
    assert len(seen) == 3 and len(set(numbers)) == 5
