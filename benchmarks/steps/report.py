"""The measured rows as tables, a report in Markdown, and panels for the picture.

A row is a dictionary that JSON can hold, one for each workload; `measure_row` in `benchmarks.steps.measure` makes it.
Its `cells` are the sides: "cvjax", and torch in several variants ("torch eager"). A cell has the seconds of each turn
by either clock ("wall", "cpu"), or an "error".
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine_facts import LIBRARIES
from benchmarks.steps.bars import Bar

OURS = "cvjax"
CONVENTION = (
    "FLOPs are counted from the model's definition: the matrix products and convolutions of a forward pass in "
    "evaluation mode, two for a multiply-add. A training step counts as three forward passes, and DINO's as one more "
    'of the teacher. "of peak" is relative to the fastest square matrix product that any worker of the row reached in '
    "the same type. Memory is the most that a side held; on a CPU it includes libraries and compilation.")
EQUAL_WORK = (
    "Both sides start from the same uint8 batch on the device. Flip, normalisation, forward pass, loss, backward pass "
    "and optimizer are timed; loading and augmentation are not. The optimizer is AdamW, or SGD with momentum for "
    "convolutional networks. MAE draws its masks inside the step; DINO's views are made beforehand. cvjax's step is "
    "the project's own: it also measures the gradient's norm and the task's metrics (accuracy; DINO's guard against "
    "collapse), which torch's step does not. In bfloat16, torch uses autocast and cvjax the model's dtype; parameters "
    "are float32 on both sides.")


class Spread(NamedTuple):
    """Lower quartile, median and upper quartile."""

    low: float
    median: float
    high: float


class Ratio(NamedTuple):
    """cvjax's time divided by that of torch's fastest variant.

    value: of the medians. low, high: quartiles of the ratios within each turn. of: the side compared with.
    """

    value: float
    low: float
    high: float
    of: str


class Figures(NamedTuple):
    """The figures of one cell, by one clock."""

    seconds: Spread
    images_per_second: float
    flops_per_second: float
    share_of_peak: float | None


def spread(values: Sequence[float]) -> Spread:
    """Quartiles of one or more numbers, interpolated linearly."""
    return Spread(*map(float, np.percentile(values, (25, 50, 75))))


def clock_of(cores: int | None, device: str) -> str:
    """"cpu" if one core does all the work, because CPU time then ignores other work on the machine; else "wall"."""
    return "cpu" if cores == 1 and device == "cpu" else "wall"


def figures(row: Mapping[str, Any], side: str, clock: str) -> Figures | None:
    """Figures of one side of a row, by one clock; None if the side failed."""
    cell = row["cells"][side]
    if "error" in cell:
        return None
    seconds = spread(cell[clock])
    images = row["batch_size"] / seconds.median
    flops = images * row["flops_per_image"]
    peak = max(other.get("matmul_peak", {}).get(clock, 0.0) for other in row["cells"].values())
    return Figures(seconds, images, flops, flops / peak if peak else None)


def ratio(row: Mapping[str, Any], clock: str) -> Ratio | None:
    """cvjax compared with torch's fastest variant by this clock; None if either is missing."""
    good, cells = succeeded(row), row["cells"]
    theirs = [side for side in good if side != OURS]
    if OURS not in good or not theirs:
        return None
    best = min(theirs, key=lambda side: np.median(cells[side][clock]))
    ours, other = np.asarray(cells[OURS][clock]), np.asarray(cells[best][clock])
    turns = spread((ours / other).tolist())
    return Ratio(float(np.median(ours) / np.median(other)), turns.low, turns.high, best)


def succeeded(row: Mapping[str, Any]) -> list[str]:
    """The sides of a row that have times."""
    return [side for side, cell in row["cells"].items() if "error" not in cell]


COLUMNS = ("side", "ms", "quartiles", "CPU ms", "images/s", "GFLOP/s", "of peak", "own peak", "start s", "memory MB",
           "time / torch's")


def table(row: Mapping[str, Any], clock: str) -> list[tuple[str, ...]]:
    """Lines of cells under COLUMNS, one for each side. A side that failed has two cells: its name and the reason.

    "ms" is the time of a step by `clock`, "CPU ms" its CPU time. "start s" is the time from the built model to the end
    of the first step, compilation included. "of peak" is relative to the row's fastest matrix product; "own peak" is
    what this side's matrix product reached, in GFLOP/s. The last cell of cvjax's line names the fastest torch.
    """
    lines = []
    compared = ratio(row, clock)
    for side, cell in row["cells"].items():
        found = figures(row, side, clock)
        if found is None:
            lines.append((side, cell["error"]))
            continue
        against = ""
        if side == OURS and compared is not None:
            against = f"{compared.value:.2f} ({compared.of.removeprefix('torch ')})"
        low, median, high = (_number(1e3 * seconds) for seconds in found.seconds)
        own = cell.get("matmul_peak", {}).get(clock)
        lines.append((
            side, median, f"{low} to {high}", _number(1e3 * float(np.median(cell["cpu"]))),
            _number(found.images_per_second), _number(found.flops_per_second / 1e9),
            "" if found.share_of_peak is None else f"{100 * found.share_of_peak:.0f} %",
            "" if own is None else _number(own / 1e9),
            f"{cell['start_seconds']:.1f}",
            f"{cell['peak_memory_bytes'] / 1e6:,.0f}", against))
    return lines


