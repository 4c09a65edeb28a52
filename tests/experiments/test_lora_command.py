"""`--lora` of supervised and finetune: runs of a few steps on the digits, what other commands read, what is refused."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cvjax.data.sources import open_dataset
from cvjax.interop import load_weights, save_weights
from cvjax.models import create_model
from cvjax.tasks.lora import merged
from cvjax.train.checkpoint import restore_weights
from cvjax.train.log import RunLog
from cvjax.workflow.frozen.encoder import load_encoder
from cvjax.workflow.restore import load_run
from experiments.wiring.plan import prepare
from tests.experiments.tiny_vit import write_vit_run

NAME, FIELDS = "vit_tiny_patch16_224", dict(patch_size=4, width=12, depth=1, heads=2)
MODEL = ("--model", NAME, "--model-fields", *(f"{name}={value}" for name, value in FIELDS.items()))
SHORT = ("--batch-size", 64, "--schedule", "cosine", "--crop-scale", 1, 1, "--no-flip", "--log-every", 2,
         "--checkpoint-every", 2, "--steps", 5)
LEARNT = 6 * 12 * 2 + 12 * 10 + 10  # rank 2: qkv (12, 36) and proj (12, 12); the head


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A weight file of the ViT, with a head of other classes."""
    model = create_model(NAME, image_size=8, in_channels=1, num_classes=3, **FIELDS)
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    save_weights(jax.jit(model.init)(jax.random.key(3), jnp.zeros((1, 8, 8, 1))), model, path)
    return path


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures take most of a short run's time."""
    import cvjax.workflow.classification.goal as goal
    import cvjax.workflow.classification.report as report
    import cvjax.workflow.folder as folders

    for module, names in ((goal, ("plot_confusion", "plot_reliability")),
                          (report, ("_draw_mistakes", "_explain", "_draw_kernels"))):
        for name in names:
            monkeypatch.setattr(module, name, lambda *_, **__: None)
    monkeypatch.setattr(folders, "plot_curves", lambda *_: None)


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_a_run_learns_updates_resumes_and_gives_the_merged_network(command, base, no_pictures, monkeypatch, tmp_path):
    """Stopped and gone on with, a run ends at the same bits."""
    import cvjax.workflow.training as training

    options = (*MODEL, *SHORT, "--pretrained", base, "--lora", 2, "--lora-alpha", 6)
    run = tmp_path / "run"
    done = command("supervised", "--run-dir", run, *options)
    assert done.status == 0, done.err
    assert "lora: 2 kernels learn an update of rank 2, times 3\n" in done.out
    weights, _ = restore_weights(run / "checkpoints")
    variables = weights["ema"] or {"params": weights["params"], **weights["model_state"]}
    still = flatten_dict(variables["frozen"]["params"], sep="/")
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == LEARNT
    assert f"model: {LEARNT} of {LEARNT + sum(map(np.size, still.values())):,} parameters learn, float32" in done.out

    loaded = load_run(run)
    before = flatten_dict(load_weights(loaded.model, base)["params"], sep="/")
    after = flatten_dict(loaded.variables["params"], sep="/")
    assert after.keys() == before.keys() and still.keys() == {name for name in after if not name.startswith("head/")}
    for name, leaf in still.items():
        np.testing.assert_array_equal(leaf, before[name], err_msg=name)
    moved = {name for name in after if not np.array_equal(after[name], before[name])}
    assert moved == {"blocks/0/attn/qkv/kernel", "blocks/0/attn/proj/kernel", "head/kernel", "head/bias"}
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, merged(variables, 6.0))
    jax.tree.map(np.testing.assert_array_equal, load_encoder(run).variables["params"],
                 {name: tree for name, tree in loaded.variables["params"].items() if name != "head"})
    assert summary(run)["protocol"]["parameters"] == sum(map(np.size, still.values()))

    save_weights(loaded.variables, loaded.model, tmp_path / "merged.safetensors", layout="timm")
    jax.tree.map(np.testing.assert_array_equal, load_weights(loaded.model, tmp_path / "merged.safetensors", whole=True),
                 jax.device_get(loaded.variables))
    judged = command("evaluate", "--checkpoint", run, "--run-dir", tmp_path / "judged")
    assert judged.status == 0, judged.err
    assert summary(tmp_path / "judged")["metrics"]["test/top1"] == summary(run)["metrics"]["test/top1"]

    class Pulled(Exception):
        """The plug."""

    class PulledAfter(RunLog):
        def step(self, step, *rest):
            if step == 4:
                raise Pulled
            return super().step(step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training, "RunLog", PulledAfter)
        with pytest.raises(Pulled):
            command("supervised", "--run-dir", tmp_path / "again", *options)
    done = command("supervised", "--run-dir", tmp_path / "again", *options)
    assert done.status == 0 and "resuming" in done.out, done.err
    assert summary(tmp_path / "again")["params_sha256"] == summary(run)["params_sha256"]
    assert summary(tmp_path / "again")["metrics"] == summary(run)["metrics"]


