"""Throughput of cvjax's steps beside torch's: rows of work, what was measured of them, and tables of that.

A row is one piece of work (`cvjax.experiment.work`), its cells are the sides that do it: "cvjax", and torch in several
variants, of which the quickest is compared with. Workers of all sides live at the same time and are asked in turn.
"""

import contextlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from cvjax.experiment.config import ConfigError
from cvjax.experiment.machine import LIBRARIES
from cvjax.experiment.step_workers import Worker, WorkerError, closing, one_line, take_turns
from cvjax.experiment.work import Work

OURS = "cvjax"
WARM_UP = 2  # steps after the first one that are not counted either
CONVENTION = ("FLOPs are the model's: matrix products and convolutions of a forward pass in evaluation mode, two for a "
              "multiply-add, three forward passes for a training step (DINO: and the teacher's one). The share of the "
              "peak is of the best square matrix product that any of the row's workers measured in the same type. "
              "Memory is the most that a side held, compilation and libraries included where it is the host's.")
EQUAL_WORK = ("Both sides get the same uint8 batch on the device; flip, normalisation, forward, loss, backward and "
              "optimizer (AdamW; convolutional networks: SGD with momentum) are timed, loading and augmenting are not. "
              "MAE draws its masks inside the step; DINO's views come ready-made. cvjax's step is the project's own, "
              "which also measures the gradient's norm and the task's metrics (accuracy; DINO's guard against "
              "collapse); torch's does not. bfloat16 is autocast for torch, the models' dtype for cvjax; parameters "
              "are float32 on both sides.")


class Spread(NamedTuple):
    """Quartiles."""

    low: float
    median: float
    high: float


class Ratio(NamedTuple):
    """cvjax's time over that of torch's best variant: medians, and the quartiles of the turns' own ratios."""

    value: float
    low: float
    high: float
    of: str


class Figures(NamedTuple):
    """What one cell comes to, by the clock of its row."""

    seconds: Spread
    images_per_second: float
    flops_per_second: float
    share_of_peak: float | None


def spread(values: Sequence[float]) -> Spread:
    """Quartiles of one or more numbers, interpolated linearly."""
    return Spread(*map(float, np.percentile(values, (25, 50, 75))))


def clock_of(cores: int | None, device: str) -> str:
    """"cpu" where one core does the work, for then the processor's time is that of a quiet machine; else "wall"."""
    return "cpu" if cores == 1 and device == "cpu" else "wall"


def figures(row: Mapping[str, Any], side: str, clock: str) -> Figures | None:
    """Of a row's cell, by a clock; None where it failed."""
    cell = row["cells"][side]
    if "error" in cell:
        return None
    seconds = spread(cell[clock])
    images = row["batch_size"] / seconds.median
    flops = images * row["flops_per_image"]
    peak = max(other.get("matmul_peak", {}).get(clock, 0.0) for other in row["cells"].values())
    return Figures(seconds, images, flops, flops / peak if peak else None)


def ratio(row: Mapping[str, Any], clock: str) -> Ratio | None:
    """cvjax against torch's quickest variant by this clock; None where either is missing."""
    good, cells = succeeded(row), row["cells"]
    theirs = [side for side in good if side != OURS]
    if OURS not in good or not theirs:
        return None
    best = min(theirs, key=lambda side: np.median(cells[side][clock]))
    ours, other = np.asarray(cells[OURS][clock]), np.asarray(cells[best][clock])
    turns = spread(ours / other)
    return Ratio(float(np.median(ours) / np.median(other)), turns.low, turns.high, best)


def succeeded(row: Mapping[str, Any]) -> list[str]:
    """The sides of a row that have times."""
    return [side for side, cell in row["cells"].items() if "error" not in cell]


def torch_is_installed() -> bool:
    """Whether torch could be imported; it is not."""
    return importlib.util.find_spec("torch") is not None


