"""One page that compares the runs below a folder, `index.html`: a table for each protocol, best first, to be sorted."""

import dataclasses
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cvjax.errors import ConfigError
from cvjax.evaluate.shares import in_words
from cvjax.train.log import read_metrics
from cvjax.workflow.compare import HEADLINES, Cell, Comparison, Run, comparisons, read_run, why_left_out
from cvjax.workflow.config import RUN_DATA
from cvjax.workflow.report.html import document, table, text
from cvjax.workflow.report.page import REPORT, rewrite_report
from cvjax.workflow.run_files import CONFIG

INDEX = "index.html"
PATTERNS = (*HEADLINES, "test/map", "test/r2", "*/ap50", "retrieval")

_SORT = """
for (const head of document.querySelectorAll("table.sorted thead th")) {
  const button = document.createElement("button"), place = [...head.parentElement.children].indexOf(head);
  button.append(...head.childNodes);
  head.append(button);
  button.onclick = () => {
    const down = head.getAttribute("aria-sort") === "ascending" || (place && !head.hasAttribute("aria-sort"));
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0], key = (row) => row.children[place].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = down ? [key(b), key(a)] : [key(a), key(b)];
      if (!key(a) || !key(b)) return key(a) ? -1 : key(b) ? 1 : 0;
      return place ? x - y : x.localeCompare(y, "en", {numeric: true});
    });
    body.append(...rows);
  };
}
"""


def find_runs(folder: Path) -> list[Path]:
    """The runs below a folder, sorted; the parts of a run (folds, rungs) belong to it."""
    found = []
    for parent, below, names in os.walk(folder):
        if CONFIG in names:
            found.append(Path(parent))
            below.clear()
    return sorted(found)


def index_of(folder: Path, paths: Sequence[Path]) -> tuple[str, dict[str, str]]:
    """The page of the runs at these paths below a folder, and which of them stand in no table: path in it -> why.

    A finished run without a page gets one.
    """
    runs, left_out = [], {}
    for path in paths:
        try:
            reason = why_left_out(path)
            if reason is None:
                run = dataclasses.replace(read_run(path), path=os.path.relpath(path, folder))
                if comparisons([run], PATTERNS):
                    runs.append(run)
                else:
                    reason = "has none of the numbers that runs are compared by"
                if not (path / REPORT).exists():
                    rewrite_report(path)
        except ConfigError as error:
            reason = str(error).removeprefix(f"{path} ")
        if reason:
            left_out[os.path.relpath(path, folder)] = reason
    tables = sorted(comparisons(runs, PATTERNS), key=lambda table: -len(table.rows))
    known = {run.path: run for run in runs}
    sections = [(f"table-{i}", f"{_data_of(each, known)}: {', '.join(each.columns)}", _table(folder, each, known))
                for i, each in enumerate(tables)]
    header = (f'<p class="over">cvjax runs</p><h1>{text(folder)}</h1><p>{len(paths)} runs, {len(runs)} of them in '
              f"{len(tables)} {'table' if len(tables) == 1 else 'tables'}. Numbers stand in one column only if they "
              "were measured by one protocol: the same images, the same way to judge. Runs that differ only in the "
              "seed share a row: mean ± standard deviation.</p>")
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    page = document(f"{folder}: runs", header, [*sections, ("rest", "In no table", _rest(folder, left_out))],
                    f"Written {now} by cvjax; the same command writes it anew. This page loads nothing from a network.",
                    script=_SORT)
    return page, left_out


def _data_of(comparison: Comparison, runs: Mapping[str, Run]) -> str:
    first = runs[next(iter(comparison.members.values()))[0]]
    data = str(first.config.get("data", "unknown data"))
    return "the data that the runs learnt from" if data == RUN_DATA else data


