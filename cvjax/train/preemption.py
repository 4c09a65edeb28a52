"""SIGTERM (from Slurm, Kubernetes, spot machines) and Ctrl-C: finish the step, save, leave with exit status 0."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Whether the process was asked to stop. Outside `deferred()` a request ends the process at once."""

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    def install(self) -> "StopRequest":
        """Take over SIGTERM and SIGINT; call it before slow imports, a signal during them would else be lost."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: object) -> None:
        name = signal.Signals(number).name
        if self._deferred and not self.requested:
            self.requested = True
            print(f"\n{name} received: saving after this step (once more to quit without)", file=sys.stderr)
            return
        print(f"\n{name} received: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(0 if number == signal.SIGTERM and not self._deferred else 128 + number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this block a request only sets `requested`, so that the loop can save first."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False


class Stopped(Exception):
    """The loop saved and ended early because it was asked to."""
