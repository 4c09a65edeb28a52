"""LoRA: where it starts, what learns and by which gradients, against layers that add x A B beside x W themselves."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from cvjax.layers.attention import QKV
from cvjax.layers.dense import Dense
from cvjax.models import create_model
from cvjax.tasks.lora import Lora, adapted_kernels, lora_start, lora_task, merged
from cvjax.tasks.supervised import supervised_task
from cvjax.train.optim import make_optimizer
from cvjax.train.state import create_state
from cvjax.train.step import make_train_step
from cvjax.workflow.classification.transfer import is_head

CLASSES, RANK, ALPHA = 3, 2, 6.0
MODELS = {
    "vit": create_model("vit_tiny_patch16_224", image_size=8, patch_size=4, width=12, depth=1, heads=3,
                        num_classes=CLASSES),
    "swin": create_model("swin_tiny_patch4_window7_224", image_size=16, patch_size=2, width=8, depths=(1, 1),
                         heads=(2, 4), window=2, num_classes=CLASSES),
}


def numbers(image):
    return image.astype(jnp.float32) / 127.5 - 1


def batch_of(model, count=6):
    images = np.random.default_rng(0).integers(0, 256, (count, model.image_size, model.image_size, 3), np.uint8)
    return {"image": jnp.asarray(images), "label": jnp.arange(count) % CLASSES, "index": jnp.arange(count),
            "mask": jnp.ones(count, bool)}


def task_of(model):
    return supervised_task(model, augment=lambda key, image: numbers(image), preprocess=numbers)


def lora_of(model, layers="attention"):
    return Lora(RANK, ALPHA, layers, partial(is_head, model))


def random_like(tree, seed):
    """Numbers of every size that a parameter has: B is no longer 0."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.3, x.shape), jnp.float32), tree)


def flat(tree):
    return flatten_dict(tree, sep="/")


def in_the_layers(model, learnt, frozen, images):
    """Outputs of the network whose layers add alpha / r (x A) B to x W (eq. 3), and how many do; nothing is merged."""
    whole = flatten_dict(frozen) | {path: leaf for path, leaf in learnt.items() if not path[-1].startswith("lora")}
    changed = []

    def adding(call, arguments, options, context):
        out, layer = call(*arguments, **options), context.module
        if context.method_name != "__call__" or not isinstance(layer, Dense | QKV):
            return out
        path = tuple(layer.scope.path)
        if (*path, "lora_a") not in learnt:
            return out
        changed.append(path)
        added = ALPHA / RANK * (arguments[0] @ learnt[*path, "lora_a"]) @ learnt[*path, "lora_b"]
        if isinstance(layer, Dense):
            return out + added
        batch, length, _ = added.shape
        return tuple(each + more.reshape(batch, length, layer.heads, -1)
                     for each, more in zip(out, jnp.split(added, 3, axis=-1), strict=True))

    with nn.intercept_methods(adding):
        return model.apply({"params": unflatten_dict(whole)}, images), changed


def test_it_starts_at_the_pretrained_network():
    model, lora = MODELS["vit"], lora_of(MODELS["vit"], "all")
    batch, plain = batch_of(model), task_of(model)
    task = lora_task(plain, lora)
    given = random_like(jax.eval_shape(plain.init, jax.random.key(0), batch), 1)
    start = lora_start(lambda fresh, pretrained: {**fresh, **pretrained}, lora)(
        jax.jit(task.init)(jax.random.key(0), batch), given)
    whole = merged(start, ALPHA)
    assert whole.keys() == {"params"}
    jax.tree.map(np.testing.assert_array_equal, whole, given)
    assert all(np.any(leaf) == path.endswith("_a") for path, leaf in flat(start["params"]).items() if "lora" in path)


@pytest.mark.parametrize("layers", ["attention", "all"])
@pytest.mark.parametrize("name", MODELS)
def test_exactly_so_many_parameters_learn(name, layers):
    model = MODELS[name]
    batch, plain = batch_of(model), task_of(model)
    given, start = (jax.eval_shape(task.init, jax.random.key(0), batch)
                    for task in (plain, lora_task(plain, lora_of(model, layers))))
    # Each kernel (D, K) has D r + r K numbers; in a block these are qkv (D, 3D), proj (D, D), fc1 (D, 4D), fc2 (4D, D).
    widths = [model.width] * model.depth if name == "vit" else [8, 16]
    last = widths[-1]
    per_width = 6 if layers == "attention" else 16
    assert sum(leaf.size for leaf in jax.tree.leaves(start["params"])) == (
        sum(per_width * RANK * width for width in widths) + last * CLASSES + CLASSES)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (start["frozen"], given)]
    assert sizes[0] == sizes[1] - (last * CLASSES + CLASSES)
    ends = {"/".join(path.split("/")[-3:]) for path in flat(start["params"])}
    modules = ["attn/qkv", "attn/proj", *(["mlp/fc1", "mlp/fc2"] if layers == "all" else [])]
    assert ends == {"head/kernel", "head/bias", *(f"{module}/lora_{x}" for module in modules for x in "ab")}