def describe(text: str, *, training: bool, batch_size: int, image_size: int | None, dtype: str, prototypes: int,
             local_crops: int, local_size: int | None) -> Work:
    """The work that a word of the command line names: a classifier, `mae_...` or `dino:BACKBONE`.

    image_size, local_size: None for the model's own, and for 3/7 of that (96 of 224, as in DINO's paper).
    Raises ConfigError for what is no such name.
    """
    from cvjax.experiment.encoder import MAE_FIELDS
    from cvjax.experiment.inputs import statistics
    from cvjax.models import create_model
    from cvjax.models.images import as_pair
    from cvjax.models.mae import MaskedAutoencoder
    from cvjax.models.swin import SwinTransformer
    from cvjax.models.vit import VisionTransformer

    task, colon, name = text.rpartition(":")
    if colon and task != "dino":
        raise ConfigError(f"{text}: it must be NAME, or dino:NAME for DINO on that backbone")
    try:
        model = create_model(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    is_mae = isinstance(model, MaskedAutoencoder)
    if is_mae and task:
        raise ConfigError(f"{text}: a DINO backbone must be a classifier, such as {name.removeprefix('mae_')}_224")
    size = image_size or max(as_pair(model.image_size))
    normalisation = [tuple(np.ravel(x).tolist()) for x in statistics(model.in_channels)]
    return Work(
        task="mae" if is_mae else task or "supervised", model=name, training=training, batch_size=batch_size,
        image_size=size, channels=model.in_channels, num_classes=getattr(model, "num_classes", 0), dtype=dtype,
        convolutional=not isinstance(model, MaskedAutoencoder | SwinTransformer | VisionTransformer),
        fields={name: getattr(model, name) for name in MAE_FIELDS} if is_mae else {},
        prototypes=prototypes, local_crops=local_crops, local_size=local_size or round(size * 3 / 7),
        mean=normalisation[0], deviation=normalisation[1])


def count(work: Work) -> Any:
    """`cvjax.experiment.jax_steps.Arithmetic` of some work; ConfigError where the model cannot do it."""
    from cvjax.experiment.jax_steps import arithmetic

    try:
        return arithmetic(work)
    except Exception as error:  # whatever it is that a size breaks
        raise ConfigError(f"{work.label} at {work.image_size} pixels: {one_line(error)}") from None


def measure(work: Work, counted: Any, *, variants: Sequence[str], ours: bool, turns: int, chain: int, cores: int | None,
            timeout: float, together: bool = False) -> dict[str, Any]:
    """One row, as JSON: workers are started one after the other, or `together`, asked in turn, and gone at the end.

    counted: what `count` says of the work. variants: of torch (see `cvjax.experiment.torch_steps.TorchSteps`); those of
    channels-last are left out where there are no convolutions.
    ours: whether cvjax is one of the sides.
    """
    row: dict[str, Any] = {
        "label": work.label, "task": work.task, "model": work.model, "mode": work.label.split()[-1],
        "batch_size": work.batch_size, "image_size": work.image_size, "dtype": work.dtype,
        "optimizer": work.optimizer if work.training else None, "parameters": counted.parameters,
        "flops_per_image": counted.flops_per_image, "device": None, "cells": {}}
    if work.task == "dino" and work.training:
        row |= {name: getattr(work, name) for name in ("prototypes", "local_crops", "local_size")}
    sides = [OURS] if ours else []
    sides += [f"torch {name}" for name in variants if work.convolutional or "channels-last" not in name]
    cells = row["cells"]

    def start(side: str) -> Worker:
        build, arguments = (_build_ours, (work,)) if side == OURS else (
            _build_torch, (work, side.removeprefix("torch "), row["device"]))
        return Worker(build, arguments, cores=cores, timeout=timeout)

    with closing({}) as workers, ThreadPoolExecutor() as pool:
        begun = {side: pool.submit(start, side) for side in sides} if together else {}
        for side in sides:
            try:
                workers[side] = begun[side].result() if together else start(side)
                cells[side] = dict(workers[side].facts)
                if row["device"] not in (None, cells[side]["device"]):
                    raise WorkerError(f"it runs on {cells[side]['device']}, the sides before it on {row['device']}")
                if cells[side]["parameters"] != counted.parameters:
                    raise WorkerError(f"not the same work: {cells[side]['parameters']:,} parameters, cvjax has "
                                      f"{counted.parameters:,}")
                workers[side].ask("run", WARM_UP)
                row["device"] = row["device"] or cells[side]["device"]
            except WorkerError as error:
                cells[side] = {"error": str(error)}
                if side in workers:
                    workers.pop(side).close()
        times, lost = take_turns(workers, turns, chain)
        for side in list(times):
            try:
                cells[side] |= workers[side].ask("finish")
            except WorkerError as error:
                lost[side] = str(error)
                continue
            cells[side] |= {clock: [getattr(one, clock) for one in times[side]] for clock in ("wall", "cpu")}
            with contextlib.suppress(WorkerError):  # such as no memory for the matrices: the times stand
                cells[side]["matmul_peak"] = workers[side].ask("peak")
        cells |= {side: {"error": reason} for side, reason in lost.items()}
    return row


def _build_ours(work: Work) -> Any:
    from cvjax.experiment.jax_steps import JaxSteps

    return JaxSteps(work)


def _build_torch(work: Work, variant: str, device: str | None) -> Any:
    from cvjax.experiment.torch_steps import TorchSteps

    return TorchSteps(work, variant, device)


def load() -> tuple[float, float, float] | None:
    """Processes that want to run, averaged over 1, 5 and 15 minutes; None where the system does not say."""
    try:
        return os.getloadavg()
    except (AttributeError, OSError):
        return None


COLUMNS = ("side", "ms", "quartiles", "CPU ms", "images/s", "GFLOP/s", "of peak", "own peak", "start s", "memory MB",
           "time / torch's")


def table(row: Mapping[str, Any], clock: str) -> list[tuple[str, ...]]:
    """Lines of cells under COLUMNS, one for each side; a failed one has its reason in the second cell and no more.

    "ms" is a step by the row's clock, "CPU ms" by the processor's, "start s" what it took from the built model to the
    first step's end, compilation included. "of peak" is of the row's best, "own peak" what this side's matrix product
    reached, in GFLOP/s. The last one, in cvjax's line, names the quickest torch.
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
    """With three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def text_table(row: Mapping[str, Any], clock: str) -> str:
    """The lines of a row for the terminal, under its heading."""
    full = [line for line in table(row, clock) if len(line) == len(COLUMNS)]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *full)]
    name = max(len(line[0]) for line in [*table(row, clock), COLUMNS])
    lines = [heading(row)]
    for line in [COLUMNS, *table(row, clock)]:
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:])) if len(line) > 2 else line[1:]
        lines.append("  " + "  ".join([line[0].ljust(name), *rest]).rstrip())
    return "\n".join(lines)


