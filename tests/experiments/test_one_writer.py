"""Two commands on one run folder: the second is refused, whatever it asks for, and the first is unharmed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cvjax.errors import ConfigError
from cvjax.workflow.config import DataConfig
from cvjax.workflow.folder import RunFolder

ROOT = Path(__file__).parents[2]


def config(folder: Path, **changed) -> DataConfig:
    return DataConfig(run_dir=str(folder), **changed)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("changed", [{}, {"overwrite": True}, {"batch_size": 8, "overwrite": True}])
def test_the_second_start_is_refused(tmp_path, changed):
    with RunFolder(config(tmp_path / "run"), "knn", "x") as first:
        first.begin()
        (first.path / "metrics.jsonl").write_text("a line\n")
        with pytest.raises(ConfigError, match=f"{tmp_path}/run is in use by process {os.getpid()} on .* since "):
            RunFolder(config(tmp_path / "run", **changed), "knn", "x").__enter__()
        assert names(tmp_path / "run") == {"config.json", "figures", "metrics.jsonl", "lock.1"}
    assert names(tmp_path / "run") == {"config.json", "figures", "metrics.jsonl"}, "released at the end"


def test_an_error_releases(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(config(tmp_path / "run"), "knn", "x") as first:
        first.begin()
        (first.path / "metrics.jsonl").write_text("a line\n")
        1 / 0  # noqa: B018
    with RunFolder(config(tmp_path / "run"), "knn", "x"):
        pass


def test_the_lock_stays_while_an_older_run_is_deleted(tmp_path):
    with RunFolder(config(tmp_path), "knn", "x") as old:
        old.begin()
        (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    with RunFolder(config(tmp_path, overwrite=True), "knn", "x") as new:
        new.begin()
        assert names(tmp_path) == {"config.json", "figures", "lock.1"}
        with pytest.raises(ConfigError, match="is in use by process"):
            RunFolder(config(tmp_path), "knn", "x").__enter__()


def test_a_dry_run_locks_nothing_and_a_complete_run_is_told_beside_a_lock(tmp_path):
    with RunFolder(config(tmp_path / "run"), "knn", "x") as first:
        first.begin()
        with RunFolder(config(tmp_path / "run", dry_run=True), "knn", "x"):
            pass
        first.finish({"knn": 0.5}, {})
        with RunFolder(config(tmp_path / "run"), "knn", "x") as again:
            assert again.finished()
        assert names(tmp_path / "run") == {"config.json", "figures", "report.html", "summary.json", "lock.1"}
    other = tmp_path / "other"
    with RunFolder(config(other, dry_run=True), "knn", "x"):
        pass
    assert not other.exists()


def test_a_part_of_a_run_is_guarded_by_the_whole(tmp_path):
    with RunFolder(config(tmp_path), "supervised", "x") as whole:
        part = RunFolder(config(tmp_path / "fold-0"), "supervised", "fold-0", within=whole)
        part.begin()
        assert names(tmp_path) == {"config.json", "figures", "fold-0", "lock.1"}, "the whole begins with its part"
        assert names(tmp_path / "fold-0") == {"config.json", "figures"}
    with RunFolder(config(tmp_path, overwrite=True), "supervised", "x") as whole:
        (tmp_path / "fold-0" / "summary.json").write_text("{}")
        part = RunFolder(config(tmp_path / "fold-0", overwrite=True), "supervised", "fold-0", within=whole)
        assert part.summary is None, "it will be deleted"
        part.begin()
        assert names(tmp_path / "fold-0") == {"config.json", "figures"}


@pytest.mark.slow
def test_two_trainings_that_start_together_train_once(environment, tmp_path):
    """Real processes of the same command; the one that is refused says so in one line, the other ends as one alone."""
    np.savez(tmp_path / "grey.npz", train_images=np.zeros((40, 8, 8), np.uint8))
    command = [sys.executable, "-m", "experiments.mae_pretrain", "--data", f"npz:{tmp_path}/grey.npz", "--batch-size",
               "16", "--width", "16", "--depth", "1", "--heads", "2", "--decoder-width", "16", "--decoder-depth", "1",
               "--decoder-heads", "2", "--steps", "2000", "--log-every", "1"]

    def start(folder, *options):
        return subprocess.Popen([*command, "--run-dir", str(folder), *options], cwd=ROOT, env=environment(),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    both = [start(tmp_path / "run") for _ in range(2)]
    until = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    late = start(tmp_path / "run", "--overwrite")
    alone = start(tmp_path / "alone")
    said = [process.communicate(timeout=240)[1] for process in (*both, late, alone)]
    assert sorted(process.returncode for process in both) == [0, 2] and late.returncode == 2
    winner = both[0] if both[0].returncode == 0 else both[1]
    for process, text in zip((*both, late), said):
        if process is not winner:
            assert text.splitlines()[-1].startswith(f"error: {tmp_path}/run is in use by process {winner.pid} on ")
    ends = [json.loads((tmp_path / name / "summary.json").read_text())["params_sha256"] for name in ("run", "alone")]
    assert ends[0] == ends[1]
