"""DINO on the digits, a few steps at a time: its files, a resumed run, and the warning about a collapse."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from cvjax.train.checkpoint import restore_weights
from cvjax.train.log import TIMING, RunLog
from cvjax.workflow.frozen.encoder import load_encoder

TINY = ("--model-fields", "width=8", "depths=(1,)", "--head-hidden", 32, "--head-bottleneck", 16, "--out-dim", 32,
        "--local-crops", 1, "--local-scale", 0.5, 1, "--color-jitter", 0, 0, 0, 0, "--batch-size", 32,
        "--log-every", 5)
GUARD = ("loss", "teacher_entropy", "kl_to_uniform", "center_norm", "top_prototype")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def pretrain(command, runs):
    """`pretrain("name", ...)`: how a run ended, and its folder."""
    def run(name: str, *arguments):
        done = command("dino_pretrain", "--run-dir", runs / name, *TINY, *arguments)
        assert done.status == 0, done.err
        return done, runs / name

    return run


@pytest.fixture
def no_probes(monkeypatch):
    """Probes and pictures take most of a short run's time."""
    import cvjax.workflow.folder as folders
    import experiments.wiring.dino_pretrain as wiring

    monkeypatch.setattr(wiring, "probe_pretrained", lambda *_, **__: ({}, {}))
    monkeypatch.setattr(folders, "plot_curves", lambda *_: None)
    monkeypatch.setattr(wiring, "draw_views", lambda *_, **__: None)


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in found]


@pytest.mark.slow
def test_a_run_writes_probes_of_the_teacher_what_the_guard_saw_and_a_picture_of_the_views(pretrain):
    _, folder = pretrain("whole", "--steps", 20)
    metrics = summary(folder)["metrics"]
    assert {"knn/dino", "knn/random", "knn/pixels", "linear_probe/dino", "collapsed"} <= metrics.keys()
    assert metrics["knn/pixels"] == pytest.approx(0.975, abs=0.01) and metrics["collapsed"] == 0
    logged = [line for line in lines(folder) if "train/loss" in line]
    assert [line["step"] for line in logged] == [5, 10, 15, 20]
    assert all(f"train/{name}" in line for line in logged for name in (*GUARD, "skipped"))
    assert all(0 <= line["train/teacher_entropy"] <= np.log(32) + 1e-5 for line in logged)
    assert (folder / "figures" / "views.png").stat().st_size > 10_000
    assert (folder / "figures" / "curves.png").exists()


@pytest.mark.slow
def test_what_is_probed_is_the_teacher(pretrain):
    _, folder = pretrain("whole", "--steps", 20)
    weights, _ = restore_weights(folder / "checkpoints", "latest")
    teacher, student = weights["model_state"]["dino"]["teacher"]["params"]["backbone"], weights["params"]["backbone"]
    encoder = load_encoder(folder)
    assert encoder.name == "dino"
    jax.tree.map(np.testing.assert_array_equal, encoder.variables["params"], teacher)
    assert not np.array_equal(student["conv1"]["kernel"], teacher["conv1"]["kernel"])


def test_a_classifier_starts_from_the_teachers_backbone(pretrain, command, runs, monkeypatch):
    _, folder = pretrain("whole", "--steps", 20)
    import experiments.wiring.supervised as wiring

    monkeypatch.setattr(wiring, "report", lambda *_, **__: {})
    done = command("supervised", "--run-dir", runs / "classifier", "--model-fields", "width=8", "depths=(1,)",
                   "--pretrained", folder, "--freeze", "backbone", "--steps", 1, "--schedule", "cosine")
    assert done.status == 0, done.err
    params = restore_weights(runs / "classifier" / "checkpoints", "latest")[0]["params"]
    teacher = load_encoder(folder).variables["params"]
    assert params.keys() - teacher.keys() == {"fc"}
    jax.tree.map(np.testing.assert_array_equal, {name: params[name] for name in teacher}, teacher)


