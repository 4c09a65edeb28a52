"""Every recipe of supervised training can be built, and the recipes of others are theirs, field by field."""

import dataclasses
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.data.augment import normalize
from cvjax.data.crops import EvaluationCrop
from cvjax.data.preprocessing import IMAGENET_MEAN, Preprocessing
from cvjax.models import create_model, list_models
from cvjax.workflow.classification.augmentation import criterion, mixing, normalized_operations, pixel_operations
from cvjax.workflow.classification.model import parse_fields
from cvjax.workflow.prepared import build_optimizer
from experiments.recipes import Recipe
from experiments.recipes.page import contradictions, experiments, page
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
    from cvjax.workflow.augmentation import Augmentation
    from cvjax.workflow.image_inputs import ImageInputs

    source = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int32))
    seen = []
    inputs = ImageInputs(Dataset(source, None, ("a",), 3), 8, 2, BadFiles(4, 0.0, None), Preprocessing(),
                         Augmentation(pixel_operations=(lambda key, image: seen.append(key) or image,) * 2,
                                      normalized_operations=(lambda key, image: seen.append(key) or image,)))
    key = jax.random.key(5)
    inputs.augment(key, source.images[0])
    numbers = [tuple(np.asarray(jax.random.key_data(each)).tolist()) for each in [*seen, *jax.random.split(key)]]
    assert len(seen) == 3 and len(set(numbers)) == 5


@pytest.mark.parametrize("name", [name for name, _, _ in experiments()])
def test_presets_agree_with_what_their_sources_state(name):
    _, module, recipes = next(each for each in experiments() if each[0] == name)
    assert contradictions(module, recipes) == []


def test_a_preset_with_an_unstated_difference_is_found():
    @dataclasses.dataclass(frozen=True)
    class Options:
        rate: float = 0.1
        decay: float = 0.0
        workers: int = 0

    def found(preset, **table):
        return contradictions(types.SimpleNamespace(Config=Options, PRESETS={"a": preset}), {"a": Recipe("x", **table)})

    assert found(dict(rate=0.2, workers=3), states=dict(rate=0.2, decay=0.0)) == []
    assert found(dict(rate=0.2), states=dict(rate=0.3), differs=dict(rate="It diverged.")) == []
    assert found(dict(rate=0.2), states=dict(rate=0.3)) == [
        "a: rate is 0.2, the source has 0.3, and no reason is given"]
    assert found(dict(rate=0.2), states=dict(rate=0.2), differs=dict(rate="It diverged.")) == [
        "a: rate is the source's 0.2, but a reason for another value is given"]
    assert found(dict(rate=0.2), states=dict(decay=0.0)) == ["a: rate is set, and the table says nothing of it"]
    assert found({}, states=dict(speed=1)) == ["a: there is no field speed"]
    assert contradictions(types.SimpleNamespace(Config=Options, PRESETS={}), {"b": Recipe("x", {})}) == [
        "there is no preset b"]


def test_the_page_of_recipes_is_written_anew():
    """`python -m experiments.recipes` writes it."""
    assert (Path(__file__).parents[2] / "docs" / "recipes.md").read_text() == page()


def test_what_torchvisions_second_recipe_averages():
    """Its average keeps 1 - 0.00002 x 1024 x 32 / 600 of itself every 32 steps, so that a run of 600 epochs forgets its
    first network; and it starts anew in the warm-up."""
    config = Config(**PRESETS["resnet50_torchvision_v2"])
    assert config.ema_decay == pytest.approx(0.998908, abs=5e-7) and config.ema_every == 32
    assert config.ema_decay ** (1 / 32) == pytest.approx(0.99996585, abs=5e-9)
    steps = 600 * 1_281_167 // 1024
    assert config.ema_decay ** (steps / 32) < 1e-10
    assert config.ema_start * steps == pytest.approx(5 * 1_281_167 / 1024, rel=1e-5)


@pytest.mark.parametrize(("name", "training", "judged", "resized"), [
    ("resnet50_a3", 160, 224, 235), ("resnet50_torchvision_v2", 176, 224, 232), ("resnet50_a1", 224, 224, 235),
    ("resnet50", 224, 224, 256)])
def test_sizes_of_training_crops_and_of_test_images(name, training, judged, resized):
    """A3's crop of 0.95 of 224 pixels is one of 235, as in timm; torchvision resizes to 232."""
    config = Config(**PRESETS[name])
    assert config.image_size == training and (config.eval_size or config.image_size) == judged
    crop = EvaluationCrop(judged, 3, Preprocessing(crop=config.crop or 0.875)).resized
    assert (crop.size, crop.resize) == (judged, resized)


def test_mixed_targets_count_in_full_in_a1_to_a3():
    """0.7 and 0.3 of two classes are two yeses; smoothing leaves the others noes."""
    for name in ("resnet50_a1", "resnet50_a2", "resnet50_a3"):
        config = Config(**PRESETS[name])
        logits = jnp.array([[2.0, -1.0, 0.5, -3.0]])
        softplus = np.log1p(np.exp([-2.0, 1.0, 0.5, -3.0]))
        np.testing.assert_allclose(criterion(config)(logits, jnp.array([[0.7, 0.25, 0.025, 0.025]])),
                                   [softplus.mean()], rtol=1e-6)


def test_networks_with_response_normalisation_learn_from_raw_pixels():
    """LRN's factor (k + alpha/n sum x^2) ** -0.75 is 2 ** -0.75 = 0.5946 for small numbers, whatever they are."""
    raw = [name for name in list_models() if "num_classes" in {f.name for f in dataclasses.fields(create_model(name))}
           and create_model(name).raw_pixels]
    assert raw == ["alexnet_grouped", "googlenet_lrn"]
    how = Preprocessing.of(3, raw_pixels=True)
    white = normalize(jnp.full((1, 1, 3), 255, jnp.uint8), how.mean, how.std)
    np.testing.assert_allclose(white[0, 0], 255 * (1 - np.array(IMAGENET_MEAN)), rtol=1e-6)
    assert Preprocessing.of(1, raw_pixels=True).std == (1 / 255,)
