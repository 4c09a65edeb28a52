"""The log of a training: a progress bar, `metrics.jsonl` and TensorBoard events."""

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

from cvjax.durable import sync, write_whole
from cvjax.text import naming, open_text
from cvjax.train import metrics
from cvjax.train.events import Events

# All of it but the learning rate is seen at 80 columns. tqdm puts a comma before the last part.
_BAR = "{percentage:3.0f}% |{bar:8}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
TIMING = ("images_per_second", "input_wait", "seconds")  # keys that differ from run to run; all others repeat exactly


class _Lines:
    """stderr for a bar that nobody watches: each of its states is a line, not a carriage return."""

    def write(self, text: str) -> None:
        if text := text.strip("\r\n "):
            sys.stderr.write(f"{text}\n")

    def flush(self) -> None:
        sys.stderr.flush()


class RunLog:
    """Averages step metrics over windows of `every` steps and writes one line per window.

    `state()` goes into each checkpoint and comes back to `restore`, so a resumed run writes the very lines that an
    uninterrupted one writes: lines after `start_step` are cut off, and the half-filled window is taken up again.
    writes: False for a log that keeps count and writes nothing, in all processes of a run but the first.
    """

    def __init__(self, folder: Path, *, every: int, total_steps: int, batch_size: int, steps_per_epoch: float,
                 start_step: int = 0, writes: bool = True) -> None:
        self.every, self.batch_size, self.steps_per_epoch = every, batch_size, steps_per_epoch
        self._window: dict[str, tuple[float, float]] = {}
        self._seconds_before = 0.0
        self._started = self._window_started = time.perf_counter()
        self._window_steps = self._waited = 0
        self._path = folder / "metrics.jsonl"
        problem = _cut_after(self._path, start_step, every) if writes else None
        self._file = open_text(self._path if writes else os.devnull, "a")
        self._events = Events(folder, start_step) if writes else None
        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total_steps, initial=start_step, unit="step", dynamic_ncols=terminal, bar_format=_BAR,
                         mininterval=0.2 if terminal else 20, smoothing=0.05, disable=not writes,
                         file=sys.stderr if terminal else _Lines())
        if problem:
            self.note(problem)

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
        self._bar.set_postfix_str(f"loss {means['loss']:.4f}, {speed:,.0f} images/s, input wait {wait:.0%}, lr "
                                  f"{learning_rate:.1e}", refresh=False)
        self._window, self._window_steps, self._waited = {}, 0, 0.0
        self._window_started = time.perf_counter()
        return means

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line at once: a run that is killed loses none. See `sync` for power cuts."""
        place = {"step": step, "epoch": round(step / self.steps_per_epoch, 4)}
        line = place | dict(values) | {"seconds": round(self.seconds, 2)}
        with naming(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            if self._events:
                self._events.add(step, {name: value for name, value in values.items() if math.isfinite(value)})

    def sync(self) -> None:
        """Return when all lines are on the disk, as they must be before a checkpoint that comes after them."""
        sync(self._file.name)

    def note(self, text: str) -> None:
        """Print a line without tearing the progress bar."""
        self._bar.write(text)

    def show(self, text: str) -> None:
        """Show what the training waits for, in place of the bar."""
        self._bar.bar_format = "{desc}"
        self._bar.set_description_str(text)

    def clear(self) -> None:
        """Show the bar again."""
        self._bar.bar_format = _BAR
        self._bar.set_description_str("", refresh=False)

    def restart_clock(self) -> None:
        """Count the bar's time from here: compiling is no step, and would foretell a training of hours."""
        self._bar.start_t = self._bar.last_print_t = time.time()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time spent within this context (evaluation, saving) out of the running window's speed."""
        started = time.perf_counter()
        yield
        self._window_started += time.perf_counter() - started

    def state(self) -> dict[str, Any]:
        """What a resumed log needs, as JSON."""
        return {"window": self._window, "seconds": self.seconds}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `state()` gave."""
        self._window = {name: (total, count) for name, (total, count) in saved["window"].items()}
        self._seconds_before = saved["seconds"]

    def close(self) -> None:
        """Closes every file, also where one cannot be written."""
        with naming(self._path), contextlib.ExitStack() as files:
            if self._events:
                files.callback(self._events.close)
            files.callback(self._file.close)
            files.callback(self._bar.close)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, without damaged ones such as a last line cut off by a kill."""
    return [line for _, line in _read(path) if line is not None]


def _cut_after(path: Path, step: int, every: int) -> str | None:
    """Drop damaged lines, and the lines written after `step`, which a resumed run writes anew.

    A damaged line at the end was being written when the run died, after the checkpoint of `step`; others are missing.
    every: steps between two lines. Returns what was damaged, in one line; None if nothing was.
    """
    kept: list[bytes] = []
    damaged: list[bytes] = []
    places: dict[int, None] = {}  # steps of the lines before the damaged ones, in order
    last, lost = 0, False
    for raw, line in _read(path):
        if line is None:
            damaged.append(raw)
            places[last] = None
            continue
        last = line["step"]
        if last <= step:
            lost = bool(damaged)
            kept.append(raw + b"\n")
    write_whole(path, b"".join(kept))  # a kill here loses no line
    lost = lost or not kept and step >= every
    if damaged:
        after = f"lines up to step {step} may be missing" if lost else f"lines after step {step} are written anew"
        return (f"{path.name} was damaged, {len(damaged)} line{'s' if damaged[1:] else ''} of {sum(map(len, damaged))} "
                f"bytes after step {', '.join(map(str, places))} dropped: {after}")
    return f"{path.name} is empty: lines up to step {step} are missing" if lost else None


def _read(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """The lines of a `metrics.jsonl` as bytes and as what they say, None for a damaged one; blank ones are left out."""
    for raw in path.read_bytes().split(b"\n") if path.exists() else ():
        if not raw.strip():
            continue
        try:
            line = json.loads(raw.decode())
        except (ValueError, RecursionError):
            line = None
        sound = (isinstance(line, dict) and isinstance(line.get("step"), int)
                 and all(isinstance(value, int | float) for value in line.values()))
        yield raw, line if sound else None