@pytest.mark.slow
def test_a_stopped_run_ends_as_one_that_was_not(pretrain, command, runs, monkeypatch, no_probes):
    """Teacher, centre, temperature and held prototypes: all of it is in the checkpoint, to the last bit."""
    schedules = ("--steps", 14, "--checkpoint-every", 4, "--warmup-teacher-temperature", 0.1,
                 "--warmup-teacher-epochs", 1, "--weight-decay-end", 0.4, "--freeze-last-layer", 0.15)
    _, whole = pretrain("uninterrupted", *schedules)
    arguments = ("dino_pretrain", "--run-dir", runs / "stopped", *TINY, *schedules)

    class Pulled(Exception):
        """The plug."""

    class PulledAfter(RunLog):
        def step(self, step, *rest):
            if step == 11:
                raise Pulled
            return super().step(step, *rest)

    import cvjax.workflow.training as training

    with monkeypatch.context() as patch:
        patch.setattr(training, "RunLog", PulledAfter)
        with pytest.raises(Pulled):
            command(*arguments)
    assert command(*arguments).status == 0
    assert summary(runs / "stopped")["params_sha256"] == summary(whole)["params_sha256"]
    assert summary(runs / "stopped")["metrics"] == summary(whole)["metrics"]
    assert lines(runs / "stopped") == lines(whole)
    one, two = (restore_weights(f / "checkpoints", "latest")[0]["model_state"] for f in (whole, runs / "stopped"))
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.slow
def test_without_the_centre_the_default_run_collapses_says_so_and_stops(command, runs, no_probes):
    done = command("dino_pretrain", "--run-dir", runs / "collapsed", "--no-centering", "--steps", 400,
                   "--log-every", 20, "--collapse-patience", 3, "--stop-on-collapse")
    assert done.status == 0, done.err
    found = summary(runs / "collapsed")
    assert found["metrics"]["collapsed"] == 1 and "collapse: the teacher's entropy is 0" in done.out
    assert found["steps"] < 400 and found["steps"] % 20 == 0


@pytest.mark.slow  # compiles two networks; tests/models and tests/tasks have their parts
@pytest.mark.parametrize("backbone", [
    ("--model", "vit_tiny_patch16_224", "--model-fields", "patch_size=2", "width=16", "depth=2", "heads=2",
     "--drop-path", 0.1, "--pool", "token+avg"),
    ("--model", "swin_tiny_patch4_window7_224", "--model-fields", "patch_size=1", "width=8", "depths=(1,1)",
     "heads=(1,2)", "window=4", "--drop-path", 0.1),
    ("--model", "vit_tiny_patch16_224", "--model-fields", "patch_size=2", "width=16", "depth=1", "heads=2", "pool=avg",
     "class_token=False", "--pool", "avg"),
], ids=["vit", "swin", "vit without class token"])
def test_other_backbones_take_views_of_two_sizes(pretrain, backbone, no_probes):
    _, folder = pretrain(f"{backbone[1]}-{backbone[-1]}", *backbone, "--steps", 2)
    assert load_encoder(folder).name == "dino"


@pytest.mark.parametrize("arguments, words", [
    (("--ema-decay", 0.9), "--ema-decay 0.9: it must be left out"),
    (("--local-scale", 0.5, 0.2), "--local-scale"),
    (("--out-dim", 1), "--out-dim 1: it must be at least 2"),
    (("--teacher-temperature", 0), "--teacher-temperature 0.0: it must be more than 0"),
    (("--blur", 2, 0, 0), "--blur"),
    (("--model", "vit_tiny_patch16_224", "--model-fields", "patch_size=4", "--local-size", 6), "6"),
    (("--model-fields", "widht=8"), "widht"),
    (("--model", "vit_tiny_patch16_224", "--model-fields", "patch_size=4", "depth=1", "class_token=False", "pool=avg",
      "--local-size", 4), "--pool token: it must be avg"),
])
def test_what_cannot_be_is_refused_in_one_line(command, runs, arguments, words):
    done = command("dino_pretrain", "--run-dir", runs / "refused", "--dry-run", *arguments)
    assert done.status == 2 and words in done.err
    assert len(done.err.strip().splitlines()) == 1