def _table(folder: Path, comparison: Comparison, runs: Mapping[str, Run]) -> str:
    """A comparison's table, its best run by the first column first, and what its columns rest on."""
    head = ["run", *(f"{text(column)}{_images(comparison.protocols[column])}" for column in comparison.columns),
            "steps", "minutes"]
    rows, keys = [], []  # markup of the cells, and what they are sorted by
    for label in sorted(comparison.rows, key=lambda label: _first(comparison.rows[label]), reverse=True):
        paths, cells = comparison.members[label], comparison.rows[label]
        steps, seconds = (_mean([runs[path].summary.get(key) for path in paths]) for key in ("steps", "wall_seconds"))
        rows.append([_links(folder, label, [runs[path] for path in paths]),
                     *(_words(column, cell) for column, cell in zip(comparison.columns, cells, strict=True)),
                     "" if steps is None else f"{steps:,.0f}", "" if seconds is None else f"{seconds / 60:,.1f}"])
        keys.append([label, *("" if cell is None else str(cell.mean) for cell in cells),
                     *("" if value is None else str(value) for value in (steps, seconds))])
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    head, rows, keys = [head[i] for i in used], *([[row[i] for i in used] for row in each] for each in (rows, keys))
    protocols = "".join(f"<p><b>{text(column)}</b>: " + (", ".join(
        f"{text(key)} {text(value)}" for key, value in protocol.items()) or "nothing recorded") + "</p>"
        for column, protocol in comparison.protocols.items())
    return table(head, rows, numbers=range(1, len(head)), caption=f"Runs by {comparison.columns[0]}", keys=keys) + (
        f"<details><summary>Protocol of each column</summary>{protocols}</details>")


def _first(cells: Sequence[Cell | None]) -> float:
    return next((cell.mean for cell in cells if cell is not None), 0.0)


def _images(protocol: Mapping[str, Any]) -> str:
    """The number of images that a column's numbers rest on, where its protocol says it."""
    count = protocol.get("data/test_images")
    return f"<br><small>n = {count:,} images</small>" if isinstance(count, int) else ""


def _words(column: str, cell: Cell | None) -> str:
    """A cell: its mean, and of several seeds the deviation and their number."""
    if cell is None:
        return ""
    if cell.deviation is None:
        return text(in_words(column, cell.mean))
    spread = text(in_words(column, cell.deviation))
    return f"{text(in_words(column, cell.mean))} ± {spread}<br><small>{cell.count} seeds</small>"


def _mean(values: Sequence[Any]) -> float | None:
    known = [value for value in values if isinstance(value, int | float)]
    return sum(known) / len(known) if known else None


def _links(folder: Path, label: str, runs: Sequence[Run]) -> str:
    """A row's name, which leads to the page of its run, or is followed by those of its seeds."""
    if len(runs) == 1:
        return _link(folder, runs[0].path, runs[0].path)
    return f"{_breakable(label)}<br><small>" + " ".join(
        _link(folder, run.path, f"seed {run.config.get('seed')}") for run in runs) + "</small>"


def _link(folder: Path, path: str, words: str) -> str:
    """A link to the page of the run at a path in the folder; words alone where there is none."""
    if not (folder / path / REPORT).exists():
        return _breakable(words)
    return f'<a href="./{urllib.parse.quote(os.fsencode(f"{path}/{REPORT}"))}">{_breakable(words)}</a>'


def _breakable(path: str) -> str:
    """A path that a narrow page breaks after a slash."""
    return text(path).replace("/", "/<wbr>")


def _rest(folder: Path, left_out: Mapping[str, str]) -> str:
    """The runs that stand in no table, with the reason."""
    rows = []
    for path, reason in left_out.items():
        logged = read_metrics(folder / path / "metrics.jsonl")
        last = f"; its log ends at step {logged[-1]['step']:,}" if logged and "unfinished" in reason else ""
        rows.append([_link(folder, path, path), f"{text(reason)}{last}"])
    return table(("run", "why"), rows, caption="Runs in no table") if rows else ""