def _number(value: float) -> str:
    """A number with at least three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def text_table(row: Mapping[str, Any], clock: str) -> str:
    """A row's table for the terminal, under its heading."""
    full = [line for line in table(row, clock) if len(line) == len(COLUMNS)]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *full)]
    name = max(len(line[0]) for line in [*table(row, clock), COLUMNS])
    lines = [heading(row)]
    for line in [COLUMNS, *table(row, clock)]:
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:])) if len(line) > 2 else line[1:]
        lines.append("  " + "  ".join([line[0].ljust(name), *rest]).rstrip())
    return "\n".join(lines)


def panel(row: Mapping[str, Any], clock: str) -> tuple[str, list[Bar]]:
    """A row's title and bars, for `benchmarks.steps.bars.plot_throughput`."""
    compared, bars = ratio(row, clock), []
    for side, cell in row["cells"].items():
        found = figures(row, side, clock)
        role = "ours" if side == OURS else "best" if compared is not None and side == compared.of else "other"
        if found is None:
            bars.append(Bar(side, None, cell["error"], role))
            continue
        against = f"; {compared.value:.2f} x the time of {compared.of}" if role == "ours" and compared else ""
        bars.append(Bar(side, found.seconds, f"{_number(found.images_per_second)} images/s{against}", role))
    return (f"{row['label']}, {row['batch_size']} images of {row['image_size']} pixels, {row['dtype']}", bars)


def heading(row: Mapping[str, Any]) -> str:
    """The workload of a row, in one line."""
    optimizer = f", {row['optimizer']}" if row["optimizer"] else ""
    views = f", {row['local_crops']} local views of {row['local_size']}, {row['prototypes']:,} prototypes" if (
        "prototypes" in row) else ""
    return (f"{row['label']}: {row['batch_size']} images of {row['image_size']}x{row['image_size']}, {row['dtype']}"
            f"{optimizer}{views}; {row['parameters']:,} parameters, {row['flops_per_image'] / 1e9:.4g} GFLOPs an image")


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report: how it was measured, ratios by both clocks, and a table for each row."""
    lines = ["# Benchmark", "", _where(report), ""]
    ratios = [(row["label"], ratio(row, "wall"), ratio(row, "cpu")) for row in report["rows"]]
    compared = [(label, wall, cpu) for label, wall, cpu in ratios if wall is not None and cpu is not None]
    if compared:
        lines += ["cvjax's time divided by that of torch's fastest variant: below 1, cvjax is faster. The quartiles of "
                  "the turns' ratios are in brackets.", "", "| row | wall | CPU time |", "| --- | --- | --- |"]
        lines += [f"| {label} | {_in_words(wall)} | {_in_words(cpu)} |" for label, wall, cpu in compared]
        lines.append("")
    for row in report["rows"]:
        lines += [f"## {heading(row)}", "", f"| {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
        for line in table(row, report["clock"]):
            cells = [cell.replace("|", "\\|") for cell in line] + [""] * (len(COLUMNS) - len(line))
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, f"{EQUAL_WORK}\n", f"{CONVENTION}\n"])


def _in_words(one: Ratio) -> str:
    return f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f}) of {one.of.removeprefix('torch ')}"


def _where(report: Mapping[str, Any]) -> str:
    facts, config = report["machine"], report["config"]
    kinds = sorted({cell["device_kind"] for row in report["rows"] for cell in row["cells"].values()
                    if cell.get("device_kind", "cpu") != "cpu"})
    libraries = ", ".join(f"{name} {version}" for name, version in facts["versions"].items()
                          if name in ("jax", "flax", *LIBRARIES))
    precision = sorted({f"{side.split()[0]}: {cell['precision']}" for row in report["rows"]
                        for side, cell in row["cells"].items() if "precision" in cell})
    load = " and ".join("unknown" if pair is None else f"{pair[0]:.1f}" for pair in (
        report["load_before"], report["load_after"]))
    clock = "CPU time of one core" if report["clock"] == "cpu" else "wall-clock time"
    return (f"{report['date']}, {', '.join([*kinds, facts['processor']])}, {facts['cores_used']} of {facts['cores']} "
            f"cores; {libraries}. Medians of {config['steps']} turns of {config['chain']} step"
            f"{'s' if config['chain'] > 1 else ''} in {clock}, all sides in turn; load average before and after: "
            f"{load}. {'; '.join(precision)}.")
