"""A command that fails before its first step leaves nothing behind, and takes nothing away."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from cvjax.errors import DataError
from cvjax.train.log import RunLog
from cvjax.workflow.config import DataConfig
from cvjax.workflow.folder import RunFolder
from tests.experiments.written_runs import write_run

TINY = ("--batch-size", 16, "--width", 16, "--depth", 1, "--heads", 2, "--decoder-width", 16, "--decoder-depth", 1,
        "--decoder-heads", 2, "--log-every", 1)


@pytest.fixture
def grey(tmp_path):
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "grey.npz", train_images=np.zeros((40, 8, 8), np.uint8))
    return f"npz:{tmp_path}/data/grey.npz"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


MISTAKES = [
    "mae_pretrain --data folder:/missing", "mae_pretrain --model nope", "mae_pretrain --patch-size 3",
    "mae_pretrain --accumulate 3 --batch-size 4", "supervised --model resnet20 --model-fields depths=(1)",
    "supervised --pretrained missing.pth", "supervised --folds 3 --data npz:/missing", "scaling --model nope",
    "finetune --checkpoint /missing", "knn --checkpoint /missing", "knn --model resnet20 --weights missing.pth",
    "evaluate --checkpoint /missing", "segment --data voc:/missing", "detect --data voc:/missing",
    "rcnn --data voc:/missing"]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_leaves_no_folder_and_no_empty_parents(command, tmp_path, monkeypatch, mistake):
    arguments = mistake.split()
    monkeypatch.chdir(tmp_path)
    assert command(*arguments).complaint
    assert contents(tmp_path) == {}
    (tmp_path / "a").mkdir()
    assert command(*arguments, "--run-dir", "a/b/c").complaint
    assert contents(tmp_path) == {"a": b""}, "what was there before stays"


@pytest.mark.slow
def test_overwrite_keeps_the_old_run_until_the_new_one_begins(command, tmp_path, grey):
    run = write_run(tmp_path / "run")
    for name in ("config.json", "summary.json", "metrics.jsonl", "notes.txt"):
        (run / name).write_text("{}")
    before = contents(run)
    for wrong in (("--data", "folder:/missing"), ("--model", "nope"), ("--patch-size", 3)):
        assert command("mae_pretrain", "--run-dir", run, "--overwrite", *TINY, *wrong).complaint
        assert contents(run) == before
    done = command("mae_pretrain", "--run-dir", run, "--overwrite", "--data", grey, "--steps", 2, *TINY)
    assert done.status == 0, done.err
    assert "notes.txt" not in contents(run) and [p.name for p in (run / "checkpoints").iterdir()] == ["2"]


@pytest.mark.slow
def test_the_statistics_of_a_run_that_will_be_deleted_are_not_the_new_ones(command, tmp_path, grey):
    """Its checkpoints are still there when the new data are opened."""
    done = command("mae_pretrain", "--run-dir", tmp_path / "run", "--data", grey, "--steps", 2, *TINY)
    assert done.status == 0, done.err
    np.savez(tmp_path / "data" / "light.npz", train_images=np.full((40, 8, 8), 200, np.uint8))
    done = command("mae_pretrain", "--run-dir", tmp_path / "run", "--data", f"npz:{tmp_path}/data/light.npz", "--steps",
                   2, *TINY, "--overwrite", "--dry-run")
    assert done.status == 0 and "as in the run's checkpoints" not in done.out
    assert "mean and deviation measured on 32 training pictures" in done.out


def fails(*_, **__):
    raise DataError("the first batch cannot be read")


def test_an_error_before_the_first_line_of_the_log_leaves_nothing(command, tmp_path, grey, monkeypatch):
    monkeypatch.setattr("cvjax.workflow.training.compile_dispatch", lambda *_, **__: fails)
    done = command("mae_pretrain", "--run-dir", tmp_path / "new" / "run", "--data", grey, "--steps", 2, *TINY)
    assert "the first batch" in done.complaint and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_an_error_after_the_first_line_of_the_log_leaves_a_run_to_resume(command, tmp_path, grey, monkeypatch):
    write = RunLog.write

    def write_and_fail(self, step, values):
        write(self, step, values)
        raise DataError("the second batch cannot be read")

    monkeypatch.setattr(RunLog, "write", write_and_fail)
    arguments = ("mae_pretrain", "--run-dir", tmp_path / "new" / "run", "--data", grey, "--steps", 2, *TINY)
    assert "the second batch" in command(*arguments).complaint
    assert {"config.json", "metrics.jsonl"} <= contents(tmp_path / "new" / "run").keys()
    monkeypatch.undo()
    assert command(*arguments).status == 0


@pytest.mark.parametrize("error", [DataError("x"), SystemExit(143), MemoryError()])
def test_what_a_folder_keeps(tmp_path, error):
    """Nothing of a run that had not begun or has no record; all of one that was there before or has a record."""
    config = DataConfig(run_dir=str(tmp_path / "a" / "run"))

    def fail(record: str | None, begin: bool = True) -> dict[str, bytes]:
        with pytest.raises(type(error)), RunFolder(config, "knn", "x") as folder:
            if begin:
                folder.begin()
            if record:
                (folder.path / record).parent.mkdir(parents=True, exist_ok=True)
                (folder.path / record).write_text("a line\n")
            raise error
        return contents(tmp_path)

    assert fail(None, begin=False) == fail(None) == fail("checkpoints/7.orbax-checkpoint-tmp/a") == {}
    for record in ("metrics.jsonl", "checkpoints/7/a", "summary.json", "bad_files.txt", "fold-0/metrics.jsonl"):
        kept = fail(record)
        assert {f"a/run/{record}", "a/run/config.json"} <= kept.keys(), record
        shutil.rmtree(tmp_path / "a")
    with RunFolder(config, "knn", "x") as folder:
        folder.begin()  # and was killed, say
    before = contents(tmp_path)
    assert fail(None) == fail(None, begin=False) == before


def test_nothing_stays_at_an_address_either(command, memory, tmp_path, grey):
    assert command("mae_pretrain", "--run-dir", "memory://run", "--model", "nope").complaint
    assert memory.find("/") == []
    with pytest.raises(DataError), RunFolder(DataConfig(run_dir="memory://run"), "knn", "x") as folder:
        folder.begin()
        assert memory.find("/") == ["/run/config.json"]
        raise DataError("x")
    assert memory.find("/") == []


def test_a_network_that_does_not_fit_into_the_memory(command, tmp_path, grey, monkeypatch):
    """jax's error is no CvjaxError, and the folder goes all the same."""
    def too_large(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr("cvjax.workflow.training.compile_dispatch", lambda *_, **__: too_large)
    with pytest.raises(jax.errors.JaxRuntimeError):
        command("mae_pretrain", "--run-dir", tmp_path / "run", "--data", grey, "--steps", 2, *TINY)
    assert not (tmp_path / "run").exists()
