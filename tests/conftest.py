"""Fixtures that run experiments: in this process for messages, in others for signals, devices and start-up times."""

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CACHES = ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")  # say where else than under HOME things are kept


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of an expected error; fails for anything else."""
        assert self.status == 2, f"exit status {self.status}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and self.err.endswith(lines[0] + "\n"), f"not one last line:\n{self.err}"
        return lines[0]


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """A home for experiments' compilation caches, shared by the workers of one test run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "home"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def environment(home):
    """`environment(devices=1)`: variables for a process of its own on that many virtual CPU devices."""
    def make(devices: int = 1) -> dict[str, str]:
        flags = f"--xla_force_host_platform_device_count={devices}"
        if devices > 1:
            flags += " --xla_backend_optimization_level=0"  # compiles in half the time
        # NPROC: XLA's threads. A virtual device that waits for others holds one for each array it waits for, and where
        # there are no more the devices wait for ever.
        others = {name: value for name, value in os.environ.items() if name not in CACHES}
        return others | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "HOME": str(home), "PYTHONPATH": str(ROOT),
                             "NPROC": "64"}

    return make


@pytest.fixture(scope="session")
def python(environment):
    """`python(code, devices=1)`: run code in a process of its own; the JSON value of the last line it prints."""
    def run(code: str, *, devices: int = 1):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(devices), capture_output=True,
                              text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def process(environment):
    """`process("knn", "--seed", 1)`: an experiment in a process of its own, to its end."""
    def run(experiment: str, *arguments, devices: int = 1, timeout: float = 280) -> Outcome:
        done = subprocess.run([sys.executable, "-m", f"experiments.{experiment}", *map(str, arguments)], cwd=ROOT,
                              env=environment(devices), capture_output=True, text=True, timeout=timeout)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def command(home, monkeypatch, capsys):
    """`command("knn", "--seed", 1)`: the same in this process, which saves the start."""
    import jax

    monkeypatch.setenv("HOME", str(home))
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    cache = jax.config.jax_compilation_cache_dir

    def run(experiment: str, *arguments) -> Outcome:
        from cvjax.experiment.config import command as start
        from cvjax.experiment.config import main

        module = importlib.import_module(f"experiments.{experiment}")
        config = module.Config
        monkeypatch.setattr(sys, "argv", [experiment, *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            if hasattr(module, "PRESETS"):
                main(module.run, experiment, config, module.PRESETS, module.__doc__)
            else:
                start(module.run, experiment, config, module.__doc__)
        except SystemExit as stop:
            status = stop.code or 0
        return Outcome(status, *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    jax.config.update("jax_compilation_cache_dir", cache)
