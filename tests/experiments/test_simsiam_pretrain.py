"""SimSiam on the digits, a few steps at a time: what is written, what is resumed, what is learnt and refused."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cvjax.train.checkpoint import restore_weights
from cvjax.train.log import TIMING, RunLog
from cvjax.train.optim import leaf_names
from cvjax.workflow.frozen.encoder import load_encoder
from cvjax.workflow.restore import load_run
from experiments.wiring.plan import prepare

TINY = ("--model-fields", "width=8", "depths=(1,)", "--dim", 32, "--projector-hidden", 32, "--predictor-hidden", 8,
        "--color-jitter", 0, 0, 0, 0, "--batch-size", 32, "--log-every", 5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def pretrain(command: Callable[..., Any], runs: Path) -> Callable[..., Path]:
    """`pretrain("name", ...)`: the folder of a run that ended well."""
    def run(name: str, *arguments: Any) -> Path:
        done = command("simsiam_pretrain", "--run-dir", runs / name, *TINY, *arguments)
        assert done.status == 0, done.err
        return runs / name

    return run


@pytest.fixture
def no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes and pictures take most of a short run's time."""
    import cvjax.workflow.folder as folders
    import experiments.wiring.simsiam_pretrain as wiring

    monkeypatch.setattr(wiring, "probe_pretrained", lambda *_, **__: ({}, {}))
    monkeypatch.setattr(wiring, "draw_neighbours", lambda *_, **__: None)
    monkeypatch.setattr(wiring, "draw_views", lambda *_, **__: None)
    monkeypatch.setattr(folders, "plot_curves", lambda *_: None)


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in found]


