"""Numbers that are not finite: the first layer is named, and a step with one changes nothing."""

import re

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvjax.models import create_model
from cvjax.tasks.supervised import supervised_task
from cvjax.train.first_nonfinite import FirstNonFinite
from cvjax.train.state import create_state
from cvjax.train.step import make_train_step


def task_of(model):
    return supervised_task(model, augment=lambda key, images: images, preprocess=lambda images: images)


def batch_of(rows: int = 4, size: int = 8) -> dict:
    images = np.random.default_rng(0).uniform(0, 1, (rows, size, size, 3)).astype(np.float32)
    return {"image": images, "label": np.arange(rows) % 3, "index": np.arange(rows)}


def small_resnet(**fields):
    return create_model("resnet20", width=4, depths=(1, 1), num_classes=3, **fields)


def changed(state, name: str, value: float):
    """The state with one number of the parameter `name` replaced."""
    flat = flax.traverse_util.flatten_dict(state.params, sep="/")
    flat[name] = flat[name].at[(0,) * flat[name].ndim].set(value)
    return state.replace(params=flax.traverse_util.unflatten_dict(flat, sep="/"))


def step_of(model, *, watched: bool = True, **options):
    """`(state, step, watch)`."""
    task, optimizer, watch = task_of(model), optax.sgd(0.1), FirstNonFinite()
    state = create_state(lambda rng: task.init(rng, batch_of()), optimizer, jax.random.key(0), ema=False)
    step = make_train_step(task, optimizer, skip_nonfinite=True, **options)
    return state, jax.jit(watch.watching(step) if watched else step), watch


def test_the_first_layer_is_named_and_then_forgotten():
    state, step, watch = step_of(small_resnet())
    step(state, batch_of())
    assert watch.found() is None
    step(changed(state, "layer2/0/conv1/kernel", np.inf), batch_of())
    assert watch.found() == "the output of layer2/0/conv1"
    step(changed(state, "fc/bias", np.nan), batch_of())
    assert watch.found() == "the output of fc"
    step(state, batch_of())
    assert watch.found() is None


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_image_that_is_not_a_number_is_found_at_the_input(accumulate):
    state, step, watch = step_of(small_resnet(), accumulate=accumulate)
    batch = batch_of()
    batch["image"][1, 2, 3, 0] = np.nan
    after, metrics = step(state, batch)
    assert watch.found() == "the input of ResNet" and metrics["skipped"][0] == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


class Root(nn.Module):
    """A layer whose gradient is infinite where its output is zero."""

    @nn.compact
    def __call__(self, x):
        return jnp.sqrt(x)


class WithRoot(nn.Module):
    """Three logits; their gradient is infinite for a black image."""

    num_classes = 3
    auxiliary_heads = ()

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Dense(3, use_bias=False, name="first")(images.mean((1, 2)) ** 2)
        return nn.Dense(3, name="last")(Root(name="root")(jnp.abs(x)))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_infinite_gradient_behind_finite_outputs_is_named_and_its_step_not_made(accumulate):
    """Also of one micro-batch among others."""
    state, step, watch = step_of(WithRoot(), accumulate=accumulate)
    batch = batch_of()
    after, metrics = step(state, batch)
    assert watch.found() is None and metrics["skipped"][0] == 0
    batch["image"][2] = 0.0
    after, metrics = step(state, batch)
    assert watch.found() == "the gradient of the output of first" and metrics["skipped"][0] == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


@pytest.mark.slow
@pytest.mark.parametrize("dtype, large", [(jnp.float16, 1e5), (jnp.bfloat16, 2e38)])
def test_an_overflow_in_half_precision_is_named_and_its_step_not_made(dtype, large):
    """float16 ends at 65,504; bfloat16 at 3.4e38, which a sum over several channels of 2e38 exceeds."""
    state, step, watch = step_of(small_resnet(dtype=dtype))
    flat = flax.traverse_util.flatten_dict(state.params, sep="/")
    flat["fc/kernel"] = jnp.full_like(flat["fc/kernel"], large)
    broken = state.replace(params=flax.traverse_util.unflatten_dict(flat, sep="/"))
    after, metrics = step(broken, batch_of())
    assert watch.found() == "the output of fc" and metrics["skipped"][0] == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, broken.params)


def test_a_variance_that_overflows_behind_a_finite_loss_is_not_kept():
    """Activations of 1e20 have an infinite variance; the norm makes zeros of them, so that loss and gradient are
    finite. Evaluations would see zeros ever after."""
    state, step, watch = step_of(small_resnet(), watched=False)
    flat = flax.traverse_util.flatten_dict(state.params, sep="/")
    flat["conv1/kernel"] = flat["conv1/kernel"] * 1e20
    broken = state.replace(params=flax.traverse_util.unflatten_dict(flat, sep="/"))
    after, metrics = step(broken, batch_of())
    assert metrics["skipped"][0] == 1
    jax.tree.map(np.testing.assert_array_equal, after.model_state, state.model_state)


@pytest.mark.slow
def test_blocks_that_are_computed_twice_are_watched_too():
    model = create_model("vit_tiny_patch16_224", image_size=8, patch_size=4, width=12, depth=2, heads=2, num_classes=3,
                         remat="full")
    state, step, watch = step_of(model)
    step(state, batch_of())
    assert watch.found() is None
    step(changed(state, "blocks/1/mlp/fc1/kernel", np.inf), batch_of())
    assert watch.found() == "the output of blocks/1/mlp/fc1"


@pytest.mark.slow
def test_watched_steps_give_the_same_numbers():
    """Watching keeps XLA from fusing some operations, which moves float32 sums by some roundings."""
    (state, watched, _), (_, plain, _) = step_of(small_resnet()), step_of(small_resnet(), watched=False)
    ours, theirs = watched(state, batch_of()), plain(state, batch_of())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
                 (ours[0].params, ours[0].model_state, ours[1]), (theirs[0].params, theirs[0].model_state, theirs[1]))


def test_the_command_names_the_layer_and_the_examples(command, tmp_path):
    done = command("supervised", "--model", "mlp", "--model-fields", "hidden=(16,)", "--optimizer", "sgd", "--schedule",
                   "constant", "--warmup", 0, "--base-learning-rate", 1e37, "--steps", 3, "--batch-size", 12,
                   "--debug-nans", "--run-dir", tmp_path / "run")
    assert done.status == 2 and done.err.count("error: ") == 1
    found = re.search(r"error: step (\d) gave .*loss nan; the output of (\S+) was not finite first: training stopped.*"
                      r"examples, by position in the training set:( \d+){12}\n", done.err)
    assert found and found[1] == "2" and found[2] == "fc", done.err
