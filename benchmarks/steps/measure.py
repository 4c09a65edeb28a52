"""Time cvjax's steps and torch's: each workload becomes a row, in which the sides take turns."""

import contextlib
import datetime
import importlib.util
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from benchmarks.machine_facts import machine
from benchmarks.steps.bars import plot_throughput
from benchmarks.steps.config import Config
from benchmarks.steps.cvjax_side import Arithmetic, arithmetic
from benchmarks.steps.report import OURS, clock_of, markdown, panel, succeeded, text_table
from benchmarks.steps.worker_processes import Worker, WorkerError, closing, one_line, take_turns
from benchmarks.steps.workload import Workload
from cvjax.data.preprocessing import Preprocessing
from cvjax.errors import ConfigError
from cvjax.models import create_model
from cvjax.models.images import as_pair
from cvjax.models.mae import MaskedAutoencoder
from cvjax.models.swin import SwinTransformer
from cvjax.models.vit import VisionTransformer
from cvjax.text import write_text
from cvjax.workflow.config import as_json
from cvjax.workflow.folder import write_json

CVJAX_SIDE, TORCH_SIDE = "benchmarks.steps.cvjax_side:CvjaxSteps", "benchmarks.steps.torch_side:TorchSteps"
WARM_UP = 2  # steps after the first one that are not counted either

MAE_FIELDS = ("patch_size", "width", "depth", "heads", "decoder_width", "decoder_depth", "decoder_heads")


def run(config: Config) -> None:
    """Measure one row after the other, print each, and write the report and the picture.

    Raises:
        ConfigError: the request is impossible, or no side of any row could be measured.
    """
    _check(config)
    jax.config.update("jax_platforms", "cpu")  # this process only counts: the workers have the accelerator
    modes = {"train": (True,), "inference": (False,), "both": (True, False)}[config.mode]
    workloads = [describe(word, config, training=training)
                 for word in dict.fromkeys(config.models) for training in modes]
    counted = [count(workload) for workload in workloads]
    installed = torch_is_installed()
    if config.torch == "auto" and not installed:
        print("torch is not installed: only cvjax is measured")
    variants = config.torch_variants if installed and config.torch != "no" else ()

    config.output.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "clock": "wall",
        "machine": machine(config.cores), "config": as_json(config), "rows": [],
        "load_before": _load(), "load_after": None}
    for number, workload in enumerate(workloads, start=1):
        print(f"[{number}/{len(workloads)}] {workload.label} ...", flush=True)
        row = measure_row(workload, counted[number - 1], config, variants)
        report["rows"].append(row)
        report["clock"] = clock_of(config.cores, row["device"] or "cpu")
        report["load_after"] = _load()
        elapsed = time.perf_counter() - begin
        left = elapsed / number * (len(workloads) - number)
        print(text_table(row, report["clock"]))
        print(f"  {elapsed:.0f} s so far{f', about {left:.0f} s left' if number < len(workloads) else ''}", flush=True)
        write_json(config.output / "benchmark.json", report)
        write_text(config.output / "benchmark.md", markdown(report))
    plot_throughput(config.output / "benchmark.png", [panel(row, report["clock"]) for row in report["rows"]],
                    clock="CPU time" if report["clock"] == "cpu" else "wall-clock time")
    print(f"written to {config.output}/benchmark.json, .md and .png")
    if not any(succeeded(row) for row in report["rows"]):
        raise ConfigError("nothing could be measured: the table above says why")


def _check(config: Config) -> None:
    """Raise ConfigError for what this machine cannot do."""
    if config.cores is not None:
        if not hasattr(os, "sched_setaffinity"):
            raise ConfigError(f"--cores {config.cores}: this system does not let processes choose their cores")
        usable = len(os.sched_getaffinity(0))
        if config.cores > usable:
            raise ConfigError(f"--cores {config.cores}: it must be at most {usable}, the cores of this process")
    if config.torch == "only" and not torch_is_installed():
        raise ConfigError("--torch only: torch is not installed")
    if config.output.exists() and not config.output.is_dir():
        raise ConfigError(f"--output {config.output} is a file; it must be a folder or not exist")


def torch_is_installed() -> bool:
    """Whether torch could be imported. It is not imported."""
    return importlib.util.find_spec("torch") is not None