@pytest.fixture
def learnt(pretrain: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 900 steps without a linear probe; the second test that asks for it only reads it again."""
    import cvjax.workflow.frozen.probing as probing

    monkeypatch.setattr(probing, "probe_encoders", partial(probing.probe_encoders, linear=False))
    return pretrain("learnt", "--steps", 900, "--batch-size", 64, "--model-fields", "width=16", "depths=(1,1)",
                    "--dim", 64, "--projector-hidden", 64, "--predictor-hidden", 16, "--log-every", 300)


@pytest.mark.slow
def test_a_short_run_beats_the_untrained_network_and_does_not_collapse(learnt: Path) -> None:
    metrics = summary(learnt)["metrics"]
    assert {"knn/simsiam", "knn/random", "knn/pixels", "collapsed"} <= metrics.keys()
    assert metrics["knn/simsiam"] > metrics["knn/random"] + 0.1 and metrics["collapsed"] == 0
    logged = [line for line in lines(learnt) if "train/loss" in line]
    assert [line["step"] for line in logged] == [300, 600, 900]
    assert logged[-1]["train/loss"] < -0.8 < logged[0]["train/loss"]
    assert all(0.95 < line["train/projection_std"] * 64**0.5 <= 1 for line in logged)
    assert (learnt / "figures" / "views.png").stat().st_size > 5_000
    assert (learnt / "figures" / "neighbours.png").exists()


@pytest.mark.slow
def test_other_commands_read_its_backbone(learnt: Path, command: Callable[..., Any], runs: Path) -> None:
    weights, _ = restore_weights(learnt / "checkpoints", "latest")
    run, encoder = load_run(learnt), load_encoder(learnt)
    assert (run.kind, run.experiment, encoder.name) == ("encoder", "simsiam_pretrain", "simsiam")
    jax.tree.map(np.testing.assert_array_equal, encoder.variables["params"], weights["params"]["backbone"])
    jax.tree.map(np.testing.assert_array_equal, encoder.variables["batch_stats"],
                 weights["model_state"]["batch_stats"]["backbone"])
    done = command("knn", "--checkpoint", learnt, "--run-dir", runs / "knn")
    assert done.status == 0, done.err
    assert summary(runs / "knn")["metrics"]["knn/simsiam"] == summary(learnt)["metrics"]["knn/simsiam"]


@pytest.mark.slow
def test_a_stopped_run_ends_as_one_that_was_not(pretrain: Callable[..., Path], command: Callable[..., Any], runs: Path,
                                                monkeypatch: pytest.MonkeyPatch, no_probes: None) -> None:
    """To the last bit: parameters, statistics, moments, and the steps of both learning rates."""
    schedules = ("--steps", 14, "--checkpoint-every", 4)
    whole = pretrain("uninterrupted", *schedules)

    class Pulled(Exception):
        """The plug."""

    class PulledAfter(RunLog):
        def step(self, step: int, *rest: Any) -> Any:
            if step == 11:
                raise Pulled
            return super().step(step, *rest)

    import cvjax.workflow.training as training

    with monkeypatch.context() as patch:
        patch.setattr(training, "RunLog", PulledAfter)
        with pytest.raises(Pulled):
            command("simsiam_pretrain", "--run-dir", runs / "stopped", *TINY, *schedules)
    stopped = pretrain("stopped", *schedules)
    assert summary(stopped)["params_sha256"] == summary(whole)["params_sha256"]
    assert summary(stopped)["metrics"] == summary(whole)["metrics"]
    assert lines(stopped) == lines(whole)


def test_the_predictors_learning_rate_does_not_fall(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The optimizer's own tests show what a schedule of its own does."""
    import experiments.wiring.simsiam_pretrain as wiring

    seen: dict[str, Any] = {}
    monkeypatch.setattr(wiring, "prepare_training", lambda *_, **options: seen.update(options))
    folder = ("--run-dir", str(tmp_path / "run"))
    prepare("simsiam_pretrain", ["digits", *map(str, TINY), *folder])
    ((has_own, rate),) = seen["own_schedules"]
    assert [rate(0), rate(1000)] == pytest.approx([1.2 * 32 / 256] * 2)
    variables = jax.eval_shape(seen["model"].init, jax.random.key(0), jax.ShapeDtypeStruct((2, 2, 8, 8, 1), np.float32))
    names = jax.tree.leaves(leaf_names(variables["params"]))
    assert {name.split("/")[0] for name in names} == {"backbone", "projector", "predictor"}
    assert {name for name in names if has_own(name)} == {name for name in names if name.startswith("predictor/")}
    prepare("simsiam_pretrain", ["digits", *map(str, TINY), "--no-constant-predictor-rate", *folder])
    assert seen["own_schedules"] == []


@pytest.mark.slow
def test_without_the_stop_gradient_the_run_says_that_it_collapsed(command: Callable[..., Any], runs: Path,
                                                                  no_probes: None) -> None:
    done = command("simsiam_pretrain", "--run-dir", runs / "collapsed", "--no-stop-gradient", "--steps", 400,
                   "--log-every", 20, "--collapse-patience", 1, "--stop-on-collapse")
    assert done.status == 0, done.err
    assert summary(runs / "collapsed")["metrics"]["collapsed"] == 1 and "collapse: the deviation" in done.out


@pytest.mark.parametrize("arguments, words", [
    (("--dim", 0), "--dim 0: it must be at least 1"),
    (("--projector-layers", 0), "--projector-layers 0: it must be at least 1"),
    (("--blur", 2), "--blur 2.0: it must be in [0, 1]"),
    (("--blur-sigma", 2, 1), "--blur-sigma"),
    (("--color-jitter", 0.4, 0.4, 0.4, 0.6), "--color-jitter"),
    (("--model-fields", "widht=8"), "widht"),
    (("--model", "vit_tiny_patch16_224", "--model-fields", "patch_size=4", "depth=1", "class_token=False", "pool=avg"),
     "--pool token: it must be avg"),
])
def test_what_cannot_be_is_refused_in_one_line(command: Callable[..., Any], runs: Path, arguments: tuple, words: str
                                               ) -> None:
    done = command("simsiam_pretrain", "--run-dir", runs / "refused", "--dry-run", *arguments)
    assert done.status == 2 and words in done.err
    assert len(done.err.strip().splitlines()) == 1
