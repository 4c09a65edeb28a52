"""SIGTERM (from Slurm, Kubernetes, spot machines) and Ctrl-C: finish the step, save, leave with exit status 143 or 130.

These are the statuses that a shell gives a process which the signal ended, so that `train && evaluate` stops and a
scheduler knows that the work is not done. In a run of several processes a signal to one of them is a signal to all.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether the process was asked to stop.

    Within `deferred()` the first request only sets `requested`, and the second ends the process at once. Within
    `closing()` one that is not deferred raises SystemExit, so that what is open is closed; elsewhere it ends the
    process at once, as the request after that always does. None of them shows a traceback.

    advice: what the last line says besides, such as how to go on.
    """

    def __init__(self, advice: str = "") -> None:
        self.requested = False
        self.status: int | None = None  # once the process is leaving: its exit status
        self._advice = advice
        self._number = int(signal.SIGTERM)  # jax takes SIGTERM over in runs of several processes, and tells no number
        self._deferred = self._closing = self._passed_on = self._answer = False
        self._asked, self._questions = -1, 0

    def install(self) -> "StopRequest":
        """Take over SIGTERM and SIGINT; call it before slow imports, which a signal would end in a traceback."""
        for number in SIGNALS:
            signal.signal(number, self._handle)
        return self

    def after(self, step: int) -> bool:
        """Whether to stop after this step.

        Several processes must ask after every step, and all get one answer, which does not change when they ask again.
        """
        import jax  # slow, and `install` must come first

        if jax.process_count() == 1:
            return self.requested
        from jax.experimental import multihost_utils

        # jax has taken SIGTERM over when the processes joined.
        if self.requested and not self._passed_on:
            self._passed_on = True
            os.kill(os.getpid(), signal.SIGTERM)
        if step != self._asked:
            self._asked, self._questions = step, self._questions + 1  # jax wants consecutive numbers, steps may leap
            self._answer = multihost_utils.reached_preemption_sync_point(self._questions)
        return self._answer

    def leave(self, status: int | None = None) -> int:
        """The exit status of a process that ends now, by default that of a request that was met; a signal from here on
        ends it with this one."""
        self.status = 128 + self._number if status is None else status
        return self.status

    def _handle(self, number: int, frame: object) -> None:
        if self.status is not None:
            _end(self.status)  # an exception here could fall into another handler, or into Python's own shutdown
        name = signal.Signals(number).name
        if self._deferred and not self.requested:
            self.requested, self._number = True, number
            _say(f"\n{name} received: saving after this step (once more to quit without)")
            return
        self.status = 128 + number
        _say(f"\n{name} received: stopped{self._advice}")
        # A library that is being imported, or is in the middle of a save, would turn an exception into pages of text.
        if self._deferred or not self._closing:
            _end(self.status)
        raise SystemExit(self.status)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this block a request only sets `requested`, so that the loop can save first."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Within this block a request raises SystemExit, because something is open that should be closed.

        Where Python cannot pass the exception on, as from an object's end, the process ends at once.
        """
        def show_others(unraisable: Any) -> None:
            if self.status is not None and isinstance(unraisable.exc_value, SystemExit):
                _end(self.status)
            show(unraisable)

        show, sys.unraisablehook = sys.unraisablehook, show_others
        self._closing = True
        try:
            yield
        finally:
            self._closing = False
            if sys.unraisablehook is show_others:
                sys.unraisablehook = show


class Stopped(Exception):
    """The loop saved and ended early because it was asked to."""


def _say(line: str) -> None:
    """Print from within a handler: `print` fails where the signal came in the middle of another one."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _end(status: int) -> None:
    with contextlib.suppress(Exception):  # also RuntimeError, in the middle of a `print`
        sys.stdout.flush()
    os._exit(status)
