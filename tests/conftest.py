"""Fixtures that run experiments: in this process for messages, in others for signals, devices and start-up times."""

import dataclasses
import importlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CACHES = ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")  # may place caches outside HOME

# Most of the suite's time is XLA's, which compiles thousands of small programs that run once. These flags make it three
# times as quick at that; what they compile is slower, and rounds in other places. Trainings of a minute take as long.
QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jax") < "0.12":  # later ones have no such emitters to choose
    QUICK_COMPILATION += " --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config: pytest.Config) -> None:
    """Quick compilation for this process and those that tests start, unless XLA_FLAGS is set.

    torch has one thread: the workers of a test run share the cores, and threads of its kind wait by spinning.
    """
    os.environ.setdefault("XLA_FLAGS", QUICK_COMPILATION)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


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
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        if devices > 1:
            flags += " --xla_backend_optimization_level=0"  # compiles in half the time
        # NPROC: XLA's threads. A virtual device that waits for others holds one for each array it waits for. If there
        # are too few, the devices wait for ever.
        others = {name: value for name, value in os.environ.items() if name not in CACHES}
        return others | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "HOME": str(home), "PYTHONPATH": str(ROOT),
                             "NPROC": "64"}

    return make


@pytest.fixture(scope="session")
def patience(request) -> float:
    """Seconds that another process may take: a little less than the test itself, whose limit `--timeout` raises."""
    return float(request.config.getoption("timeout") or request.config.getini("timeout")) - 20


@pytest.fixture(scope="session")
def python(environment, patience):
    """`python(code, devices=1)`: run code in a process of its own; the JSON value of the last line it prints."""
    def run(code: str, *, devices: int = 1):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(devices), capture_output=True,
                              text=True, timeout=patience)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def process(environment, patience):
    """`process("knn", "--seed", 1)`: an experiment in a process of its own, to its end."""
    def run(experiment: str, *arguments, package: str = "experiments", devices: int = 1,
            timeout: float = patience) -> Outcome:
        done = subprocess.run([sys.executable, "-m", f"{package}.{experiment}", *map(str, arguments)], cwd=ROOT,
                              env=environment(devices), capture_output=True, text=True, timeout=timeout)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def memory():
    """The files at memory:// addresses: none before and after the test."""
    import fsspec

    files = fsspec.filesystem("memory")

    def clear() -> None:
        files.store.clear()
        files.pseudo_dirs[:] = [""]

    clear()
    yield files
    clear()


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The file system of an object store on this machine, with the empty bucket `photos`; s3:// leads there."""
    from tests.data.servers import s3_server

    pytest.importorskip("moto.server", reason="moto[server] is the object store")
    s3fs = pytest.importorskip("s3fs", reason="s3:// is read by s3fs")
    with s3_server(tmp_path) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()  # others know another server
        files = s3fs.S3FileSystem(use_listings_cache=False)
        files.mkdir("photos")
        yield files
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def command(home, monkeypatch, capsys):
    """`command("knn", "--seed", 1)`: the same in this process, which saves the start."""
    import jax

    monkeypatch.setenv("HOME", str(home))
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    cache = jax.config.jax_compilation_cache_dir

    def run(experiment: str, *arguments, package: str = "experiments") -> Outcome:
        from cvjax.workflow.command import command as start
        from cvjax.workflow.command import main

        options, wiring = f"experiments.{experiment}", f"experiments.wiring.{experiment}"
        if package == "benchmarks":  # a benchmark is a folder
            options, wiring = f"benchmarks.{experiment}.config", f"benchmarks.{experiment}.measure"
        monkeypatch.setattr(sys, "argv", [experiment, *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            (main if hasattr(importlib.import_module(options), "PRESETS") else start)(options, wiring)
        except SystemExit as stop:
            status = stop.code or 0
        return Outcome(status, *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    jax.config.update("jax_compilation_cache_dir", cache)
