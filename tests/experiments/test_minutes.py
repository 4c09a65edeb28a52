"""Trainings that say how many minutes they may take."""

import json

import pytest

from cvjax.workflow import budget

MLP = ("--model", "mlp", "--model-fields", "hidden=(8,)", "--batch-size", 32, "--checkpoint-every", 200)


@pytest.fixture
def train(command, tmp_path, monkeypatch):
    """Train a small perceptron on the digits; half a second of steps is watched."""
    monkeypatch.setattr(budget, "WATCHED", 0.5)
    return lambda *arguments: command("supervised", *MLP, "--run-dir", tmp_path / "run", *arguments)


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_as_many_steps_are_made_as_fit_and_a_run_that_goes_on_keeps_them(train, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "SHARE", 0.1)  # a second is enough here
    done = train("--minutes", 0.1)
    assert done.status == 0, done.err
    (line,) = (line for line in done.out.splitlines() if line.startswith("--minutes 0.1: "))
    milliseconds = float(line.partition("takes ")[2].partition(" ms")[0])
    steps = int(line.partition("so ")[2].partition(" steps")[0].replace(",", ""))
    assert steps == pytest.approx(600 / milliseconds, rel=0.01) and f"({steps * 32 / 1437:.1f} epochs)" in line
    assert summary(tmp_path / "run")["steps"] == steps and f"training: {steps:,} steps" in done.out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["minutes"] == 0.1

    before = summary(tmp_path / "run")["params_sha256"]
    (tmp_path / "run" / "summary.json").unlink()
    monkeypatch.setattr(budget, "seconds_per_step", None)
    done = train("--minutes", 0.1)
    assert done.status == 0 and f"at step {steps} of {steps}" in done.out, done.err
    assert summary(tmp_path / "run")["params_sha256"] == before


@pytest.mark.slow
def test_measuring_changes_no_number(train, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "seconds_per_step", lambda *given: (0.2, 1.0))
    assert train("--minutes", 0.1).status == 0
    measured = summary(tmp_path / "run")
    assert measured["steps"] == 27
    assert train("--steps", 27, "--overwrite").status == 0
    assert summary(tmp_path / "run")["params_sha256"] == measured["params_sha256"]


@pytest.mark.parametrize("arguments, message", [
    (("--minutes", 0), "--minutes 0.0: it must be more than 0"),
    (("--minutes", 1, "--epochs", 2), "--epochs and --minutes both given: give one of them"),
    (("--minutes", 1, "--steps", 2), "--steps and --minutes both given: give one of them")])
def test_a_mistake_is_one_line(train, arguments, message):
    assert message in train(*arguments).complaint
