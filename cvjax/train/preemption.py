"""SIGTERM (from Slurm, Kubernetes, spot machines) and Ctrl-C: finish the step, save, leave with exit status 0.

In a run of several processes a signal to one of them is a signal to all.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Whether the process was asked to stop. Outside `deferred()` a request ends the process at once."""

    def __init__(self) -> None:
        self.requested = False
        self._deferred = self._passed_on = self._answer = False
        self._asked, self._questions = -1, 0

    def install(self) -> "StopRequest":
        """Take over SIGTERM and SIGINT; call it before slow imports, a signal during them would else be lost."""
        for number in (signal.SIGTERM, signal.SIGINT):
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
