"""Distillation on the digits, a few steps at a time: what a teacher sees, what is saved, resumed and refused."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError
from cvjax.interop import save_weights
from cvjax.models import create_model
from cvjax.tasks.task import outputs_of
from cvjax.train.checkpoint import restore_weights
from cvjax.train.log import TIMING, RunLog
from cvjax.workflow.distillation import open_teacher
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.frozen.encoder import load_encoder
from cvjax.workflow.normalization import normalized, preprocess
from cvjax.workflow.restore import load_run
from experiments.wiring.plan import prepare
from tests.experiments.written_runs import write_run

DIGITS = tuple("0123456789")
TINY = ("--model", "linear", "--model-fields", "--batch-size", 32, "--log-every", 2, "--schedule", "cosine",
        "--crop-scale", 1, 1, "--steps", 6, "--checkpoint-every", 2)
# The student of the preset without its teacher, and without mixup, which does not help it alone.
ALONE = ("--model", "mlp", "--model-fields", "hidden=(64,)", "--fraction", 0.05, "--epochs", 200, "--batch-size", 32,
         "--base-learning-rate", 0.8)
VIT = ("width=8", "heads=2", "depth=1", "patch_size=4", "image_size=8", "in_channels=1", "num_classes=10")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A linear classifier of the digits, which was written and not trained."""
    return write_run(tmp_path / "teacher", names=DIGITS)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take half of a short run's time."""
    import cvjax.workflow.classification.goal as goal
    import cvjax.workflow.classification.report as report
    import cvjax.workflow.folder as folders

    for module, names in ((goal, ("plot_confusion", "plot_reliability")),
                          (report, ("_draw_mistakes", "_explain", "_draw_kernels"))):
        for name in names:
            monkeypatch.setattr(module, name, lambda *_, **__: None)
    monkeypatch.setattr(folders, "plot_curves", lambda *_: None)


