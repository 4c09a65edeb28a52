"""A run after a power cut goes on from its last finished save, with everything that it had written by then."""

import dataclasses
import os
import random
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvjax.train.checkpoint import Checkpointer
from cvjax.train.log import RunLog, read_metrics
from cvjax.train.observers import Checkpoints, Pause
from cvjax.train.state import TrainState
from cvjax.workflow.folder import RunFolder
from experiments.mae_pretrain import Config
from tests.power_cut import MOODS, Disk, Record, Unavailable, cuts, lay_out, mark, moments, record

STEPS = 5
TINY = ("supervised", "--model", "mlp", "--model-fields", "hidden=(16,)", "--batch-size", "16", "--steps", "30",
        "--log-every", "2", "--checkpoint-every", "3", "--eval-every", "9", "--validation", "0.1")


def recorded(command, folder, environment):
    try:
        return record(command, folder, environment)
    except Unavailable as missing:
        pytest.skip(str(missing))


# The model of a disk.


def disk_after(*lines: str) -> tuple[Disk, int]:
    """The disk after records such as "open 1 w a", "write 1 0 text" and "rename a b", in the folder /disk."""
    found = []
    for line in lines:
        kind, *fields = line.split()
        data = b""
        if kind == "open":
            flags = {"w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC, "r": os.O_RDONLY}[fields[1]]
            fields = [fields[0], str(flags), f"/disk/{fields[2]}".removesuffix("/.")]
        elif kind == "write":
            data = fields.pop().encode()
        elif kind not in ("sync", "cut"):
            fields = [f"/disk/{field}" for field in fields]
        found.append(Record(kind, tuple(fields), data))
    return Disk(found, Path("/disk")), len(found)


def left(lines: list[str], mood: str) -> list[dict]:
    """All that a cut after these records may leave, found by many draws."""
    disk, end = disk_after(*lines)
    found = []
    for seed in range(60):
        state = disk.after_cut(end, mood, random.Random(seed))
        if state not in found:
            found.append(state)
    return found


WRITTEN = ["open 1 w x.partial", "write 1 0 ab", "write 1 2 cd"]
MOVED = ["rename x.partial x"]
SYNCED = ["sync 1"]
NAMED = ["open 2 r .", "sync 2"]


def test_what_is_not_synced_may_be_gone_and_a_name_may_come_before_its_bytes():
    assert left(WRITTEN + MOVED, "least") == [{}]
    assert left(WRITTEN + MOVED, "most") == [{"x": b"abcd"}]
    names = left(WRITTEN + MOVED, "names")
    assert {"x": b""} in names and {"x": bytes(4)} in names and len(names) == 2
    mixed = left(WRITTEN + MOVED, "mixed")
    for state in ({}, {"x.partial": b"a"}, {"x": b""}, {"x": b"ab"}, {"x": b"abc"}, {"x": b"abcd"}):
        assert state in mixed
    assert all(set(state) <= {"x", "x.partial"} and len(state) < 2 for state in mixed), "a change of name is one change"


def test_a_sync_of_the_file_keeps_its_bytes_and_one_of_the_folder_its_name():
    for mood in MOODS:
        assert left(WRITTEN + SYNCED + MOVED + NAMED, mood) == [{"x": b"abcd"}]
    assert left(WRITTEN + SYNCED + MOVED, "least") == [{}], "bytes without a name"
    assert left(WRITTEN + SYNCED + MOVED, "names") == [{"x": b"abcd"}]
    assert left(WRITTEN + MOVED + NAMED, "least") == [{"x": b""}], "a name without bytes"
    assert left(WRITTEN + SYNCED + MOVED + NAMED + ["write 1 4 e"], "least") == [{"x": b"abcd"}]
    assert left(["mkdir a", "open 1 w a/x", "write 1 0 ab", "sync 1", "open 2 r a", "sync 2"], "least") == [{}]


def test_folders_lose_their_changes_independently():
    lines = ["mkdir 1", "open 1 w 1/x", "open 2 r 1", "sync 2", "open 3 r .", "sync 3", "rename 1 1.removed",
             "unlink 1.removed/x"]
    found = left(lines, "mixed")
    assert {"1": None} in found, "half a checkpoint under its name: its removal came before its new name"
    assert {"1": None} not in left(lines[:-1] + ["sync 3", lines[-1]], "mixed")


def test_the_recorder_misses_no_change(tmp_path):
    code = """
        import os, shutil, sys
        os.chdir(sys.argv[1])
        os.makedirs("a/b")
        with open("a/b/x", "w") as file:
            file.write("12345")
            file.flush()
            file.seek(2)
            file.write("X")
        with open("a/b/x", "ab", 0) as file:
            file.write(b"end")
            file.truncate(7)
        descriptor = os.open("a", os.O_RDONLY)
        inner = os.open("y", os.O_CREAT | os.O_RDWR, dir_fd=descriptor)
        os.pwrite(inner, b"far", 10)
        os.writev(os.dup(inner), [b"one", b"two"])
        os.rename("y", "z", src_dir_fd=descriptor, dst_dir_fd=descriptor)
        os.link("a/z", "a/second")
        os.replace("a/z", "a/b2")
        os.makedirs("gone/deep")
        open("gone/deep/x", "w").close()
        shutil.rmtree("gone")
    """
    disk = tmp_path / "disk"
    records, history = recorded([sys.executable, "-c", textwrap.dedent(code), str(disk)], tmp_path, os.environ)
    state = history.after_cut(history.end, "most", random.Random(0))
    assert state == {"a": None, "a/b": None, "a/b/x": b"12X45en", "a/b2": b"onetwo\0\0\0\0far",
                     "a/second": b"onetwo\0\0\0\0far"}
    assert [record.kind for record in records].count("rename") == 2


# A run.


def state_of(step: int) -> TrainState:
    kernel = jnp.asarray(np.random.default_rng(step).normal(size=(4, 4)).astype(np.float32))
    return TrainState(jnp.asarray(np.int32(step)), {"kernel": kernel}, {}, (), None, jax.random.key(step))


def config_of(run: Path, **changed) -> Config:
    return dataclasses.replace(Config(data="digits", run_dir=str(run)), **changed)


def run_in_miniature(run: Path) -> None:
    """All that a training writes, without the training; then the run is begun anew."""
    with RunFolder(config_of(run), "mae_pretrain", "run") as folder:
        folder.begin()
        log = RunLog(folder.path, every=1, total_steps=STEPS, batch_size=1, steps_per_epoch=1)
        with Checkpointer(folder.checkpoints, keep_latest=1) as checkpointer:
            saves = Checkpoints(checkpointer, log, every=1, meta={}, single=lambda state: state)
            for step in range(1, STEPS + 1):
                log.step(step, {"loss": (1.0, 1.0)}, 0.1, 0.0)
                saves.on_pause(Pause(step, STEPS, state_of(step), step == STEPS, dict))
            saves.on_end()
        log.close()
        (folder.figures / "picture.png").write_bytes(b"picture")
        folder.finish({"test/top1": 0.5}, {})
    mark("overwriting 0")
    with RunFolder(config_of(run, overwrite=True), "mae_pretrain", "run") as folder:
        folder.begin()


@pytest.fixture(scope="module")
def miniature(tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("miniature")
    code = ("import sys, pathlib; from tests.power_cut import mark_promises; mark_promises()\n"
            "from tests.test_power_cut import run_in_miniature; run_in_miniature(pathlib.Path(sys.argv[1]))")
    return recorded([sys.executable, "-c", code, str(folder / "disk" / "runs" / "run")], folder, environment())


def assert_goes_on(run: Path, marks: list[list[str]]) -> None:
    """The run opens without complaint, and has what was promised."""
    saved = max((int(step) for what, step in marks if what == "saved"), default=0)
    names = [what for what, _ in marks]
    with RunFolder(config_of(run), "mae_pretrain", "run") as folder:
        complete = folder.summary is not None
        folder.begin()
        with Checkpointer(folder.checkpoints, keep_latest=1) as checkpointer:
            restored = checkpointer.restore_latest(state_of(0))
        assert not list(folder.checkpoints.glob("*.damaged"))
        step = int(restored[0].step) if restored else 0
        if restored:
            assert restored[0].params["kernel"].tolist() == state_of(step).params["kernel"].tolist()
            lines = [line["step"] for line in read_metrics(folder.path / "metrics.jsonl")]
            assert lines[:step] == list(range(1, step + 1)), "lines before the checkpoint are gone"
        if "overwriting" not in names:
            assert step >= saved
            assert complete or "finished" not in names
        if complete:
            assert step == STEPS and folder.summary["metrics"] == {"test/top1": 0.5}
            assert (folder.figures / "picture.png").read_bytes() == b"picture"


@pytest.mark.slow
def test_a_cut_at_any_moment_loses_no_finished_save_and_no_line_before_it(miniature, tmp_path, caplog):
    records, history = miniature
    chance, places = random.Random(0), moments(records)
    begun_anew = next(i for i, record in enumerate(records) if record.fields == ("overwriting 0",))
    places["beginning anew"] = list(range(begun_anew, len(records) + 1))
    drawn = [(chance.choice(indices), mood) for indices in places.values() for mood in MOODS]
    promised = [(i + 1, "least") for i, record in enumerate(records) if record.kind == "mark"]
    assert len(promised) == STEPS + 2
    for index, mood in drawn + promised:
        lay_out(history.after_cut(index, mood, chance), tmp_path / "disk")
        marks = [record.fields[0].split() for record in records[:index] if record.kind == "mark"]
        try:
            assert_goes_on(tmp_path / "disk" / "runs" / "run", marks)
        except BaseException as error:
            raise AssertionError(f"cut before record {index}, mood {mood}: {error}") from error
    assert not [text for text in caplog.messages if "is damaged" in text]


@pytest.mark.slow
def test_a_training_resumed_after_cuts_ends_as_the_undisturbed_one(environment, tmp_path):
    try:
        found = list(cuts(TINY, 7, 0, tmp_path, environment()))  # one at each kind of moment
    except Unavailable as missing:
        pytest.skip(str(missing))
    assert [cut for cut in found if cut.problem] == []
    assert any(cut.saved for cut in found), "no cut fell behind a save"
