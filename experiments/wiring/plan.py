"""The work of `python -m experiments.plan`; its options are in experiments/plan.py."""

import dataclasses
import importlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cvjax.errors import ConfigError
from cvjax.workflow.absent_devices import Target, absent_devices, as_on, missing_compiler, target_of
from cvjax.workflow.accelerators import DEVICES
from cvjax.workflow.command import parse
from cvjax.workflow.config import config_errors
from cvjax.workflow.devices import make_layout
from cvjax.workflow.fitting import SHARE, fitting, memory_here
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.lowering import compiled_peak, lower_step
from cvjax.workflow.plan import make_plan, plan_table
from cvjax.workflow.prepared import Prepared
from experiments.plan import Config


class Room(NamedTuple):
    """Devices: how many, the bytes of memory that a training may take on each, and their platform."""

    devices: int
    memory: int
    platform: str | None


BLANK: Mapping[str, str] = dict.fromkeys(("segment", "detect"), "scenes:256,1,32")  # replaces a preset's data set
IMAGENET = "blank:1281167,256,1000"
CIFAR10 = "blank:50000,32,10"


def prepare(experiment: str, arguments: Sequence[str], room: Room | None = None) -> Prepared[Any]:
    """The `Prepared` of a training command.

    room: of the devices that it is for, which `--fit` asks for; by default they are those at hand.
    """
    options = f"experiments.{experiment}"
    module = importlib.import_module(options)
    config, name = parse(options, module.Config, module.PRESETS, module.__doc__ or "", arguments)
    given = {argument.split("=")[0] for argument in arguments}
    if config.data.partition(":")[0] in ("tfds", "folder", "voc", "coco") and "--data" not in given:
        small = "cifar10" in config.data
        if small and getattr(config, "image_size", 0) is None:  # that of the pictures, which blank ones do not tell
            config = dataclasses.replace(config, image_size=32)
        blank = CIFAR10 if small else BLANK.get(experiment, IMAGENET)
        config = dataclasses.replace(config, data=blank, data_cache=False)
    # A plan does not depend on the contents of the run's folder, and it describes jit even for pmap.
    with tempfile.TemporaryDirectory() as nowhere:
        config = dataclasses.replace(config, dry_run=True, parallel="jit", run_dir=str(Path(nowhere) / name))
        work = importlib.import_module(f"experiments.wiring.{experiment}")
        folder = RunFolder(config, experiment, name)
        if getattr(config, "fit", False):  # not of a probe
            room = room or Room(jax.device_count(), memory_here(), None)
            config = fitting(work.prepare, config, folder, **room._asdict())
        return work.prepare(config, folder)


def run(config: Config, training: Sequence[str]) -> None:
    """Print the plan."""
    platform = "tpu" if config.device.startswith("tpu_") else "cuda"
    target = target_of(config.device, config.devices)
    missing = missing_compiler(target) if target else "none for so many of these devices"
    if config.compile and missing:
        raise ConfigError(f"--compile: the compiler for {config.devices} {config.device} is not installed: {missing}")
    with as_on(target or Target(config.device, config.devices, platform)):
        rates = DEVICES[config.device]
        prepared = prepare(training[0], training[1:], Room(config.devices, int(SHARE * rates.memory), platform))
        with config_errors():
            layout = make_layout(prepared.config, config.devices)
            plan = make_plan(prepared, layout, rates, config.efficiency, platform)
            peak = None
            if target and not missing and config.compile is not False:
                print(f"compiling for {config.device}; --no-compile reckons the memory instead ...", flush=True)
                try:
                    peak = compiled_peak(prepared, layout, absent_devices(target))
                except ConfigError as problem:
                    if config.compile:
                        raise
                    print(f"the memory is reckoned: {problem}")
    print(plan_table(plan, config.device, config.efficiency, prepared.config.batch_size, peak))
    if config.lower:
        exported = lower_step(prepared, config.lower)
        print(f"lowered for {', '.join(config.lower)}: {len(exported.mlir_module_serialized):,} bytes of StableHLO")
