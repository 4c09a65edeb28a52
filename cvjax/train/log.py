"""What a run writes down while it trains: a progress bar, `metrics.jsonl` and TensorBoard events."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cvjax.train import metrics


@contextlib.contextmanager
def _as_if_missing(package: str) -> Iterator[None]:
    """Within this context importing the package fails, unless it has been imported before."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # what Python takes for "there is none"
    try:
        yield
    finally:
        del sys.modules[package]


with _as_if_missing("torch"):  # tensorboardX loads it where it is installed, for a second, and does without it as well
    from tensorboardX import SummaryWriter

TIMING = ("images_per_second", "input_wait", "seconds")  # keys that differ from run to run; all others repeat exactly


class RunLog:
    """Averages step metrics over windows of `every` steps and writes one line per window.

    `state()` goes into each checkpoint and comes back as `resumed`, so a resumed run writes the very lines an
    uninterrupted one writes: lines after the checkpoint are cut off and its half-filled window is taken up again.
    writes: False for a log that keeps count and writes nothing, in all processes of a run but the first.
    """

    def __init__(self, folder: Path, *, every: int, total_steps: int, batch_size: int, steps_per_epoch: float,
                 start_step: int = 0, resumed: Mapping[str, Any] | None = None, writes: bool = True) -> None:
        self.every, self.batch_size, self.steps_per_epoch = every, batch_size, steps_per_epoch
        resumed = resumed or {}
        self._window = {name: tuple(pair) for name, pair in resumed.get("window", {}).items()}
        self._seconds_before = resumed.get("seconds", 0.0)
        self._started = self._window_started = time.perf_counter()
        self._window_steps = self._waited = 0
        self._file = _cut_after(folder / "metrics.jsonl", start_step).open("a") if writes else open(os.devnull, "w")
        self._events = SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else None,
                                     write_to_disk=writes)
        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total_steps, initial=start_step, unit="step", dynamic_ncols=terminal,
                         mininterval=0.2 if terminal else 20, smoothing=0.05, disable=not writes)

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, those before a resume included."""
        return self._seconds_before + time.perf_counter() - self._started

    def step(self, step: int, values: Mapping[str, tuple[float, float]], learning_rate: float,
             waited: float) -> dict[str, float] | None:
        """Take in one step's metrics as (sum, count); `waited`: seconds the loop waited for its input.

        Returns the means of the window that ends with this step, None where none ends.
        """
        self._window = metrics.add(self._window, values)
        self._window_steps += 1
        self._waited += waited
        self._bar.update()
        return self._close_window(step, learning_rate) if step % self.every == 0 else None

    def _close_window(self, step: int, learning_rate: float) -> dict[str, float]:
        elapsed = time.perf_counter() - self._window_started
        means = metrics.mean(self._window)
        speed, wait = self._window_steps * self.batch_size / elapsed, min(self._waited / elapsed, 1.0)
        line = {f"train/{name}": value for name, value in means.items()} | {"train/learning_rate": learning_rate}
        self.write(step, line | {"images_per_second": round(speed, 1), "input_wait": round(wait, 4)})
        self._bar.set_postfix_str(f"loss {means['loss']:.4f}, lr {learning_rate:.2e}, {speed:,.0f} images/s, "
                                  f"input wait {wait:.0%}", refresh=False)
        self._window, self._window_steps, self._waited = {}, 0, 0.0
        self._window_started = time.perf_counter()
        return means

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line at once, so that it is on disk before a checkpoint of the same step."""
        place = {"step": step, "epoch": round(step / self.steps_per_epoch, 4)}
        line = place | dict(values) | {"seconds": round(self.seconds, 2)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            if math.isfinite(value):
                self._events.add_scalar(name, value, step)

    def note(self, text: str) -> None:
        """Print a line without tearing the progress bar."""
        self._bar.write(text)

    def pause_clock(self, seconds: float) -> None:
        """Leave time spent outside training steps (evaluation, saving) out of the running window's speed."""
        self._window_started += seconds

    def state(self) -> dict[str, Any]:
        """What a resumed log needs, JSON-able."""
        return {"window": self._window, "seconds": self.seconds}

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        self._events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut off by a kill is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _cut_after(path: Path, step: int) -> Path:
    """Drop the lines written after `step`: a resumed run writes them anew."""
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    partial = path.with_name(path.name + ".partial")  # moved into place: a kill here loses no line
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
    os.replace(partial, path)
    return path
