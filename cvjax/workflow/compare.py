"""A table of finished runs: each column holds one metric by one protocol, and runs of several seeds are averaged."""

import dataclasses
import fnmatch
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cvjax.errors import ConfigError
from cvjax.evaluate.protocol import column_of, differences, protocol_of
from cvjax.evaluate.shares import in_words
from cvjax.workflow.config import FREE
from cvjax.workflow.run_files import CONFIG, SUMMARY, read_config, read_summary

HEADLINES = ("test/top1", "test/miou", "test/ap50", "linear_probe", "knn", "few_shot/shots=*[0-9]")
MARK = "†"  # marks a column that mixes protocols
SPELLED_OUT = 3  # an error gives the values of this many differing keys, and only the names of the others


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run. path: as the user gave it."""

    path: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number of one run, or the mean of `count` runs and its standard deviation (divisor count - 1)."""

    mean: float
    deviation: float | None
    count: int

    def in_words(self, column: str) -> str:
        """`81.11 %`, or `81.11 % ± 0.52 % (n=3)`; column: the name of its column."""
        spread = "" if self.deviation is None else f" ± {in_words(column, self.deviation)} (n={self.count})"
        return in_words(column, self.mean) + spread


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Rows of cells, None where no run of a row has the metric.

    columns: names, as `cvjax.evaluate.protocol.column_of` gives them. rows: label -> a cell for each column.
    members: label -> the paths of its runs.
    protocols: column -> the part of the protocol that all its numbers share.
    mixed: column -> how its protocols differ, for columns that mix some; see `cvjax.evaluate.protocol.differences`.
    """

    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell | None, ...]]
    members: dict[str, tuple[str, ...]]
    protocols: dict[str, dict[str, Any]]
    mixed: dict[str, dict[str, dict[str, list[str]]]]

    @property
    def titles(self) -> dict[str, str]:
        """The columns' names, each with its title: the same, marked where it is mixed."""
        return {column: f"{column} {MARK}" if column in self.mixed else column for column in self.columns}

    def markdown(self) -> str:
        """The table, and below it the protocol of each column."""
        rows = [["run", *self.titles.values()], ["---", *("---:" for _ in self.columns)]]
        rows += [[label, *("" if cell is None else cell.in_words(column) for column, cell in zip(self.columns, cells))]
                 for label, cells in self.rows.items()]
        lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows] + [""]
        for column in self.columns:
            shared = ", ".join(f"{key} {value}" for key, value in self.protocols[column].items())
            lines.append(f"- `{column}`: {shared or 'nothing recorded'}")
        for column, differing in self.mixed.items():
            what = "; ".join(_differing(key, values) for key, values in differing.items())
            lines.append(f"- {MARK} `{column}` mixes protocols: {what}")
        return "\n".join(lines) + "\n"


def why_left_out(path: Path) -> str | None:
    """Why a path among many (`runs/*/*`) is left out of a comparison; None for a finished run, and for what is not
    there, which must be a mistake."""
    if path.exists() and not (path / CONFIG).exists():
        return f"is no run (no {CONFIG})"
    if path.exists() and not (path / SUMMARY).exists():
        return f"is unfinished (no {SUMMARY})"
    return None


def read_run(path: Path) -> Run:
    """The run in a folder; ConfigError for a folder without a run, and for an unfinished run."""
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder; give the folders of finished runs")
    if reason := why_left_out(path):
        raise ConfigError(f"{path} {reason}; give the folders of finished runs")
    config, summary = read_config(path), read_summary(path)
    try:
        for name in summary["metrics"]:
            protocol_of(summary, name, config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path / SUMMARY} does not say how its metrics were measured "
                          f"({type(error).__name__}: {str(error).splitlines()[0]})") from None
    return Run(str(path), config, summary)


