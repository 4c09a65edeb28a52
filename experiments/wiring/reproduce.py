"""The work of `python -m experiments.reproduce`; its options are in experiments/reproduce.py."""

import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cvjax.errors import ConfigError, ProcessError
from cvjax.evaluate.shares import in_words
from cvjax.evaluate.table import aligned
from cvjax.spelling import did_you_mean
from cvjax.text import read_text
from cvjax.workflow.folder import write_json
from cvjax.workflow.run_files import read_summary
from experiments.reproduce import Config

ROOT = Path(__file__).parents[2]
STORED = ROOT / "docs" / "results"
FAR = 3.0  # standard errors; a difference beyond them is no chance


class Result(NamedTuple):
    """A result: the experiment with its arguments, the numbers that are stated of it, and a picture of `figures`."""

    command: tuple[str, ...]
    metrics: tuple[str, ...]
    picture: str | None = None


PROBED = ("linear_probe/{0}", "knn/{0}", "linear_probe/random", "knn/random", "linear_probe/pixels", "knn/pixels")
RESULTS: dict[str, Result] = {
    "mae_digits": Result(("mae_pretrain",), tuple(name.format("mae") for name in PROBED),
                         "reconstruction.png"),
    "dino_digits": Result(("dino_pretrain",), tuple(name.format("dino") for name in PROBED),
                          "neighbours.png"),
    "simsiam_digits": Result(("simsiam_pretrain",), tuple(name.format("simsiam") for name in PROBED),
                             "neighbours.png"),
    "supervised_digits": Result(("supervised",), ("test/top1", "test/ece"), "mistakes.png"),
    "segment_scenes": Result(("segment",), ("test/miou", "test/pixel_accuracy", "majority/miou", "colour/miou"),
                             "segmentation.png"),
    "detect_scenes": Result(("detect",), ("test/ap50", "test/ap"), "detections.png"),
}


def run(config: Config) -> None:
    """List the results, or run and compare each that is named."""
    if not config.names:
        print(listed())
        return
    for name in config.names:
        if name not in RESULTS:
            otherwise = f"it must be one of {', '.join(RESULTS)}"
            raise ConfigError(f"unknown result {name!r}: {did_you_mean(name, RESULTS, otherwise)}")
    for name in config.names:
        result, stated = RESULTS[name], stored(name)
        found = {seed: run_again(result, seed, config.output / name / f"seed-{seed}") for seed in config.seeds}
        print(f"\n{name}: python -m experiments.{' '.join(result.command)} --seed S\n"
              f"{compared(result, stated, found)}\n")
        if config.store:
            (STORED / name).mkdir(parents=True, exist_ok=True)
            for seed, summary in found.items():
                write_json(STORED / name / f"seed-{seed}.json", origin(result, seed) | summary)
            if result.picture:
                drawn = config.output / name / f"seed-{config.seeds[0]}" / "figures" / result.picture
                shutil.copyfile(drawn, STORED / name / result.picture)
            print(f"written to {STORED / name}")


def listed() -> str:
    """The results, a line each: the command, and how many seeds are stored."""
    lines = [(name, f"python -m experiments.{' '.join(result.command)}",
              f"{len(stored(name)) or 'no'} seed{'s' * (len(stored(name)) != 1)} stored")
             for name, result in RESULTS.items()]
    return aligned([("result", "command", "in docs/results"), *lines])


def stored(name: str) -> dict[int, dict[str, Any]]:
    """The summaries that a result rests on, by seed."""
    return {int(path.stem.removeprefix("seed-")): json.loads(read_text(path))
            for path in sorted((STORED / name).glob("seed-*.json"))}


def run_again(result: Result, seed: int, folder: Path) -> dict[str, Any]:
    """The summary of a run in a process of its own; ProcessError if it fails."""
    words = [sys.executable, "-m", f"experiments.{result.command[0]}", *result.command[1:], "--seed", str(seed),
             "--run-dir", os.fspath(folder.resolve())]
    status = subprocess.run(words, cwd=ROOT).returncode
    if status:
        raise ProcessError(f"{' '.join(words[1:])} ended with the status {status}")
    return read_summary(folder)


def compared(result: Result, stated: Mapping[int, Mapping[str, Any]], found: Mapping[int, Mapping[str, Any]]) -> str:
    """A table of each number: as stated, as found here, and whether chance explains the difference."""
    rows = [("metric", "stated", "here", "")]
    for metric in result.metrics:
        before, now = ([summary["metrics"][metric] for summary in group.values()] for group in (stated, found))
        rows.append((metric, spread(metric, before), spread(metric, now), verdict(before, now)))
    return aligned(rows)


def spread(metric: str, values: Sequence[float]) -> str:
    """Mean, deviation and number of values in words."""
    if not values:
        return "nothing stored"
    deviation = f" ± {in_words(metric, statistics.stdev(values))}" if len(values) > 1 else ""
    return f"{in_words(metric, statistics.mean(values))}{deviation} ({len(values)})"


def verdict(before: Sequence[float], now: Sequence[float]) -> str:
    """Whether two groups of values differ by more than their seeds explain."""
    if not before:
        return ""
    if len(before) < 2:
        return "the same" if list(before) == list(now) else "one seed: no spread is known"
    error = statistics.stdev(before) * math.sqrt(1 / len(before) + 1 / len(now))
    difference = abs(statistics.mean(now) - statistics.mean(before))
    return "as stated" if difference <= FAR * error else f"differs by {difference / error:.1f} standard errors"


def origin(result: Result, seed: int) -> dict[str, Any]:
    """How a summary came about: command, commit and machine."""
    done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=ROOT,
                          capture_output=True, text=True)
    processors = [line.partition(":")[2].strip() for line in read_text("/proc/cpuinfo").splitlines()
                  if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    return {"command": f"python -m experiments.{' '.join(result.command)} --seed {seed}",
            "commit": done.stdout.strip() or None,
            "machine": f"{len(processors) or os.cpu_count()} x {(processors or [platform.machine()])[0]}"}
