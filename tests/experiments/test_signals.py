"""Signals to commands: real processes, real signals, no traceback, and a status that stops `train && evaluate`."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cvjax.train.preemption import StopRequest

ROOT = Path(__file__).parents[2]
LONG = ("--steps", 100_000, "--batch-size", 16, "--width", 16, "--depth", 1, "--heads", 2, "--decoder-width", 16,
        "--decoder-depth", 1, "--decoder-heads", 2, "--checkpoint-every", 100_000, "--log-every", 10)


@pytest.fixture
def started(environment):
    """`started("knn", ...)`: a process of an experiment."""
    processes = []

    def start(experiment: str, *arguments) -> subprocess.Popen:
        processes.append(subprocess.Popen(
            [sys.executable, "-u", "-m", f"experiments.{experiment}", *map(str, arguments)], cwd=ROOT,
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


def lines_of(process: subprocess.Popen) -> tuple[int, list[str]]:
    """Its status, and what it said of the stop."""
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors and "Exception ignored" not in errors, errors
    return process.returncode, [line for line in errors.splitlines() if "received" in line or "error" in line.lower()]


@pytest.mark.parametrize("experiment", ["knn", "predict"])  # with a run folder, and without
def test_a_signal_while_importing_is_one_line(started, experiment, tmp_path):
    """From the first line of experiments/__init__.py on; the experiment's own imports take another 2 s."""
    arguments = (*((tmp_path / "none.png",) * (experiment == "predict")), "--checkpoint", tmp_path / "none")
    for moment in (0.0, 0.1, 0.3, 0.7):
        process = started(experiment, *arguments)
        wait_for_handlers(process)
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        status, said = lines_of(process)
        assert status == 130 and len(said) == 1 and said[0].startswith("SIGINT received: stopped"), (moment, said)


def wait_for_handlers(process: subprocess.Popen) -> None:
    """Until it catches SIGTERM, as Python itself does not."""
    while not caught(process.pid) >> (signal.SIGTERM - 1) & 1:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def caught(pid: int) -> int:
    """The signals that a process catches, a bit each, as Linux tells."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("SigCgt")).split()[1], 16)


def wait_for_log(process: subprocess.Popen, folder: Path) -> None:
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").stat().st_size:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_that_was_stopped_is_saved_and_does_not_count_as_done(started, number, status, tmp_path):
    process = started("mae_pretrain", "--run-dir", tmp_path / "run", *LONG)
    wait_for_log(process, tmp_path / "run")
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == status and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("saved at step ")
    assert errors.endswith(" of 100000; the same command resumes\n")


@pytest.mark.slow
def test_five_signals_in_a_row_end_quickly_and_quietly(started, tmp_path):
    process = started("mae_pretrain", "--run-dir", tmp_path / "run", *LONG)
    wait_for_log(process, tmp_path / "run")
    for _ in range(5):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.002)
    start = time.monotonic()
    assert lines_of(process)[0] == 143
    assert time.monotonic() - start < 10


def test_a_run_that_ends_with_the_request_is_complete(command, tmp_path, monkeypatch):
    """The signal comes during the last step: there is nothing left to stop."""
    after = StopRequest.after

    def after_the_last_step(self, step):
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        return after(self, step)

    monkeypatch.setattr(StopRequest, "after", after_the_last_step)
    assert threading.current_thread() is threading.main_thread(), "else no signal would come"
    np.savez(tmp_path / "grey.npz", train_images=np.zeros((40, 8, 8), np.uint8))
    done = command("mae_pretrain", "--data", f"npz:{tmp_path}/grey.npz", "--run-dir", tmp_path / "run", *LONG,
                   "--steps", 2)
    assert done.status == 0, done.err
