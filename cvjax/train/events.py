"""TensorBoard's events of a training: numbers by name and step.

tensorboardX knows the format. Its own `SummaryWriter` writes in a thread. An error there, as of a full disk, comes as
pages of text, and whoever writes next waits for ever.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from cvjax.text import naming

FLUSH = 30.0  # seconds after which what is new goes to the disk, for a TensorBoard that looks on


@contextlib.contextmanager
def _as_if_missing(package: str) -> Iterator[None]:
    """Within this context importing the package fails, unless it has been imported before."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # Python's own sign for "there is none", not in its types
    try:
        yield
    finally:
        del sys.modules[package]


with _as_if_missing("torch"):  # tensorboardX would load it, which takes a second, but works without it
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore  # made at run time
    from tensorboardX.summary import scalar


class Events:
    """A file of events in `folder`. start_step: of a resumed run, whose later events in older files are void."""

    def __init__(self, folder: Path, start_step: int = 0) -> None:
        self._path = folder / "events"
        with naming(self._path):
            self._writer, self._flushed = EventsWriter(str(self._path)), time.monotonic()
            if start_step:
                self._writer.write_event(Event(wall_time=time.time(), step=start_step + 1,
                                               session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of a step; OSError as of any file."""
        with naming(self._path):
            for name, value in values.items():
                self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
            if time.monotonic() - self._flushed > FLUSH:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        with naming(self._path):
            self._writer.close()