def panel(row: Mapping[str, Any], clock: str) -> tuple[str, list[Any]]:
    """A row as `cvjax.visualize.throughput.plot_throughput` takes it."""
    from cvjax.visualize.throughput import Bar

    compared, bars = ratio(row, clock), []
    for side, cell in row["cells"].items():
        found = figures(row, side, clock)
        role = "ours" if side == OURS else "best" if compared is not None and side == compared.of else "other"
        if found is None:
            bars.append(Bar(side, None, cell["error"], role))
            continue
        against = f"; {compared.value:.2f} x the time of {compared.of}" if role == "ours" and compared else ""
        bars.append(Bar(side, tuple(found.seconds), f"{_number(found.images_per_second)} images/s{against}", role))
    return (f"{row['label']}, {row['batch_size']} images of {row['image_size']} pixels, {row['dtype']}", bars)


def heading(row: Mapping[str, Any]) -> str:
    """What a row is of, in one line."""
    optimizer = f", {row['optimizer']}" if row["optimizer"] else ""
    views = f", {row['local_crops']} local views of {row['local_size']}, {row['prototypes']:,} prototypes" if (
        "prototypes" in row) else ""
    return (f"{row['label']}: {row['batch_size']} images of {row['image_size']}x{row['image_size']}, {row['dtype']}"
            f"{optimizer}{views}; {row['parameters']:,} parameters, {row['flops_per_image'] / 1e9:.4g} GFLOPs an image")


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report: a table for each row, the ratios by both clocks, and how it was measured."""
    lines = ["# Benchmark", "", _where(report), ""]
    compared = [(row, ratio(row, "wall"), ratio(row, "cpu")) for row in report["rows"]]
    if any(wall for _, wall, _ in compared):
        lines += ["cvjax's time over that of torch's quickest variant, below 1 where cvjax is quicker; in brackets the "
                  "quartiles of the turns' ratios.", "", "| row | wall | CPU time |", "| --- | --- | --- |"]
        lines += [f"| {row['label']} | {_in_words(wall)} | {_in_words(cpu)} |" for row, wall, cpu in compared if wall]
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
    clock = "the processor's time of one core" if report["clock"] == "cpu" else "the wall's clock"
    return (f"{report['date']}, {', '.join([*kinds, facts['processor']])}, {facts['cores_used']} of {facts['cores']} "
            f"cores; {libraries}. Medians of {config['steps']} turns of {config['chain']} step"
            f"{'s' if config['chain'] > 1 else ''} by {clock}, all sides in turn; load average before and after: "
            f"{load}. {'; '.join(precision)}.")


def as_text(report: Mapping[str, Any]) -> str:
    """The report as JSON."""
    return json.dumps(report, indent=1) + "\n"