@pytest.mark.parametrize("name", ["vit", pytest.param("swin", marks=pytest.mark.slow)])
def test_outputs_and_gradients_are_those_of_layers_that_add_the_update_themselves(name):
    """To the rounding of float32: sums of at most 200 products, each off by 6e-8 of its terms, in another order."""
    model, lora = MODELS[name], lora_of(MODELS[name], "all")
    batch, plain = batch_of(model), task_of(model)
    task = lora_task(plain, lora)
    start = random_like(jax.eval_shape(task.init, jax.random.key(0), batch), 2)
    learnt, frozen = flatten_dict(start["params"]), start["frozen"]["params"]

    def loss(learnt):
        logits, changed = in_the_layers(model, learnt, frozen, numbers(batch["image"]))
        assert len(changed) == len(set(changed)) == len(adapted_kernels(frozen, "all"))
        return -jax.nn.log_softmax(logits)[jnp.arange(6), batch["label"]].mean(), logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(learnt)
    (ours, aux), our_gradients = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(
        start["params"], {"frozen": start["frozen"]}, batch, jax.random.key(1))
    assert ours == pytest.approx(float(value), rel=2e-5) and aux.model_state.keys() == {"frozen"}
    outputs = jax.jit(lambda variables: model.apply(merged(variables, ALPHA), numbers(batch["image"])))(start)
    np.testing.assert_allclose(outputs, logits, atol=2e-5 * np.abs(logits).max())
    for path, gradient in flatten_dict(our_gradients).items():
        assert np.abs(gradient).max() > 0, path
        np.testing.assert_allclose(gradient, gradients[path], atol=2e-5 * np.abs(gradients[path]).max(),
                                   err_msg="/".join(path))
    judged = jax.jit(task.evaluate)(start, batch)
    assert float(judged["loss"][0]) / 6 == pytest.approx(float(value), rel=2e-5)


def test_what_stands_still_keeps_every_bit_and_has_no_optimizer_state():
    model, lora = MODELS["vit"], lora_of(MODELS["vit"])
    batch, task = batch_of(model), lora_task(task_of(model), lora)
    optimizer = make_optimizer("adamw", lambda step: 0.1, weight_decay=0.1)
    state = first = jax.jit(lambda key: create_state(lambda rng: task.init(rng, batch), optimizer, key, ema=True))(
        jax.random.key(0))
    step = jax.jit(make_train_step(task, optimizer, ema_decay=0.6))
    for _ in range(3):
        state, _ = step(state, batch)
    for now in (state.model_state, {"frozen": state.ema["frozen"]}):
        jax.tree.map(np.testing.assert_array_equal, now, first.model_state)
    for path, leaf in flat(state.params).items():
        assert not np.array_equal(leaf, flat(first.params)[path]), path
    learnt = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * learnt


def test_the_update_is_scaled_by_alpha_over_the_rank():
    kernel, a, b = np.eye(3, dtype=np.float32), np.ones((3, 2), np.float32), np.ones((2, 3), np.float32)
    variables = {"params": {"attn": {"proj": {"lora_a": a, "lora_b": b}}, "head": {"bias": b}},
                 "frozen": {"params": {"attn": {"proj": {"kernel": kernel}}}}, "batch_stats": {"mean": a}}
    whole = merged(variables, 3.0)
    np.testing.assert_array_equal(whole["params"]["attn"]["proj"]["kernel"], kernel + 3)  # 3 / 2 times 2
    assert whole["params"]["head"] == {"bias": b} and whole["batch_stats"] == {"mean": a}


def test_a_task_that_changes_its_state_itself_is_refused():
    task = dataclasses.replace(task_of(MODELS["vit"]), post_update=lambda state, aux: state)
    with pytest.raises(ValueError, match="the task has a post_update; it must be one without"):
        lora_task(task, lora_of(MODELS["vit"]))


@pytest.mark.parametrize("name, fields, attention, both", [
    ("resnet18", dict(image_size=32), 0, 0), ("convnext_tiny", dict(image_size=32, depths=(1, 1, 1, 1)), 0, 8),
    ("vit_base_patch16_siglip_224", dict(image_size=32, width=12, depth=1, heads=2), 2, 6)])
def test_which_kernels_learn(name, fields, attention, both):
    """A pooling by attention is no part of the blocks, but its MLP is an MLP."""
    model = create_model(name, **fields)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert (len(adapted_kernels(params, "attention")), len(adapted_kernels(params, "all"))) == (attention, both)
