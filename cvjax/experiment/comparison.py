"""Finished runs side by side: their numbers in columns of one protocol each, runs that differ in the seed averaged."""

import dataclasses
import fnmatch
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cvjax.evaluate.protocol import column_of, differences, protocol_of
from cvjax.experiment.config import FREE, ConfigError

HEADLINES = ("test/top1", "test/miou", "test/ap50", "linear_probe", "knn", "few_shot/shots=*[0-9]")
MARK = "†"  # of a column of more than one protocol
SPELLED_OUT = 3  # keys that a refusal gives with their values; the others it only names


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, by the path that it was given as."""

    path: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number of one run, or the mean of `count` runs and its standard deviation (divisor count - 1)."""

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.deviation is None else f" ± {self.deviation:.4f} (n={self.count})")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Rows of cells, None where no run of a row has the metric.

    columns: names, as `cvjax.evaluate.protocol.column_of` gives them. rows: label -> a cell for each column.
    protocols: column -> what its numbers hold for, as far as they share it.
    mixed: column -> what `cvjax.evaluate.protocol.differences` says of its protocols, where they differ.
    """

    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell | None, ...]]
    protocols: dict[str, dict[str, Any]]
    mixed: dict[str, dict[str, dict[str, list[str]]]]

    @property
    def titles(self) -> list[str]:
        """The columns' names, marked where they are mixed."""
        return [f"{column} {MARK}" if column in self.mixed else column for column in self.columns]

    def markdown(self) -> str:
        """The table, and under it what each column holds for."""
        rows = [["run", *self.titles], ["---", *("---:" for _ in self.columns)]]
        rows += [[label, *("" if cell is None else str(cell) for cell in cells)] for label, cells in self.rows.items()]
        lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows] + [""]
        for column in self.columns:
            shared = ", ".join(f"{key} {value}" for key, value in self.protocols[column].items())
            lines.append(f"- `{column}`: {shared or 'nothing recorded'}")
        for column, differing in self.mixed.items():
            what = "; ".join(_in_words(key, values) for key, values in differing.items())
            lines.append(f"- {MARK} `{column}` mixes protocols: {what}")
        return "\n".join(lines) + "\n"


def read_run(path: Path) -> Run:
    """A run by its folder; ConfigError where there is none, or one that is not finished."""
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder; give the folders of finished runs")
    if not (path / "config.json").exists():
        raise ConfigError(f"{path} holds no run (no config.json); give the folders of finished runs")
    if not (path / "summary.json").exists():
        raise ConfigError(f"{path} holds an unfinished run (no summary.json)")
    try:
        config, summary = (json.loads((path / name).read_text()) for name in ("config.json", "summary.json"))
        for name, value in summary["metrics"].items():
            float(value)
            protocol_of(summary, name, config)
        return Run(str(path), dict(config), summary)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: config.json and summary.json are not those of a run "
                          f"({type(error).__name__}: {str(error).splitlines()[0]})") from None