@pytest.mark.parametrize("arguments, message", [
    ("--lora 0", "--lora 0: it must be at least 1, or left out"),
    ("--lora 2", "--lora 2: it must be left out without --pretrained"),
    ("--lora-alpha 2", "--lora-alpha 2.0: it must be left out without --lora"),
    ("--lora-layers all", "--lora-layers all: it must be attention without --lora"),
    ("--lora 2 --lora-alpha 0 --pretrained BASE", "--lora-alpha 0.0: it must be more than 0"),
    ("--lora 2 --freeze backbone --pretrained BASE", "--freeze backbone: it must be none with --lora"),
    ("--lora 2 --norm-bias-rate 2 --optimizer sgd --pretrained BASE", "--norm-bias-rate 2.0: it must be 1 with --lora"),
    ("--lora 13 --pretrained BASE",
     "--lora 13: it must be at most 12, the rank that blocks/0/attn/proj/kernel (12, 12) can have"),
    ("--lora-r 2", "--lora-r: the option is called --lora RANK"),
])
def test_what_cannot_be_is_refused(command, base, arguments, message, tmp_path):
    done = command("supervised", *MODEL, *arguments.replace("BASE", str(base)).split(), "--run-dir", tmp_path / "run")
    assert message in done.complaint and not (tmp_path / "run").exists()


@pytest.mark.parametrize("pool, whole", [("token", {"head"}), ("avg", {"head", "fc_norm"})])
def test_what_the_weights_lack_learns_whole(base, pool, whole):
    run = prepare("supervised", [*MODEL, f"pool={pool}", "--pretrained", str(base), "--lora", "2", "--steps", "20"])
    assert run.state.params.keys() == {"blocks", *whole}


def test_other_networks_are_refused_by_name(command, tmp_path):
    model = create_model("resnet18", image_size=8, in_channels=1, num_classes=10, width=8, depths=(1,))
    path = tmp_path / "resnet.safetensors"
    save_weights(jax.jit(model.init)(jax.random.key(3), jnp.zeros((1, 8, 8, 1))), model, path)
    done = command("supervised", "--model", "resnet18", "--model-fields", "width=8", "depths=(1,)", "--pretrained",
                   path, "--lora", 2, "--run-dir", tmp_path / "run")
    assert "--lora 2: a ResNet has no attention kernels; it is for ViTs and Swins" in done.complaint


def test_a_network_from_scratch_is_refused(command, tmp_path):
    done = command("finetune", "--scratch", "--lora", 2, "--run-dir", tmp_path / "run")
    assert "--lora 2: it must be left out with --scratch" in done.complaint


@pytest.mark.slow
def test_fine_tuning_learns_updates_of_a_run(command, no_pictures, tmp_path):
    base, draw = write_vit_run(tmp_path / "base", plain=False), np.random.default_rng(0)
    parts = {"images": draw.integers(0, 256, (24, 32, 32, 3), np.uint8), "labels": np.arange(24) % 3}
    np.savez(tmp_path / "data.npz", **{f"{part}_{name}": array for part in ("train", "test")
                                       for name, array in parts.items()})
    done = command("finetune", "--checkpoint", base, "--data", f"npz:{tmp_path}/data.npz", "--lora", 2, "--steps", 2,
                   "--batch-size", 8, "--base-learning-rate", 1, "--run-dir", tmp_path / "run")
    assert done.status == 0, done.err
    assert "update of rank 2, times 1; fc_norm/bias, fc_norm/scale learn whole, because the weights lack" in done.out
    before, after = (flatten_dict(load_run(run).variables["params"], sep="/") for run in (base, tmp_path / "run"))
    moved = {name for name in before.keys() & after.keys() if not np.array_equal(before[name], after[name])}
    assert {name for name in moved if not name.startswith("head/")} == {
        "blocks/0/attn/qkv/kernel", "blocks/0/attn/proj/kernel"}
    assert np.any(after["fc_norm/bias"]) and np.any(after["fc_norm/scale"] != 1), "the base has no such norm"


@pytest.mark.slow
def test_updates_of_a_network_that_knows_other_digits_beat_its_head_alone(command, no_pictures, tmp_path):
    """A ViT that learnt 0 to 4 learns 5 to 9: all digits are new to its head, and its features were made for others."""
    digits = open_dataset("digits")
    for name, chosen in (("low", lambda labels: labels < 5), ("high", lambda labels: labels >= 5)):
        parts = {f"{part}_{what}": array for part, source in (("train", digits.train), ("test", digits.test))
                 for keep in [chosen(source.labels)]
                 for what, array in (("images", source.images[keep]), ("labels", source.labels[keep] % 5))}
        np.savez(tmp_path / f"{name}.npz", **parts)
    model = ("--model", NAME, "--model-fields", "patch_size=2", "width=32", "depth=2", "heads=4")
    steps = ("--batch-size", 64, "--schedule", "cosine", "--crop-scale", 1, 1, "--no-flip", "--optimizer", "adamw",
             "--base-learning-rate", 0.02, "--ema-decay", None)

    def accuracy(name: str, *arguments) -> float:
        done = command("supervised", *model, *steps, "--run-dir", tmp_path / name, *arguments)
        assert done.status == 0, done.err
        return summary(tmp_path / name)["metrics"]["test/top1"]

    low = accuracy("low", "--data", f"npz:{tmp_path}/low.npz", "--steps", 200)
    more = ("--data", f"npz:{tmp_path}/high.npz", "--pretrained", tmp_path / "low", "--steps", 200)
    head = accuracy("head", *more, "--freeze", "backbone")
    lora = accuracy("lora", *more, "--lora", 4)
    assert low > 0.9 and lora > 0.7 and lora > head + 0.15, (low, head, lora)
