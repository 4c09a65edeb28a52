"""Worker processes that load data: one that is killed, stopped, or fails is named, and ends the stream soon."""

import os
import signal
import time

import numpy as np
import pytest

from cvjax.data.pipeline import Stream, TrainBatches, watch
from cvjax.errors import ProcessError
from tests.data.pictures import encode, gradient

pytestmark = pytest.mark.slow  # workers import the package first


class Pictures:
    """Three small pictures; their record 2 fails, or takes its time, on demand."""

    channels, fingerprint, labels = 3, "pictures", None

    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if (self.folder / "fail").exists() and index == 2:
            raise ZeroDivisionError("no such number")
        if (self.folder / "wait").exists():
            time.sleep(0.5)
        return {"image": encode(gradient(4, 4)), "label": -1, "index": index}

    def name(self, index):
        return f"picture {index}"


def whole(image, rng):
    return {"image": np.zeros((4, 4, 3), np.uint8)}


@pytest.fixture
def stream(tmp_path, monkeypatch):
    """Batches by two workers that have begun; a worker hangs after four seconds."""
    monkeypatch.setattr(watch, "HANGING", 4.0)
    batches = TrainBatches(Pictures(tmp_path), whole, Stream(4, 0, workers=2, threads=2))
    next(batches)
    next(batches)
    yield batches
    batches.close()


def processes(batches) -> dict[int, int]:
    return batches._running[0]._processes()


def end_of(batches) -> str:
    """What the stream ends with, within a minute."""
    started = time.monotonic()
    with pytest.raises(ProcessError) as error:
        while True:
            next(batches)
    assert time.monotonic() - started < 60 and "\n" not in str(error.value)
    return str(error.value)


def test_one_that_is_killed(stream):
    killed = processes(stream)[1]
    os.kill(killed, signal.SIGKILL)
    assert end_of(stream) == (f"worker 1 of the data (process {killed}) was killed; perhaps memory was short: "
                              "fewer --workers take less")


def test_one_that_is_stopped(stream):
    stopped = processes(stream)[0]
    os.kill(stopped, signal.SIGSTOP)
    assert end_of(stream) == (f"worker 0 of the data (process {stopped}) gave no sign of life for 4 seconds "
                              "(was it stopped?) and was ended")


def test_one_that_fails(stream, tmp_path):
    (tmp_path / "fail").touch()
    assert end_of(stream) == ("a worker of the data failed with ZeroDivisionError: no such number "
                              "(test_workers.py, line 30); --workers 0 shows where")


def test_slow_storage_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "HANGING", 1.5)  # a batch takes two seconds
    (tmp_path / "wait").touch()
    batches = TrainBatches(Pictures(tmp_path), whole, Stream(4, 0, workers=1, threads=1))
    for _ in range(3):
        next(batches)
    batches.close()


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    batches = TrainBatches(Pictures(tmp_path), whole, Stream(4, 0, workers=1, threads=1))
    next(batches)
    started = list(processes(batches).values())
    assert len(started) == 1 and watch._lives(started[0])
    batches.close()
    assert not list((tmp_path / "temporary").iterdir()) and not watch._lives(started[0])
