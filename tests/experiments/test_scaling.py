"""The ladder, with rungs that follow a law instead of being trained; one real ladder is slow."""

import json

import pytest

from cvjax.evaluate.power_law import PowerLaw

LAW = PowerLaw(0.4, 30.0, 0.5, 20.0, 0.6, 0)
LADDER = ("--widths", 16, 32, 64, "--fractions", 0.25, 0.5, 1)


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Rungs have 100 x width^2 parameters and the loss of the law; their labels, as they are asked for."""
    import experiments.wiring.scaling as scaling

    asked = []

    def run_one(config, folder, stop):
        asked.append(folder.path.name)
        if config.dry_run:
            return
        width = int(config.model_fields[-1].removeprefix("width="))
        n, d = 100 * width**2, round(1437 * config.fraction)
        assert config.model_fields[:-1] == ("patch_size=2", "depth=3", "heads=4") and config.steps == 400
        folder.finish({"test/loss": float(LAW(n, d)), "test/top1": 0.5}, {"parameters": n, "training_images": d})

    monkeypatch.setattr(scaling, "run_one", run_one)
    return asked


def test_the_law_of_the_rungs_is_found(command, trained, tmp_path):
    done = command("scaling", *LADDER, "--run-dir", tmp_path / "run")
    assert done.status == 0, done.err
    assert len(trained) == 9 and trained[:2] == ["width=16-fraction=0.25", "width=16-fraction=0.5"]
    metrics = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]
    assert metrics["law/alpha"] == pytest.approx(0.5, rel=0.02) and metrics["law/beta"] == pytest.approx(0.6, rel=0.02)
    assert metrics["law/error"] < 1e-4
    assert metrics["loss/width=64-fraction=1"] == pytest.approx(float(LAW(100 * 64**2, 1437)))
    assert (tmp_path / "run" / "figures" / "scaling.png").exists() and "L(N, D) = 0.4" in done.out


def test_finished_rungs_are_not_trained_again(command, trained, tmp_path):
    command("scaling", *LADDER, "--run-dir", tmp_path / "run")
    before = (tmp_path / "run" / "summary.json").read_text()
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "width=32-fraction=1" / "summary.json").unlink()
    trained.clear()
    assert command("scaling", *LADDER, "--run-dir", tmp_path / "run").status == 0
    assert trained == ["width=32-fraction=1"] and (tmp_path / "run" / "summary.json").read_text() == before


def test_a_rung_named_twice_counts_once_and_a_dry_run_writes_nothing(command, trained, tmp_path):
    done = command("scaling", "--widths", 32, 16, 32, "--fractions", 1, 0.5, 0.25, 1, "--run-dir", tmp_path / "run",
                   "--dry-run")
    assert done.status == 0 and "rung 6 of 6: width=32-fraction=1" in done.out and len(trained) == 6
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments, message", [
    ("--widths 16", "--widths (16,): it must be at least two different widths"),
    ("--widths 16 16", "--widths (16, 16): it must be at least two different widths"),
    ("--fractions 0.5", "--fractions (0.5,): it must be at least two different shares in (0, 1]"),
    ("--fractions 0 0.5 1", "--fractions (0.0, 0.5, 1.0): it must be at least two different shares in (0, 1]"),
    ("--widths 16 32 --fractions 0.5 1", "the law has five unknowns"),
    ("--fraction 0.5", "--fraction 0.5: it must be left out: --fractions gives"),
    ("--folds 3", "--folds 3: it must be left out: every rung")])
def test_a_ladder_that_cannot_be_fitted_is_refused_before_it_is_trained(command, trained, tmp_path, arguments, message):
    assert message in command("scaling", *arguments.split(), "--run-dir", tmp_path / "run").complaint
    assert trained == [] and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_ladder_of_real_runs(command, tmp_path):
    done = command("scaling", "--widths", 8, 16, "--fractions", 0.25, 0.5, 1, "--model-fields", "patch_size=2",
                   "depth=1", "heads=2", "--steps", 10, "--run-dir", tmp_path / "run")
    assert done.status == 0, done.err
    protocols = [json.loads(path.read_text())["protocol"] for path in (tmp_path / "run").glob("*/summary.json")]
    assert len({p["parameters"] for p in protocols}) == 2 and len({p["training_images"] for p in protocols}) == 3
