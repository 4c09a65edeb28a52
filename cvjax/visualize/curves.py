"""Training curves, drawn from the `metrics.jsonl` of a run."""

import json
import math
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvjax.evaluate.shares import is_share
from cvjax.text import read_text
from cvjax.visualize.sheet import in_percent, legend, save_figure

Series = dict[int, float]  # step -> value

_FIRST = ("loss", "learning_rate")
_CLOCKS = ("step", "epoch", "seconds")  # times at which a line was written; they are not metrics
LOG_RATIO = 10  # a loss that spans more than this factor is drawn on a log scale
FEW_POINTS = 30  # series of at most this length show their points
MOST_NAMED = 10  # a panel with more curves has no legend, since colours repeat


def read_curves(metrics_jsonl: str | PathLike) -> tuple[dict[str, dict[str, Series]], dict[str, int]]:
    """Group the numbers of a metrics file by what they measure, see `group_curves`.

    Args:
      metrics_jsonl: path of JSON lines, each `{"step": int, "train/loss": float, "test/loss": float, ...}`. Every key
        but `step` is optional. A last line that is incomplete, because the run was killed, is left out.

    Raises:
      ValueError: a line before the last is not JSON, a line has no step, or the file has no metric.
    """
    groups, skipped = group_curves(_read_lines(Path(metrics_jsonl)))
    if not groups:
        raise ValueError(f"{metrics_jsonl} has no metric: its lines need a step and another number")
    return groups, skipped


def group_curves(lines: Iterable[Mapping[str, Any]]) -> tuple[dict[str, dict[str, Series]], dict[str, int]]:
    """Group the numbers of a metrics file's lines by what they measure.

    Returns:
      `{group: {curve: {step: value}}}`, and `{group: number of non-finite values that are left out}`. The key
      "train/loss" is curve "train" of group "loss", "test/iou/sky" is curve "sky" of group "iou of each class", and a
      key without a slash is a group of its own. Loss and learning rate come first.
    """
    groups: dict[str, dict[str, Series]] = {}
    skipped: dict[str, int] = {}
    for line in lines:
        for key, value in line.items():
            if key in _CLOCKS:
                continue
            curve, group, name = [*key.split("/", 2), "", ""][:3]
            if name:  # of a class
                curve, group = name, f"{group} of each class"
            elif not group:
                curve, group = "", key
            series = groups.setdefault(group, {}).setdefault(curve, {})
            if math.isfinite(value):
                series[line["step"]] = value
            else:
                skipped[group] = skipped.get(group, 0) + 1
    first = [group for group in _FIRST if group in groups]
    return {group: groups[group] for group in (*first, *groups)}, skipped


def plot_curves(metrics_jsonl: str | PathLike, path: str | PathLike) -> None:
    """Save a PNG with one small panel per group of curves: loss, learning rate, and what else was logged.

    A positive loss that spans more than a factor of 10 is drawn on a log scale. Values that are not finite are left
    out, and the panel's title gives their number. Arguments and errors are those of `read_curves`.
    """
    groups, skipped = read_curves(metrics_jsonl)
    columns = min(3, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(4.2 * columns, 3 * rows), dpi=120, layout="constrained")
    for number, (group, curves) in enumerate(groups.items()):
        _panel(figure.add_subplot(rows, columns, number + 1), group, curves, skipped.get(group, 0))
    save_figure(figure, path)


def _read_lines(path: Path) -> list[dict]:
    texts = read_text(path).splitlines()
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            if number == len(texts):
                break
            raise ValueError(f"{path}, line {number} is not JSON: {text[:60]!r}") from error
        if "step" not in line:
            raise ValueError(f"{path}, line {number} has no step: {text[:60]!r}")
        lines.append(line)
    return lines


def _panel(axes: Axes, group: str, curves: dict[str, Series], skipped: int) -> None:
    for name, series in curves.items():
        steps = sorted(series)
        marker = "." if len(steps) <= FEW_POINTS else None
        axes.plot(steps, [series[step] for step in steps], marker=marker, linewidth=1.2, label=name or group)
    if on_log_scale(group, curves):
        axes.set_yscale("log")
    if is_share(group):
        in_percent(axes.yaxis)
    name = group.replace("_", " ")
    if skipped:
        axes.set_title(f"{skipped} non-finite value{'s' if skipped > 1 else ''} left out", fontsize=9)
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel(name, fontsize=9, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if 1 < len(curves) <= MOST_NAMED:
        legend(axes, axes.get_lines(), [name or group for name in curves], fontsize=8, frameon=False,
               ncols=1 + (len(curves) > 5))


def on_log_scale(group: str, curves: Mapping[str, Series]) -> bool:
    """Whether a group is drawn on a log scale: a positive loss that spans more than a factor of 10."""
    values = [value for series in curves.values() for value in series.values()]
    return "loss" in group and bool(values) and min(values) > 0 and max(values) > LOG_RATIO * min(values)
