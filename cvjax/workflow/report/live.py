"""Keeps the page of a training new while it runs: one more observer, which looks on and changes nothing."""

import time
from collections.abc import Mapping
from typing import Any

from cvjax.errors import CvjaxError
from cvjax.text import printable
from cvjax.train.log import RunLog
from cvjax.train.observers import Observer, StepRead
from cvjax.train.preemption import Stopped
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.report.page import Progress, write_report

EVERY = 5.0  # seconds between two pages, at least
SHARE = 0.01  # of the time of a training that its pages may take; a page that takes longer comes more seldom


class LivePage(Observer):
    """Writes `report.html` at the start, after steps, when the last one is done, and when the training ends early.

    A page that cannot be written is told once; the training goes on.
    facts: how much data there is, see `Progress`. writes: False in all processes of a run but the first.
    """

    def __init__(self, folder: RunFolder, log: RunLog, *, total_steps: int, facts: Mapping[str, Any],
                 start_step: int = 0, writes: bool = True) -> None:
        self.folder, self.log, self.total_steps, self.facts, self.writes = folder, log, total_steps, facts, writes
        self._step, self._pause, self._told = start_step, EVERY, False
        self._next = 0.0  # when the next page is due
        self._write()

    def on_step(self, step: StepRead) -> None:
        self._step = step.number
        if time.monotonic() >= self._next:
            self._write()

    def on_end(self) -> None:
        self._write()

    def stop(self, error: BaseException) -> None:
        """Say on the page why the training has ended early, instead of that it goes on."""
        expected = isinstance(error, Stopped | CvjaxError)
        said = str(error) if expected else f"{type(error).__name__} {error}".strip()
        self._write(printable(said, most=600))  # XLA's errors are pages long

    def _write(self, stopped: str | None = None) -> None:
        if not self.writes:
            return
        with self.log.paused():  # as for evaluations: not the speed of the steps
            started = time.monotonic()
            problem = write_report(self.folder.path, self.folder.place, self.folder.config, None, Progress(
                self._step, self.total_steps, self.facts, stopped, every=self._pause))
            ended = time.monotonic()
        self._pause = max(EVERY, (ended - started) / SHARE)
        self._next = ended + self._pause
        if problem and not self._told:
            self._told = True
            self.log.note(problem)
