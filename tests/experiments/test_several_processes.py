"""Two real processes of four devices each: the numbers of one process, shared checkpoints, ends together."""

import dataclasses
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cvjax.train.log import read_metrics

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMON = ("--steps", "12", "--log-every", "4", "--checkpoint-every", "6", "--batch-size", "64")
TINY = ("--depth", "1", "--width", "32", "--decoder-depth", "1")
COMMANDS = {
    "supervised": ("supervised", "digits", *COMMON, "--mixup", "0.2"),
    "supervised, fsdp": ("supervised", "digits", *COMMON, "--mixup", "0.2", "--shard", "fsdp"),
    "mae_pretrain": ("mae_pretrain", "digits", *COMMON, *TINY),
    "mae_pretrain, model 2": ("mae_pretrain", "digits", *COMMON, *TINY, "--mesh", "data=4,model=2"),
    "dino_pretrain": ("dino_pretrain", "digits", *COMMON, "--out-dim", "64", "--head-hidden", "32"),
}


@dataclasses.dataclass
class Group:
    """Processes of one run."""

    processes: list[subprocess.Popen]
    errors: list[Path]

    def wait(self, seconds: float) -> list[int]:
        until = time.monotonic() + seconds
        try:
            return [process.wait(max(0.1, until - time.monotonic())) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def said(self, index: int) -> str:
        return self.errors[index].read_text()


@pytest.fixture
def start(environment, tmp_path):
    """`start(command, folder, processes=2, devices=4)`: a `Group`."""
    groups = []

    def run(command, folder, *, processes=2, devices=4):
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        group = Group([], [tmp_path / f"stderr_{len(groups)}_{i}" for i in range(processes)])
        for i, path in enumerate(group.errors):
            place = () if processes == 1 else ("--coordinator-address", f"localhost:{port}", "--num-processes",
                                               str(processes), "--process-id", str(i), "--coordinator-timeout", "120")
            with path.open("w") as errors:
                group.processes.append(subprocess.Popen(
                    [sys.executable, "-m", f"experiments.{command[0]}", *command[1:], "--run-dir", str(folder), *place],
                    cwd=ROOT, env=environment(devices), stdout=subprocess.DEVNULL, stderr=errors))
        groups.append(group)
        return group

    yield run
    for group in groups:
        for process in group.processes:
            process.kill()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Where the runs of one process of eight devices are kept; each is compared with several."""
    return tmp_path_factory.mktemp("together")


def losses(folder):
    return np.array([line["train/loss"] for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line])


# Sums over eight devices are taken in another order between processes: 2**-24 a sum, which 12 steps let grow, and
# DINO's temperatures multiply; `tests/train/test_devices.py` has the same bounds.
@pytest.mark.parametrize("name", COMMANDS)
def test_two_processes_of_four_devices_train_as_one_of_eight(name, start, together, tmp_path):
    command = name.split(",")[0]
    assert start(COMMANDS[name], tmp_path / "two").wait(1400) == [0, 0]
    if not (together / command / "summary.json").exists():
        assert start(COMMANDS[command], together / command, processes=1, devices=8).wait(1400) == [0]
    two, one = losses(tmp_path / "two"), losses(together / command)
    assert len(one) == 3 and one.std() > 0
    np.testing.assert_allclose(two, one, rtol=1e-5)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "two", together / command)]
    assert summaries[0]["steps"] == summaries[1]["steps"] == 12
    assert summaries[0]["metrics"].keys() == summaries[1]["metrics"].keys()
    assert len(list((tmp_path / "two").glob("events*"))) == 1, "the first process writes for all"


def test_two_processes_of_one_device_share_each_layer_and_see_the_same_images(start, tmp_path):
    command = COMMANDS["mae_pretrain"]
    assert start((*command, "--mesh", "model=2"), tmp_path / "two", devices=1).wait(1400) == [0, 0]
    assert start(command, tmp_path / "one", processes=1, devices=1).wait(1400) == [0]
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)


def test_sigterm_to_one_process_saves_in_all_and_any_number_of_processes_goes_on(start, tmp_path):
    command = [word if word != "12" else "60" for word in COMMANDS["supervised, fsdp"]]
    group = start(command, tmp_path / "run")
    wait_for_steps(tmp_path / "run", 8, group)
    group.processes[1].send_signal(signal.SIGTERM)
    assert group.wait(240) == [143, 143]
    assert all("the same command resumes" in group.said(i) for i in range(2))
    saved = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdecimal())
    assert saved < 60
    # Eight devices of one process, and then, without --shard, one device.
    finish = start(command, tmp_path / "run", processes=1, devices=8)
    assert finish.wait(1400) == [0]
    assert start([*command[:-2]], tmp_path / "whole", processes=1, devices=1).wait(1400) == [0]
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "whole"), rtol=1e-4)
    steps = [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "train/loss" in line]
    assert steps == list(range(4, 61, 4)), "no line twice, none missing"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_process_ends_the_others_within_a_minute_with_one_last_line(victim, start, tmp_path):
    command = [word if word != "12" else "100000" for word in COMMANDS["supervised"]]
    group = start(command, tmp_path / "run")
    wait_for_steps(tmp_path / "run", 8, group)
    group.processes[victim].kill()
    killed = time.monotonic()
    status = group.wait(240)
    assert time.monotonic() - killed < 60
    assert status[victim] == -signal.SIGKILL and status[1 - victim] == 1
    last = group.said(1 - victim).splitlines()[-1]
    assert last.startswith("error: process ") and "lost" in last and "the same command goes on" in last


def test_an_error_in_one_process_ends_all(start, tmp_path):
    """A folder that only the first process is asked to write to, and may not."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("no run")
    group = start(COMMANDS["supervised"], tmp_path / "run")
    assert group.wait(100) == [2, 1]
    assert "holds files but no run" in group.said(0).splitlines()[-1]
    assert group.said(1).splitlines()[-1].startswith("error: process 0 or another process of this run is lost")


def wait_for_steps(folder, step, group):
    until = time.monotonic() + 240
    while not any(line["step"] >= step for line in read_metrics(folder / "metrics.jsonl")):
        assert all(process.poll() is None for process in group.processes), group.said(0)[-2000:]
        assert time.monotonic() < until, "it does not start"
        time.sleep(0.5)