def compare(runs: Sequence[Run], patterns: Sequence[str], *, mix_protocols: bool = False) -> Comparison:
    """Columns of all metrics that a pattern (`knn*`) matches by their own name or by that of their column.

    Raises ConfigError when runs are given twice, when a pattern matches nothing, and when a column holds numbers of
    different protocols, unless `mix_protocols`.
    """
    places = [os.path.realpath(run.path) for run in runs]
    twice = [run.path for i, run in enumerate(runs) if places[i] in places[:i]]
    if twice:
        raise ConfigError(f"given twice: {', '.join(twice)}")
    metrics = {run.path: _chosen(run, patterns) for run in runs}  # path -> column -> metric
    found = dict.fromkeys(column for chosen in metrics.values() for column in chosen)
    columns = tuple(sorted(found, key=lambda column: _place(column, patterns)))
    if not columns:
        have = sorted({column_of(name) for run in runs for name in run.summary["metrics"]})
        raise ConfigError(f"no metric matches {' '.join(patterns)}; the runs have {', '.join(have) or 'none at all'}")
    shared, mixed = {}, {}
    for column in columns:
        protocols = {run.path: protocol_of(run.summary, metrics[run.path][column], run.config)
                     for run in runs if column in metrics[run.path]}
        differing = differences(protocols)
        if differing:
            mixed[column] = differing
        first = next(iter(protocols.values()))
        shared[column] = {key: value for key, value in first.items() if key not in differing}
    if mixed and not mix_protocols:
        column, differing = next(iter(mixed.items()))
        first, others = list(differing)[:SPELLED_OUT], list(differing)[SPELLED_OUT:]
        what = "; ".join(_in_words(key, differing[key]) for key in first)
        more = f"; and {', '.join(others)}" if others else ""
        raise ConfigError(f"{column} is of different protocols: {what}{more}; --mix-protocols puts them into one "
                          "column all the same, and marks it")

    def cell(group: Sequence[Run], column: str) -> Cell | None:
        values = [run.summary["metrics"][metrics[run.path][column]] for run in group if column in metrics[run.path]]
        return Cell(mean(values), stdev(values) if len(values) > 1 else None, len(values)) if values else None

    groups = _groups(runs)
    rows = {label: tuple(cell(group, column) for column in columns)
            for label, group in zip(_labels(groups), groups, strict=True)}
    return Comparison(columns, rows, shared, mixed)


def _in_words(key: str, values: Mapping[str, Sequence[str]]) -> str:
    """`knn/k: 10 (a, b), 20 (c)`."""
    return f"{key}: " + ", ".join(f"{value} ({', '.join(runs)})" for value, runs in values.items())


def _chosen(run: Run, patterns: Sequence[str]) -> dict[str, str]:
    """Column -> metric, of the metrics that a pattern matches."""
    chosen: dict[str, str] = {}
    for name in run.summary["metrics"]:
        column = column_of(name)
        if any(fnmatch.fnmatchcase(each, pattern) for pattern in patterns for each in (name, column)):
            if column in chosen:
                raise ConfigError(f"{run.path} has {chosen[column]} and {name} for the column {column}: --metrics must "
                                  "name one of them")
            chosen[column] = name
    return chosen


def _place(column: str, patterns: Sequence[str]) -> int:
    """The order of columns is that of the patterns; one by a metric's full name comes last."""
    matching = (i for i, pattern in enumerate(patterns) if fnmatch.fnmatchcase(column, pattern))
    return next(matching, len(patterns))


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in nothing but the seed, and have different seeds, together; others alone."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_identity(run.config), sort_keys=True), []).append(run)
    found = []
    for group in groups.values():
        seeds = {json.dumps(_seeds(run.config)) for run in group}
        found += [group] if len(seeds) == len(group) else [[run] for run in group]
    return found


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without its seed; the run that it starts from likewise, where that is still there."""
    kept = {key: value for key, value in config.items() if key not in ("seed", *FREE)}
    before = _before(config)
    return kept if before is None else kept | {"checkpoint": _identity(before)}


def _seeds(config: Mapping[str, Any]) -> list[Any]:
    """The seed, and those of the runs before it."""
    before = _before(config)
    return [config.get("seed"), *(() if before is None else _seeds(before))]


def _before(config: Mapping[str, Any]) -> dict[str, Any] | None:
    checkpoint = config.get("checkpoint")
    path = Path(checkpoint) / "config.json" if isinstance(checkpoint, str) else None
    return json.loads(path.read_text()) if path is not None and path.exists() else None


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A run's path; of several what their paths start with, or all of them where that is no name of its own."""
    paths = [[run.path for run in group] for group in groups]
    starts = [os.path.commonprefix(each) for each in paths]
    labels = []
    for each, start in zip(paths, starts, strict=True):
        clear = os.path.basename(start) and starts.count(start) == 1
        labels.append(each[0] if len(each) == 1 else f"{f'{start}…' if clear else ', '.join(each)} ({len(each)} seeds)")
    return labels