@pytest.fixture
def pulled(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`pulled(arguments...)`: a distillation whose plug is pulled in its fifth step."""
    class Pulled(Exception):
        """The plug."""

    class PulledAfter(RunLog):
        def step(self, step: int, *rest: Any) -> Any:
            if step == 5:
                raise Pulled
            return super().step(step, *rest)

    import cvjax.workflow.training as training

    def run(*arguments: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(training, "RunLog", PulledAfter)
            with pytest.raises(Pulled):
                command("distill", *arguments)

    return run


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in found]


def write_vit(path: Path, **fields: Any) -> Any:
    """A small ViT with drawn parameters, whose weights are in a file."""
    model = create_model("vit_tiny_patch16_224", width=8, heads=2, depth=1, patch_size=4, image_size=8, in_channels=1,
                         **fields)
    variables = model.init(jax.random.key(1), jnp.zeros((1, 8, 8, 1)))
    save_weights(variables, model, path)
    return model, variables


# --- the teacher


def test_the_teacher_sees_the_students_pictures_at_its_size_and_with_its_statistics(teacher: Path) -> None:
    opened = open_teacher(str(teacher), None, (), encoder=False, dtype="float32")
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    student = Preprocessing((0.3,), (0.2,))
    images = normalized(pictures, student)
    for how, size in ((Preprocessing((0.5,), (0.5,)), 8), (Preprocessing((0.1,), (0.4,)), 12)):
        other = dataclasses.replace(opened, preprocessing=how, image_size=size)
        # Two roundings of numbers up to 255 / 0.2 / 255 = 5: a few units of 5 x 2**-24.
        np.testing.assert_allclose(other.seen(images, student), preprocess(pictures, size, how), atol=1e-5)
    alike = dataclasses.replace(opened, preprocessing=dataclasses.replace(student, crop=0.5))
    assert alike.seen(images, student) is images
    np.testing.assert_allclose(
        opened.asked(student)(opened.variables, images),
        outputs_of(load_run(teacher).model, opened.variables, normalized(pictures, opened.preprocessing)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [False, True])
def test_a_published_teacher_is_read_from_its_file(tmp_path: Path, encoder: bool) -> None:
    model, variables = write_vit(tmp_path / "vit.safetensors", num_classes=10)
    opened = open_teacher("vit_tiny_patch16_224", str(tmp_path / "vit.safetensors"), VIT[:-encoder or None],
                          encoder=encoder, dtype="float32")
    images = jax.random.normal(jax.random.key(2), (2, 8, 8, 1))
    expected = model.apply(variables, images, method="features" if encoder else None)
    np.testing.assert_allclose(opened.answers(opened.variables, images), expected, atol=1e-6)
    assert opened.width == (8 if encoder else 10) and opened.learnt is None


def test_it_answers_in_evaluation_mode(teacher: Path) -> None:
    """A batch norm that saw the batch would answer otherwise to an image beside others."""
    model = create_model("resnet20", width=4, depths=(1,), image_size=8, in_channels=1, num_classes=10)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    opened = open_teacher(str(teacher), None, (), encoder=False, dtype="float32")

    def answers(variables: Any, images: jax.Array) -> jax.Array:
        return outputs_of(model, variables, images, train=False)

    asked = dataclasses.replace(opened, variables=variables, answers=answers).asked(opened.preprocessing)
    images = jax.random.normal(jax.random.key(2), (3, 8, 8, 1))
    np.testing.assert_allclose(asked(variables, images)[:1], asked(variables, images[:1]), atol=1e-5)


def test_the_features_of_a_network_that_is_all_head_are_its_pixels(teacher: Path) -> None:
    opened = open_teacher(str(teacher), None, (), encoder=True, dtype="float32")
    images = jax.random.normal(jax.random.key(2), (2, 8, 8, 1))
    np.testing.assert_array_equal(opened.answers(opened.variables, images), images.reshape(2, 64))


# --- runs


def test_weights_and_teacher_are_taken_down_alike_with_and_without_a_measurement(
        command: Callable[..., Any], teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--minutes` prepares a training twice, and only once when it goes on: then both orders are compared."""
    import cvjax.workflow.budget as budget
    import experiments.wiring.distill as wiring

    def measured(prepare: Callable[..., Any], config: Any, folder: RunFolder) -> tuple[float, float]:
        prepare(config, RunFolder(dataclasses.replace(config, dry_run=True), folder.experiment, folder.name))
        return 10.0, 1.0

    found: list[list[Any]] = []
    monkeypatch.setattr(budget, "seconds_per_step", measured)
    monkeypatch.setattr(wiring, "train_one", lambda prepared, config, folder, stop: found.append([*folder.origins]))
    model = create_model("resnet20", width=4, depths=(1,), image_size=8, in_channels=1, num_classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    save_weights(jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes), model,
                 tmp_path / "start.safetensors")
    arguments = ("--teacher", teacher, "--pretrained", tmp_path / "start.safetensors", *TINY[:-4], "--model",
                 "resnet20", "--model-fields", "width=4", "depths=(1,)")
    for i, more in enumerate((("--steps", 6), ("--minutes", 1))):
        done = command("distill", *arguments, *more, "--run-dir", tmp_path / f"run{i}")
        assert done.status == 0, done.err
    assert found[0] == found[1] and len(found[0]) == 2


@pytest.mark.slow
def test_a_stopped_run_refuses_another_teacher_and_ends_as_one_that_was_not(
        command: Callable[..., Any], pulled: Callable[..., None], teacher: Path, tmp_path: Path) -> None:
    """No checkpoint holds the teacher, so that it must be the same one."""
    arguments = ("--teacher", teacher, *TINY, "--temperature", 3, "--ema-decay", 0.9)
    whole = command("distill", "--run-dir", tmp_path / "whole", *arguments)
    assert whole.status == 0, whole.err
    pulled("--run-dir", tmp_path / "stopped", *arguments)
    weights, meta = restore_weights(tmp_path / "stopped" / "checkpoints")
    assert weights["params"].keys() == {"fc"} == weights["ema"]["params"].keys() and not weights["model_state"]
    assert (meta["experiment"], meta["kind"]) == ("distill", "classifier")
    shutil.rmtree(teacher)
    write_run(teacher, 3.0, names=DIGITS, step=2)
    assert command("distill", "--run-dir", tmp_path / "stopped", *arguments).complaint == (
        f"error: {tmp_path}/stopped learnt from {teacher} at step 1, now {teacher} at step 2, which its checkpoints do "
        "not hold: put it back, --overwrite to train anew, or give another --run-dir")
    shutil.rmtree(teacher)
    write_run(teacher, names=DIGITS)
    done = command("distill", "--run-dir", tmp_path / "stopped", *arguments)
    assert done.status == 0 and "at step 4 of 6" in done.out, done.err
    first, second = summary(tmp_path / "whole"), summary(tmp_path / "stopped")
    assert first["params_sha256"] == second["params_sha256"] and first["metrics"] == second["metrics"]
    assert lines(tmp_path / "whole") == lines(tmp_path / "stopped")
    assert first["protocol"]["teacher"] == str(teacher) and first["protocol"]["teacher_parameters"] == 650
    assert {line["train/teacher/top1"] for line in lines(tmp_path / "whole") if "train/loss" in line}
    assert load_run(tmp_path / "whole").class_names == DIGITS


@pytest.mark.slow
def test_another_file_in_its_place_is_refused(command: Callable[..., Any], pulled: Callable[..., None],
                                              tmp_path: Path) -> None:
    file = tmp_path / "vit.safetensors"
    model, variables = write_vit(file, num_classes=10)
    arguments = ("--run-dir", tmp_path / "run", "--teacher", "vit_tiny_patch16_224", "--teacher-weights", file,
                 "--teacher-fields", *VIT, *TINY)
    pulled(*arguments)
    save_weights(jax.tree.map(lambda x: x + 1, variables), model, file)
    assert f"{tmp_path}/run learnt from {file} with the hash" in command("distill", *arguments).complaint


@pytest.mark.slow
def test_an_encoder_learns_features_without_labels_and_other_commands_read_it(
        command: Callable[..., Any], teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import experiments.wiring.distill as wiring

    monkeypatch.setattr(wiring, "probe_pretrained", lambda *_, **__: ({}, {}))
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "unlabelled.npz", train_images=images)
    model, variables = write_vit(tmp_path / "vit.safetensors", num_classes=0)
    done = command("distill", "--method", "features", "--data", f"npz:{tmp_path}/unlabelled.npz", "--teacher",
                   "vit_tiny_patch16_224", "--teacher-weights", tmp_path / "vit.safetensors", "--teacher-fields",
                   *VIT[:-1], "--run-dir", tmp_path / "run", *TINY, "--model", "mlp", "--model-fields", "hidden=(6,)")
    assert done.status == 0, done.err
    weights, _ = restore_weights(tmp_path / "run" / "checkpoints")
    assert weights["params"]["projection"]["kernel"].shape == (6, 8)
    encoder = load_encoder(tmp_path / "run")
    assert encoder.name == "student"
    jax.tree.map(np.testing.assert_array_equal, encoder.variables["params"], weights["ema"]["params"]["backbone"])


def test_a_plan_counts_the_teacher(teacher: Path) -> None:
    prepared = prepare("distill", ["digits", "--teacher", str(teacher), *map(str, TINY)])
    assert jax.tree.map(jnp.shape, prepared.state.constants) == {
        "teacher": {"params": {"fc": {"kernel": (64, 10), "bias": (10,)}}}}
    assert "teacher" not in prepared.state.ema


@pytest.mark.slow
def test_a_student_beats_the_same_network_that_learns_alone(command: Callable[..., Any], tmp_path: Path) -> None:
    """The default preset with three seeds, after a shorter training of its teacher; docs/results.md has whole runs."""
    done = command("supervised", "--epochs", 10, "--run-dir", tmp_path / "teacher")
    assert done.status == 0, done.err

    def top1(experiment: str, seed: int, *arguments: Any) -> float:
        folder = tmp_path / f"{experiment}-{seed}"
        done = command(experiment, "--seed", seed, "--run-dir", folder, *arguments)
        assert done.status == 0, done.err
        return summary(folder)["metrics"]["test/top1"]

    alone = [top1("supervised", seed, *ALONE) for seed in range(3)]
    taught = [top1("distill", seed, "--teacher", tmp_path / "teacher") for seed in range(3)]
    assert np.mean(taught) > np.mean(alone) + 0.005, (alone, taught)


# --- what is refused


def test_a_teacher_of_other_classes_is_refused_in_one_line(command: Callable[..., Any], tmp_path: Path) -> None:
    write_run(tmp_path / "teacher")
    assert command("distill", "--teacher", tmp_path / "teacher", "--run-dir", tmp_path / "run", *TINY).complaint == (
        "error: the checkpoint knows 2 classes (dark, light), digits has 10 classes (0, 1, 2, ...): they must be the "
        "same, in the same order")
    write_vit(tmp_path / "vit.safetensors", num_classes=7)
    done = command("distill", "--teacher", "vit_tiny_patch16_224", "--teacher-weights", tmp_path / "vit.safetensors",
                   "--teacher-fields", *VIT[:-1], "num_classes=7", "--run-dir", tmp_path / "run", *TINY)
    assert done.complaint == ("error: --teacher vit_tiny_patch16_224 knows 7 classes, digits has 10: they must be the "
                              "same, in the same order")


@pytest.mark.parametrize("arguments, words", [
    (("--teacher", "nowhere"), "--teacher nowhere: it must be the folder of a run, or a name from list_models()"),
    (("--teacher-weights", "x.pth"), "leave out --teacher-weights and --teacher-fields"),
    (("--method", "token"), "--method token: linear has no distillation token"),
    (("--teacher", "resnet50", "--teacher-weights", "none.pth"), "--teacher-weights none.pth"),
    (("--teacher", "lenet5"), "timm publishes no weights of lenet5"),
    (("--hard-weight", 2), "--hard-weight 2.0: it must be in [0, 1]"),
    (("--temperature", 0), "--temperature 0.0: it must be more than 0"),
    (("--method", "features", "--temperature", 2), "--temperature 2.0: it must be left out with --method features"),
    (("--method", "features", "--label-smoothing", 0.1), "--label-smoothing 0.1: it must be left out with --method"),
    (("--distance", "mse"), "--distance mse: it must be left out with --method logits"),
    (("--folds", 3), "--folds 3: it must be 0"),
    (("--teacher", "resnet50.a1_in1k", "--teacher-weights", "x.pth"), "'a1_in1k' names weights of timm, and --"),
    (("--teacher", "nowhere", "--data", "folder:/nowhere"), "--teacher nowhere: it must be the folder of a run"),
    (("--method", "features", "--model", "airbench94", "--image-size", 16), "--model airbench94: its first layer is "),
    (("--method", "features", "--model", "vit_tiny_patch16_224", "--model-fields", "patch_size=4", "--eval-size", 6),
     "--model vit_tiny_patch16_224 on images of 6x6x1: "),
])
def test_what_cannot_be_is_refused_in_one_line(command: Callable[..., Any], teacher: Path, tmp_path: Path,
                                               arguments: tuple, words: str) -> None:
    given = ("--teacher", teacher, "--run-dir", tmp_path / "run", *TINY, *arguments, "--dry-run")
    assert words in command("distill", *given).complaint


def test_a_teacher_of_colours_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "teacher", names=DIGITS, channels=3)
    with pytest.raises(ConfigError, match="takes images of 3 channels, digits has 1"):
        prepare("distill", ["digits", "--teacher", str(run), *map(str, TINY)])
