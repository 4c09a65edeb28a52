"""Says what a person is waiting for, for how many seconds, and how long it took the last time."""

import contextlib
import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from cvjax.durable import write_whole

DELAY = {True: 0.5, False: 5.0}  # seconds until the first line: on a terminal, and elsewhere
EVERY = {True: 0.5, False: 20.0}  # seconds between two lines
_REMEMBERED = 500  # durations that the file holds, the newest


class Line(Protocol):
    """Where the text is shown: a progress bar, or a line of its own."""

    def show(self, text: str) -> None: ...

    def clear(self) -> None: ...


class StderrLine:
    """A line on stderr that changes on a terminal; elsewhere each text is a line of its own."""

    def __init__(self) -> None:
        self._terminal, self._width = sys.stderr.isatty(), 0

    def show(self, text: str) -> None:
        padded = text.ljust(self._width) if self._terminal else text
        self._width = len(text)
        print(f"\r{padded}" if self._terminal else padded, end="" if self._terminal else "\n", file=sys.stderr,
              flush=True)

    def clear(self) -> None:
        if self._terminal and self._width:
            print(f"\r{' ' * self._width}\r", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def waiting(what: str, *, line: Line | None = None, last: float | None = None) -> Iterator[None]:
    """Within this context, `what` and the seconds so far are shown, on a terminal twice a second.

    Nothing is shown of what takes half a second there, or five seconds elsewhere. line: where; None for stderr.
    last: how many seconds it took the last time, if that is known.
    """
    shown, done, started = line or StderrLine(), threading.Event(), time.perf_counter()
    terminal = sys.stderr.isatty()
    before = "" if last is None else f" ({last:.0f} s the last time)"

    def tick() -> None:
        pause = DELAY[terminal]
        while not done.wait(pause):
            shown.show(f"{what}: {time.perf_counter() - started:.0f} s{before}")
            pause = EVERY[terminal]

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        shown.clear()


class Durations:
    """How long things took the last time, in a file of this machine; a file that cannot be used is as an empty one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def last(self, key: str) -> float | None:
        """The seconds that were noted under this key."""
        seconds = self._read().get(_digest(key))
        return float(seconds) if isinstance(seconds, int | float) else None

    def note(self, key: str, seconds: float) -> None:
        """Keep seconds under a key."""
        known = self._read()
        known.pop(_digest(key), None)
        known[_digest(key)] = round(seconds, 2)
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(dict(list(known.items())[-_REMEMBERED:])), synced=False)

    def _read(self) -> dict:
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _digest(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=10).hexdigest()
