"""Plans: hand-worked bytes, arithmetic and traffic, and the command around them."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from cvjax.errors import ConfigError
from cvjax.layers.partition import spread_axis
from cvjax.models.summary import multiply_accumulates
from cvjax.train.layout import Layout
from cvjax.train.state import TrainState
from cvjax.workflow.accelerators import DEVICES
from cvjax.workflow.memory import measure_memory, size_text
from cvjax.workflow.plan import make_plan, traffic
from experiments.plan import split_arguments
from experiments.wiring import plan
from experiments.wiring.plan import prepare

TINY_VIT = ("supervised", "digits", "--model", "vit_tiny_patch16_224", "--model-fields", "width=16", "heads=2",
            "depth=3", "patch_size=4", "--batch-size", "32", "--optimizer", "adamw", "--crop-scale", "1", "1")


@pytest.fixture(scope="module")
def vit():
    return prepare(TINY_VIT[0], TINY_VIT[1:])


def linear(rows=8, width=128, classes=32):
    """A linear model with momentum, prepared by hand: everything about it is known."""
    params = {"w": jax.ShapeDtypeStruct((width, classes), jnp.float32),
              "v": jax.ShapeDtypeStruct((classes,), jnp.float32)}
    batch = {"image": jax.ShapeDtypeStruct((rows, width), jnp.float32)}

    def step(state, batch):
        def loss(params):
            return (jnp.sin(batch["image"] @ params["w"]) * params["v"]).mean()

        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, state.opt_state["momentum"], jax.grad(loss)(state.params))
        params = jax.tree.map(lambda p, v: p - 0.1 * v, state.params, velocity)
        return state.replace(params=params, opt_state={"momentum": velocity}), {}

    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, {}, {"momentum": params}, None,
                       jax.eval_shape(lambda: jax.random.key(0)))
    return SimpleNamespace(state=state, batch=batch, resident=0, step=step)


def test_memory_of_a_linear_model_is_the_hand_worked():
    found = measure_memory(linear(), Layout(2))
    matrix, vector = 4 * 128 * 32, 4 * 32
    # The most lies there when the matrix's gradient is computed, from the gradient of the answers of each device's
    # four rows. The vector's gradient has been used by then.
    answers = 4 * 32 * 4
    assert found == (*[matrix + vector] * 2, 0, 4 * 8 * 128 // 2, answers + matrix)
    spread_out = measure_memory(linear(), Layout(2, 1, "fsdp"))
    assert spread_out == (*[matrix // 2 + vector] * 2, 0, 4 * 8 * 128 // 2, answers + matrix // 2)


def test_norms_of_groups_are_planned_for_on_few_and_many_devices():
    """Groups of 32 images, of which 8 devices have 8 each."""
    prepared = prepare("supervised", ["resnet50", "--model", "resnet20", "--model-fields", "width=8", "depths=(1,)",
                                      "--image-size", "32", "--batch-size", "64", "--data", "blank:256,40,10"])
    one, eight = (measure_memory(prepared, Layout(count), "cuda").working for count in (1, 8))
    assert one / 8 < eight < one / 7, "all but what does not grow with the batch is split"


def test_arithmetic_counts_loops_and_the_costliest_alternative():
    a, b = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 5), (5, 5)))
    assert multiply_accumulates(lambda a, b: a @ b, a, b) == 75
    looped = multiply_accumulates(lambda a, b: jax.lax.scan(lambda c, _: (c @ b, None), a, length=4), a, b)
    assert looped == 4 * 75
    assert multiply_accumulates(
        lambda a, b: jax.lax.cond(a.sum() > 0, lambda: a @ b, lambda: a @ b @ b), a, b) == 150


def test_a_step_of_a_vit_costs_three_forward_passes(vit):
    def forward(params, batch):
        return vit.task.loss(params, {}, batch, jax.random.key(0))[0]

    once = multiply_accumulates(forward, vit.state.params, vit.batch)
    # The gradient of the images is not taken: the patch embedding costs two passes, not three.
    embedding = 32 * 4 * 16 * 16
    assert multiply_accumulates(vit.step, vit.state, vit.batch) == 3 * once - embedding


def test_traffic_follows_from_the_layout(vit):
    parameters = 4 * sum(leaf.size for leaf in jax.tree.leaves(vit.state.params))
    assert traffic(vit, Layout(1)) == {"summing gradients": 0}
    assert sum(traffic(vit, Layout(8)).values()) == pytest.approx(2 * 7 / 8 * parameters)
    assert sum(traffic(vit, Layout(8, 1, "fsdp")).values()) == pytest.approx(3 * 7 / 8 * parameters)
    split = traffic(vit, Layout(4, 2, "none", spread_axis))
    # Three blocks of an attention and an MLP, forward and backward, 8 images of 5 tokens of 16 numbers, a ring of two.
    assert split["summing split layers"] == 3 * 2 * 2 * (8 * 5 * 16 * 4) * 2 * (1 / 2)
    assert split["summing gradients"] < 2 * 3 / 4 * parameters, "each device has half of a block's gradients"


def test_time_is_arithmetic_over_rates(vit):
    found = make_plan(vit, Layout(4), DEVICES["h100"], 0.5)
    flops = 2 * multiply_accumulates(vit.step, vit.state, vit.batch) / 4
    assert found.flops == flops and found.compute_seconds == pytest.approx(flops / 494e12 / 0.5)
    assert found.link_seconds == pytest.approx(sum(found.traffic.values()) / 450e9)


def test_the_command_prints_a_plan_and_lowers(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan.run(plan.Config(devices=4, compile=False, lower=("tpu", "cuda", "rocm")), [*TINY_VIT, "--mesh", "model=2"])
    out = capsys.readouterr().out
    assert "batches split over 2, layers over 2" in out and "memory per device" in out
    assert "lowered for tpu, cuda, rocm" in out and "images/s" in out
    assert list(tmp_path.iterdir()) == []


def test_data_given_in_either_form_are_those_planned_for(capsys):
    plan.run(plan.Config(compile=False), ["supervised", "deit_small", "--data=blank:64,32,7", "--image-size", "32",
                                          "--batch-size", "16", "--parallel", "pmap"])
    assert "data blank:64,32,7: 64 training and 2 test images, 7 classes" in capsys.readouterr().out


@pytest.mark.parametrize(("experiment", "name"), [("simsiam_pretrain", "global"), ("mae_pretrain", "image")])
def test_a_preset_of_cifar10_is_planned_for_its_pictures(experiment, name):
    assert prepare(experiment, ["cifar10"]).batch[name].shape[-3:] == (32, 32, 3)


@pytest.mark.parametrize("device", ["b200", "mi300x", "tpu_v3"])
def test_devices_without_a_compiler_are_planned_for(device, capsys):
    plan.run(plan.Config(device=device, devices=1, compile=False), [*TINY_VIT])
    assert f"layout: 1 {device}" in capsys.readouterr().out


@pytest.mark.parametrize("options, complaint", [
    (("--batch-size", "36"), "--batch-size 36 does not split over 8 devices"),
    (("--mesh", "data=3"), "data times model must be the 8 devices"),
    (("--mesh", "model=8"), "mesh axis model=8 must divide the 2 heads"),
    (("--model", "resnet20", "--model-fields", "width=8", "depths=(1,1)", "--mesh", "model=2"), "is for transformers")])
def test_what_cannot_be_laid_out_is_refused(options, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = TINY_VIT[1:] if "--model" not in options else ("digits",)
    with pytest.raises(ConfigError, match=complaint):
        plan.run(plan.Config(devices=8), ["supervised", *arguments, *options])


@pytest.mark.slow
def test_a_training_refuses_heads_that_do_not_split_in_one_line(process, tmp_path):
    done = process("supervised", *TINY_VIT[1:], "--batch-size", 32, "--mesh", "model=4", "--run-dir", tmp_path / "run",
                   devices=4)
    assert "mesh axis model=4 must divide the 2 heads" in done.complaint


def test_the_plans_options_come_first():
    assert split_arguments(["--devices", "4", "supervised", "digits"]) == (["--devices", "4"], ["supervised", "digits"])
    with pytest.raises(ConfigError, match="which training"):
        split_arguments(["--devices", "4"])
    for bad in (dict(devices=0), dict(efficiency=0.0), dict(efficiency=1.5)):
        with pytest.raises(ConfigError):
            plan.Config(**bad)


def test_sizes_in_words():
    assert [size_text(x) for x in (999, 1e3, 2.5e6, 3e9, 4e12)] == ["999 B", "1.00 kB", "2.50 MB", "3.00 GB", "4.00 TB"]


def test_devices_here_are_those_of_the_help():
    field, = (field for field in dataclasses.fields(plan.Config) if field.name == "device")
    assert field.type.__args__ == tuple(DEVICES)