def compare(runs: Sequence[Run], patterns: Sequence[str], *, mix_protocols: bool = False) -> Comparison:
    """Compare all metrics whose name, or whose column's name, matches a pattern (`knn*`).

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
        what = "; ".join(_differing(key, differing[key]) for key in first)
        more = f"; and {', '.join(others)}" if others else ""
        raise ConfigError(f"the runs measured {column} by different protocols: {what}{more}; --mix-protocols puts them "
                          "into one column all the same, and marks it")

    def cell(group: Sequence[Run], column: str) -> Cell | None:
        values = [run.summary["metrics"][metrics[run.path][column]] for run in group if column in metrics[run.path]]
        return Cell(mean(values), stdev(values) if len(values) > 1 else None, len(values)) if values else None

    groups = _groups(runs)
    labelled = dict(zip(_labels(groups), groups, strict=True))
    rows = {label: tuple(cell(group, column) for column in columns) for label, group in labelled.items()}
    members = {label: tuple(run.path for run in group) for label, group in labelled.items()}
    return Comparison(columns, rows, members, shared, mixed)


def comparisons(runs: Sequence[Run], patterns: Sequence[str]) -> list[Comparison]:
    """As many tables as it takes for each column to hold numbers of one protocol, see `compare`.

    A run stands in the first table that shares a column with it, and whose shared columns have its protocol. Runs
    without a metric that a pattern matches stand in none. ConfigError as in `compare`.
    """
    tables: list[tuple[list[Run], dict[str, dict[str, Any]]]] = []  # runs, and column -> protocol
    for run in runs:
        own = {column: protocol_of(run.summary, metric, run.config)
               for column, metric in _chosen(run, patterns).items()}
        for members, known in tables:
            shared = own.keys() & known.keys()
            if shared and not any(differences({"": known[column], run.path: own[column]}) for column in shared):
                members.append(run)
                known |= own
                break
        else:
            if own:
                tables.append(([run], own))
    return [compare(members, patterns) for members, _ in tables]


def _differing(key: str, values: Mapping[str, Sequence[str]]) -> str:
    """`knn/k: 10 (a, b), 20 (c)`."""
    return f"{key}: " + ", ".join(f"{value} ({', '.join(runs)})" for value, runs in values.items())


def _chosen(run: Run, patterns: Sequence[str]) -> dict[str, str]:
    """The metrics of a run that a pattern matches: column -> metric."""
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
    """A column's place in the order of the patterns; last if a pattern matches only the metric's full name."""
    matching = (i for i, pattern in enumerate(patterns) if fnmatch.fnmatchcase(column, pattern))
    return next(matching, len(patterns))


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """The rows. Runs that differ only in the seed, and have different seeds, share a row; any other run has its own."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_identity(run.config), sort_keys=True), []).append(run)
    found = []
    for group in groups.values():
        seeds = {json.dumps(_seeds(run.config)) for run in group}
        found += [group] if len(seeds) == len(group) else [[run] for run in group]
    return found


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without its seed. If the run that it starts from still exists, its configuration is inside."""
    kept = {key: value for key, value in config.items() if key not in ("seed", *FREE)}
    before = _before(config)
    return kept if before is None else kept | {"checkpoint": _identity(before)}


def _seeds(config: Mapping[str, Any]) -> list[Any]:
    """The seed, and those of the runs before it."""
    before = _before(config)
    return [config.get("seed"), *(() if before is None else _seeds(before))]


def _before(config: Mapping[str, Any]) -> dict[str, Any] | None:
    checkpoint = config.get("checkpoint")
    path = Path(checkpoint) if isinstance(checkpoint, str) else None
    return read_config(path) if path is not None and (path / CONFIG).exists() else None


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A name for each row: the path of a single run; the common start of several paths, or all of them if that start
    names nothing or names two rows."""
    paths = [[run.path for run in group] for group in groups]
    starts = [os.path.commonprefix(each) for each in paths]
    labels = []
    for each, start in zip(paths, starts, strict=True):
        clear = os.path.basename(start) and starts.count(start) == 1
        labels.append(each[0] if len(each) == 1 else f"{f'{start}…' if clear else ', '.join(each)} ({len(each)} seeds)")
    return labels