def describe(word: str, config: Config, *, training: bool) -> Workload:
    """The workload that a word of the command line names: a classifier, `mae_...` or `dino:BACKBONE`.

    Raises:
        ConfigError: there is no such model, or the model cannot be trained this way.
    """
    task, colon, name = word.rpartition(":")
    if colon and task != "dino":
        raise ConfigError(f"{word}: it must be NAME, or dino:NAME for DINO on that backbone")
    try:
        model: Any = create_model(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    is_mae = isinstance(model, MaskedAutoencoder)
    if is_mae and task:
        raise ConfigError(f"{word}: a DINO backbone must be a classifier, such as {name.removeprefix('mae_')}_224")
    size = config.image_size or max(as_pair(model.image_size))
    how = Preprocessing.of(model.in_channels)
    return Workload(
        task="mae" if is_mae else "dino" if task else "supervised", model=name, training=training,
        batch_size=config.batch_size, image_size=size, channels=model.in_channels,
        num_classes=getattr(model, "num_classes", 0), dtype=config.dtype,
        convolutional=not isinstance(model, MaskedAutoencoder | SwinTransformer | VisionTransformer),
        fields={name: getattr(model, name) for name in MAE_FIELDS} if is_mae else {},
        prototypes=config.prototypes, local_crops=config.local_crops,
        local_size=config.local_size or round(size * 3 / 7), mean=how.mean, deviation=how.std)


def count(workload: Workload) -> Arithmetic:
    """Parameters and FLOPs of a workload.

    Raises:
        ConfigError: the model cannot take images of this size.
    """
    try:
        return arithmetic(workload)
    except Exception as error:  # models raise different errors for a size that they cannot take
        raise ConfigError(f"{workload.label} at {workload.image_size} pixels: {one_line(error)}") from None


def measure_row(workload: Workload, counted: Arithmetic, config: Config, variants: Sequence[str]) -> dict[str, Any]:
    """One row (see `benchmarks.steps.report`), which JSON can hold.

    One worker for each side starts, they take turns, and all of them are gone at the end. A side that fails has an
    error in its cell, and the others go on.

    counted: the workload's, by `count`. variants: of torch, as `benchmarks.steps.torch_side.TorchSteps` takes
    them; a network without convolutions leaves out those of channels-last.
    """
    row: dict[str, Any] = {
        "label": workload.label, "task": workload.task, "model": workload.model, "mode": workload.label.split()[-1],
        "batch_size": workload.batch_size, "image_size": workload.image_size, "dtype": workload.dtype,
        "optimizer": workload.optimizer if workload.training else None, "parameters": counted.parameters,
        "flops_per_image": counted.flops_per_image, "device": None, "cells": {}}
    if workload.task == "dino" and workload.training:
        row |= {name: getattr(workload, name) for name in ("prototypes", "local_crops", "local_size")}
    sides = [OURS] if config.torch != "only" else []
    sides += [f"torch {name}" for name in variants if workload.convolutional or "channels-last" not in name]
    cells = row["cells"]

    def start(side: str) -> Worker:
        steps, arguments = (CVJAX_SIDE, (workload,)) if side == OURS else (
            TORCH_SIDE, (workload, side.removeprefix("torch "), row["device"]))
        return Worker(steps, arguments, cores=config.cores, timeout=config.timeout)

    with closing({}) as workers, ThreadPoolExecutor() as pool:
        begun = {side: pool.submit(start, side) for side in sides} if config.together else {}
        for side in sides:
            try:
                workers[side] = begun[side].result() if config.together else start(side)
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
        times, lost = take_turns(workers, config.steps, config.chain)
        for side in list(times):
            try:
                cells[side] |= workers[side].ask("finish")
            except WorkerError as error:
                lost[side] = str(error)
                continue
            cells[side] |= {clock: [getattr(taken, clock) for taken in times[side]] for clock in ("wall", "cpu")}
            with contextlib.suppress(WorkerError):  # the matrices may need too much memory; the times are good
                cells[side]["matmul_peak"] = workers[side].ask("peak")
        cells |= {side: {"error": reason} for side, reason in lost.items()}
    return row


def _load() -> tuple[float, float, float] | None:
    """Load averages of 1, 5 and 15 minutes; None if the system does not tell."""
    try:
        return os.getloadavg()
    except (AttributeError, OSError):
        return None
