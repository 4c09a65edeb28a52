"""Stated results beside new runs of them."""

import json
import shutil

import pytest

from experiments.wiring import reproduce
from experiments.wiring.reproduce import Result, verdict


@pytest.fixture
def stated(tmp_path, monkeypatch):
    """One result with three stored seeds, and runs that reach what a test says: seed -> top-1."""
    folder, reached = tmp_path / "results", {}
    monkeypatch.setattr(reproduce, "STORED", folder)
    result = Result(("supervised", "--steps", "2"), ("test/top1",), "drawn.png")
    monkeypatch.setattr(reproduce, "RESULTS", {"digits": result})

    def run_again(result, seed, folder):
        (folder / "figures").mkdir(parents=True)
        (folder / "figures" / "drawn.png").write_text(f"seed {seed}")
        return {"metrics": {"test/top1": reached[seed]}, "protocol": {}}

    monkeypatch.setattr(reproduce, "run_again", run_again)
    (folder / "digits").mkdir(parents=True)
    for seed, top1 in enumerate((0.98, 0.99, 0.97)):
        (folder / "digits" / f"seed-{seed}.json").write_text(json.dumps({"metrics": {"test/top1": top1}}))
    return reached


def test_what_is_found_stands_beside_what_is_stated(command, stated, tmp_path):
    listed = command("reproduce").out
    assert "digits" in listed and "3 seeds stored" in listed
    for reached, said in (({0: 0.975, 1: 0.985}, "as stated"), ({0: 0.9, 1: 0.9}, "differs by 8.8 standard errors")):
        stated.update(reached)
        done = command("reproduce", "digits", "--seeds", *reached, "--output", tmp_path / said)
        assert done.status == 0, done.err
        (line,) = (line for line in done.out.splitlines() if line.startswith("test/top1"))
        assert "98.00 % ± 1.00 % (3)" in line and line.endswith(said), line


def test_one_seed_has_no_spread():
    assert verdict([0.5], [0.5]) == "the same" and verdict([0.5], [0.6]).startswith("one seed")
    assert verdict([], [0.5]) == ""


def test_runs_are_stored_with_command_commit_and_machine(command, stated, tmp_path):
    shutil.rmtree(tmp_path / "results")  # a first result
    stated.update({7: 0.96, 8: 0.97})
    done = command("reproduce", "digits", "--seeds", 7, 8, "--store", "--output", tmp_path / "runs")
    assert done.status == 0, done.err
    assert (tmp_path / "results" / "digits" / "drawn.png").read_text() == "seed 7"
    kept = json.loads((tmp_path / "results" / "digits" / "seed-7.json").read_text())
    assert kept["command"] == "python -m experiments.supervised --steps 2 --seed 7"
    assert kept["metrics"] == {"test/top1": 0.96} and " x " in kept["machine"] and "commit" in kept


def test_a_mistake_is_one_line(command, stated):
    assert "unknown result 'digit': did you mean digits?" in command("reproduce", "digit").complaint
    complaint = command("reproduce", "digits", "--seeds", 1, 1).complaint
    assert "--seeds (1, 1): it must be one or more different numbers" in complaint


@pytest.mark.slow
def test_a_run_is_made_once_and_a_failed_one_is_named(command, tmp_path, monkeypatch):
    tiny = ("supervised", "--model", "mlp", "--model-fields", "hidden=(8,)", "--steps", "2", "--schedule", "constant")
    monkeypatch.setattr(reproduce, "STORED", tmp_path / "results")
    monkeypatch.setattr(reproduce, "RESULTS", {"tiny": Result(tiny, ("test/top1",)),
                                               "wrong": Result(("supervised", "--steps", "0"), ("test/top1",))})
    first, again = (command("reproduce", "tiny", "--output", tmp_path / "runs") for _ in range(2))
    assert first.status == again.status == 0 and "nothing stored" in first.out
    assert (tmp_path / "runs" / "tiny" / "seed-0" / "summary.json").exists()
    assert "ended with the status 2" in command("reproduce", "wrong", "--output", tmp_path / "runs").complaint
