"""Watches the worker processes that load data: which one was killed, hangs, or failed.

Each worker writes its process number into a file, and touches another one every second. So a worker that was stopped
(SIGSTOP, a debugger, a machine that swaps) can be told from one that waits for slow storage.
"""

import contextlib
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cvjax.durable import write_whole
from cvjax.errors import CvjaxError, ProcessError
from cvjax.text import read_text

HANGING = 20.0  # seconds without a sign of life after which a worker is ended
DEAD = 5.0  # seconds to wait for what a worker sent before it was killed

_BEAT = 1.0  # seconds between two signs of life


class WatchedWorkers(Iterator[Any]):
    """An iterator over what worker processes load.

    A thread waits for them, because a worker that is killed while it sends leaves the receiver waiting for the rest.

    Args:
        start: `start(begin)` gives Grain's iterator, whose workers call `begin(worker, workers)` first.

    Raises:
        ProcessError: from the iteration, if a worker was killed, hung, or failed with an error that is not a
            `CvjaxError`; it names the worker.
    """

    def __init__(self, start: Callable[[Callable[[int, int], None]], Any]) -> None:
        _do_not_warn_of_shared_memory()
        self._folder = Path(tempfile.mkdtemp(prefix="cvjax-workers-"))
        self._iterator = start(Beginning(self._folder))
        self._loaded: queue.Queue[tuple[Any, Exception | None]] = queue.Queue(1)
        self._closed = False
        threading.Thread(target=self._load, daemon=True, name="load batches").start()

    def __next__(self) -> Any:
        batch, error = self._wait()
        if error is None:
            return batch
        if isinstance(error, StopIteration | CvjaxError):
            raise error
        if not str(error).startswith("Worker process was terminated"):
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise ProcessError(f"a worker of the data failed with {type(error).__name__}: {error} ("
                               f"{Path(place.filename).name}, line {place.lineno}); --workers 0 shows where") from error
        raise self._killed()

    def close(self) -> None:
        """Ends the workers."""
        self._closed = True
        self._iterator.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _load(self) -> None:
        while not self._closed:
            try:
                found = next(self._iterator), None
            except Exception as error:  # told in `__next__`
                found = None, error
            while not self._closed:
                with contextlib.suppress(queue.Full):
                    self._loaded.put(found, timeout=_BEAT)
                    break
            if found[1]:
                return

    def _wait(self) -> tuple[Any, Exception | None]:
        """The next batch, or what went wrong. It counts seconds of its own: a laptop that slept stopped both sides."""
        beats: dict[int, int] = {}
        silent: dict[int, float] = {}
        while True:
            with contextlib.suppress(queue.Empty):
                return self._loaded.get(timeout=_BEAT)
            for worker, process in self._processes().items():
                beat = (self._folder / f"{worker}.beat").stat().st_mtime_ns
                silent[worker] = 0.0 if beat != beats.get(worker) else silent[worker] + _BEAT
                beats[worker] = beat
                if silent[worker] >= DEAD and not _lives(process):
                    raise self._killed()
                if silent[worker] >= HANGING:
                    os.kill(process, signal.SIGKILL)
                    raise ProcessError(f"worker {worker} of the data (process {process}) gave no sign of life for "
                                       f"{HANGING:.0f} seconds (was it stopped?) and was ended")

    def _killed(self) -> ProcessError:
        lost = {worker: process for worker, process in sorted(self._processes().items()) if not _lives(process)}
        named = " and ".join(f"worker {worker} of the data (process {process})" for worker, process in lost.items())
        return ProcessError(f"{named or 'a worker of the data'} was killed; perhaps memory was short: fewer --workers "
                            "take less")

    def _processes(self) -> dict[int, int]:
        """Worker -> process, of those that have begun."""
        return {int(path.stem): int(read_text(path)) for path in self._folder.glob("*.process")}


class Beginning:
    """What a worker process does first: `begin(worker, workers)`. It is sent to the worker by pickle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, worker: int, workers: int) -> None:
        """Leaves signals to the run, ends when the run ends, even by SIGKILL, and gives signs of life."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if parent := multiprocessing.parent_process():
            threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
        beat, process = self.folder / f"{worker}.beat", self.folder / f"{worker}.process"
        beat.touch()
        threading.Thread(target=self._beat, args=(beat,), daemon=True).start()
        write_whole(process, str(os.getpid()), synced=False)

    def _beat(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):  # the folder goes when the stream is closed
            while True:
                os.utime(path)
                time.sleep(_BEAT / 2)


def _lives(process: int) -> bool:
    multiprocessing.active_children()  # takes note of those that have ended
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _do_not_warn_of_shared_memory() -> None:
    """Python's resource tracker frees the memory that a killed worker left, and would warn of it in the run's output.

    It is a process of its own, which takes these options from this one when it starts.
    """
    option = "ignore:resource_tracker:UserWarning"
    if option not in sys.warnoptions:
        sys.warnoptions.append(option)
