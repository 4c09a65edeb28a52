"""Throughput of training steps and inference, side by side with torch where torch is installed.

    python -m experiments.benchmark resnet50 vit_small_patch16_224 mae_vit_small_patch16 dino:vit_small_patch16_224
    python -m experiments.benchmark resnet18 --mode both --batch-size 8 --cores 1
    python -m experiments.benchmark vit_base_patch16_224 --batch-size 256 --dtype bfloat16 --chain 10   # on a GPU

Every side runs in a process of its own and all are asked for steps in turn, so that what else the machine does hits all
alike; compilation and the first steps are not counted. torch runs eager and compiled, convolutions also channels-last,
and the quickest is compared with. Each row is written when it is done. On a busy machine take --cores 1, whose times
are the processor's.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cvjax.experiment.config import ConfigError, command, require


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure. The default takes a few minutes on two cores."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional] = ("resnet18", "vit_tiny_patch16_224")
    """Names from list_models(): classifiers, mae_... for a masked autoencoder's step; dino:NAME for DINO's."""
    mode: Literal["train", "inference", "both"] = "train"
    """Whole training steps; or logits (MAE and DINO: features) of whole images."""
    batch_size: int = 4
    """Images in a step."""
    image_size: int | None = None
    """Side of the images; by default each model's own."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters stay float32."""
    steps: int = 10
    """Timed turns of each side."""
    chain: int = 1
    """Steps in one turn, waited for at its end; more than 1 where a step takes milliseconds."""
    cores: int | None = None
    """Use the first so many cores alone. With 1, times are those of the processor, not of the clock on the wall."""
    torch: Literal["auto", "no", "only"] = "auto"
    """auto: beside cvjax where it is installed. only: without cvjax."""
    torch_variants: tuple[Literal["eager", "eager+channels-last", "compile", "compile+channels-last"], ...] = (
        "eager", "eager+channels-last", "compile", "compile+channels-last")
    """Which of torch's settings to try. All of them hold memory at the same time."""
    together: bool = False
    """Let all sides of a row compile at the same time: sooner done, but what compiling takes is then no measure."""
    prototypes: int = 65536
    """Of DINO's head."""
    local_crops: int = 8
    """DINO's local views of each image, besides two global ones."""
    local_size: int | None = None
    """Side of the local views; by default 3/7 of the image's."""
    timeout: float = 600.0
    """Seconds that a side may take to compile, or for one turn; then it is given up."""
    output: Path = Path("benchmark")
    """Folder for benchmark.json, benchmark.md and benchmark.png; earlier ones in it are overwritten."""

    def __post_init__(self) -> None:
        require(len(self.models) >= 1, "models", self.models, "at least one name")
        require(len(self.torch_variants) >= 1, "torch_variants", self.torch_variants, "one or more")
        for name in ("batch_size", "steps", "chain", "image_size", "local_size", "cores", "timeout"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")
        require(self.prototypes >= 2, "prototypes", self.prototypes, "at least 2")
        require(self.local_crops >= 0, "local_crops", self.local_crops, "0 or more")


def run(config: Config) -> None:
    """Measure row by row; print, write and draw."""
    import datetime
    import os
    import time

    import jax

    from cvjax.experiment import benchmarking
    from cvjax.experiment.config import as_json
    from cvjax.experiment.machine import machine
    from cvjax.visualize.throughput import plot_throughput

    cores = config.cores
    if cores is not None and not hasattr(os, "sched_setaffinity"):
        raise ConfigError(f"--cores {cores}: this system does not let processes choose their cores")
    if cores is not None and cores > len(os.sched_getaffinity(0)):
        raise ConfigError(f"--cores {cores}: it must be at most {len(os.sched_getaffinity(0))}, which this process has")
    installed = benchmarking.torch_is_installed()
    if config.torch == "only" and not installed:
        raise ConfigError("--torch only: torch is not installed")
    if config.output.exists() and not config.output.is_dir():
        raise ConfigError(f"--output {config.output} is a file; it must be a folder or not exist")

    jax.config.update("jax_platforms", "cpu")  # this process only counts: the accelerator is the workers'
    modes = {"train": (True,), "inference": (False,), "both": (True, False)}[config.mode]
    works = [benchmarking.describe(model, training=training, batch_size=config.batch_size,
                                   image_size=config.image_size, dtype=config.dtype, prototypes=config.prototypes,
                                   local_crops=config.local_crops, local_size=config.local_size)
             for model in dict.fromkeys(config.models) for training in modes]
    counted = [benchmarking.count(work) for work in works]
    if config.torch == "auto" and not installed:
        print("torch is not installed: cvjax alone")
    variants = config.torch_variants if installed and config.torch != "no" else ()

    config.output.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    report = {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "clock": "wall",
              "machine": machine(cores), "config": as_json(config), "rows": [],
              "load_before": benchmarking.load(), "load_after": None}
    for number, work in enumerate(works, start=1):
        print(f"[{number}/{len(works)}] {work.label} ...", flush=True)
        row = benchmarking.measure(work, counted[number - 1], variants=variants, ours=config.torch != "only",
                                   turns=config.steps, chain=config.chain, cores=cores, timeout=config.timeout,
                                   together=config.together)
        report["rows"].append(row)
        report["clock"] = benchmarking.clock_of(cores, row["device"] or "cpu")
        report["load_after"] = benchmarking.load()
        elapsed = time.perf_counter() - begin
        left = elapsed / number * (len(works) - number)
        print(benchmarking.text_table(row, report["clock"]))
        print(f"  {elapsed:.0f} s so far{f', about {left:.0f} s left' if number < len(works) else ''}", flush=True)
        (config.output / "benchmark.json").write_text(benchmarking.as_text(report))
        (config.output / "benchmark.md").write_text(benchmarking.markdown(report))
    clock = "processor's time" if report["clock"] == "cpu" else "wall clock"
    plot_throughput(config.output / "benchmark.png",
                    [benchmarking.panel(row, report["clock"]) for row in report["rows"]], clock=clock)
    print(f"written to {config.output}/benchmark.json, .md and .png")
    if not any(benchmarking.succeeded(row) for row in report["rows"]):
        raise ConfigError("nothing could be measured: the table above says why")


if __name__ == "__main__":
    command(run, "benchmark", Config, __doc__)
