"""Into how many parts a batch must be split so that a training fits the devices' memory (`--fit`)."""

import contextlib
import dataclasses
import io
import os
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from cvjax.errors import ConfigError
from cvjax.train.layout import parse_mesh
from cvjax.workflow.config import TrainingConfig, config_errors
from cvjax.workflow.devices import make_layout
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.memory import measure_memory, size_text
from cvjax.workflow.prepared import Prepared

SHARE = 0.85  # of a device's memory that a training may be reckoned to need: the reckoning is mostly within 10 %
HOST_SHARE = 0.5  # of a machine's memory where it computes itself: data and other programs are there, too

Config = TypeVar("Config", bound=TrainingConfig)
Prepare = Callable[[Config, RunFolder], Prepared[Any]]


def memory_here() -> int:
    """Bytes of memory of the first device at hand."""
    found = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if found:
        return int(SHARE * found)
    return int(HOST_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / jax.local_device_count())


def fitting(prepare: Prepare[Config], config: Config, folder: RunFolder, *, devices: int, memory: int,
            platform: str | None = None) -> Config:
    """The configuration with the smallest `--accumulate` that fits, which is said.

    Args:
        prepare: the experiment's own.
        config: as given; more micro-batches than its own are tried.
        folder: of the run; nothing is written into it.
        devices: how many there are.
        memory: bytes of each that the training may take.
        platform: theirs; by default that of the devices at hand.

    Raises:
        ConfigError: not even one image at a time on each device fits.
    """
    choices = _choices(config, devices)
    needed: dict[int, int] = {}

    def fits(accumulate: int) -> bool:
        if accumulate not in needed:
            needed[accumulate] = _needed(prepare, dataclasses.replace(config, accumulate=accumulate), folder, devices,
                                         platform)
        return needed[accumulate] <= memory

    if not fits(choices[-1]):
        raise ConfigError(f"--fit: {config.batch_size // choices[-1]} images at a time take "
                          f"{size_text(needed[choices[-1]])} of {size_text(memory)} on each device: try --shard fsdp, "
                          "--remat full, --dtype bfloat16 or a smaller model")
    chosen = choices[0] if fits(choices[0]) else choices[bisect_left(choices, True, key=fits)]
    print(f"--fit: --accumulate {chosen}, {config.batch_size // chosen} of {config.batch_size} images at a time, take "
          f"{size_text(needed[chosen])} of {size_text(memory)} on each device, as reckoned")
    return dataclasses.replace(config, accumulate=chosen)


def _choices(config: TrainingConfig, devices: int) -> list[int]:
    """The numbers of micro-batches that the configuration allows, from its own on."""
    with config_errors():
        rows = config.batch_size // (devices // (parse_mesh(config.mesh, devices) if config.mesh else 1))
    found = [config.accumulate]
    for parts in range(config.accumulate + 1, rows + 1):
        if rows % parts == 0:
            with contextlib.suppress(ConfigError):  # such as norms of groups that are larger
                found.append(dataclasses.replace(config, accumulate=parts).accumulate)
    return found


def _needed(prepare: Prepare[Config], config: Config, folder: RunFolder, devices: int, platform: str | None) -> int:
    """Bytes on each device."""
    dry = dataclasses.replace(config, dry_run=True, parallel="jit")  # what pmap compiles takes as much
    with contextlib.redirect_stdout(io.StringIO()), config_errors():  # all of it is said again for the training itself
        prepared = prepare(dry, RunFolder(dry, folder.experiment, folder.name))
        return measure_memory(prepared, make_layout(prepared.config, devices), platform).total
