"""A run that was killed, at any moment, ends exactly as one that was not: real processes and real signals."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cvjax.train.log import TIMING
from tests.data.pictures import encode
from tests.faults import saving, steps_saved

ROOT = Path(__file__).parents[2]
STEPS = 60
SIZES = ("--image-size", 16, "--model", "mae_vit_tiny_patch16", "--patch-size", 4, "--width", 16, "--depth", 1,
         "--heads", 2, "--decoder-width", 16, "--decoder-depth", 1, "--decoder-heads", 2)
# Windows of 8 and checkpoints of 7 steps: checkpoints fall into half-filled windows.
SCHEDULE = ("--batch-size", 16, "--steps", STEPS, "--log-every", 8, "--eval-every", 25, "--checkpoint-every", 7,
            "--ema-decay", 0.9)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """72 pictures of many sizes in two classes; an epoch is no whole number of batches."""
    folder, numbers = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for i in range(36):
            height, width = numbers.integers(16, 32, 2)
            pixels = numbers.integers(0, 256, (height, width, 3), np.uint8)
            (folder / name / f"{i:02}.png").write_bytes(encode(pixels))
    return folder


@pytest.fixture(scope="module")
def start(pictures, environment):
    """Start the command as a process that leads a group of its own, so that its workers can be found."""
    def run(folder: Path, *options) -> subprocess.Popen:
        arguments = ("--data", f"folder:{pictures}", "--workers", 1, *SIZES, *SCHEDULE, "--run-dir", folder, *options)
        folder.parent.mkdir(parents=True, exist_ok=True)
        output = (folder.parent / "output.txt").open("a")
        return subprocess.Popen([sys.executable, "-m", "experiments.mae_pretrain", *map(str, arguments)], cwd=ROOT,
                                env=environment(), stdout=output, stderr=output, start_new_session=True)

    return run


def finish(process: subprocess.Popen, status: int = 0) -> None:
    assert process.wait(timeout=1400) == status  # the test has its own limit


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(start(folder))
    return folder


def wait_for(process: subprocess.Popen, condition) -> bool:
    """Whether the condition came true before the process ended."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.001)
    return False


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the run and its workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_by_themselves(group: int, seconds: float = 15.0) -> bool:
    """Whether the processes of a group are gone within this time; it kills what is left."""
    for _ in range(int(seconds / 0.1)):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    return False


def assert_same_end(folder: Path, other: Path) -> None:
    ends = []
    for path in (folder, other):
        summary = json.loads((path / "summary.json").read_text())
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        lines = [json.dumps({key: value for key, value in line.items() if key not in TIMING}) for line in lines]
        ends.append((summary["params_sha256"], summary["metrics"], summary["steps"], lines, steps_saved(path)))
    assert ends[0] == ends[1]
    assert (folder / "figures" / "reconstruction.png").read_bytes() == (
        other / "figures" / "reconstruction.png").read_bytes()


@pytest.mark.slow
def test_killed_during_a_save_then_terminated_then_finished(start, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = start(folder)
    assert wait_for(process, lambda: steps_saved(folder) >= 7 and saving(folder))
    process.kill()  # only the run, as when memory is short: nothing is left to tell its workers
    process.wait()
    workers_ended = end_by_themselves(process.pid)
    assert 7 <= steps_saved(folder) < STEPS

    process = start(folder)
    before = steps_saved(folder)
    assert wait_for(process, lambda: steps_saved(folder) > before)
    process.send_signal(signal.SIGTERM)
    finish(process, 143)
    text = (tmp_path / "output.txt").read_text()
    assert "SIGTERM received: saving after this step" in text and "the same command resumes" in text
    stopped = steps_saved(folder)
    assert f"saved at step {stopped} of {STEPS}" in text and before < stopped < STEPS
    assert not (folder / "summary.json").exists() and not saving(folder)

    finish(start(folder, "--workers", 0, "--checkpoint-every", 50))  # what may change when a run is resumed
    assert f"resuming {folder} at step {stopped} of {STEPS}" in (tmp_path / "output.txt").read_text()
    assert_same_end(folder, uninterrupted)
    assert workers_ended, "workers outlive a killed run"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_many_times_at_random_moments(start, uninterrupted, tmp_path, seed):
    """Each life gets some steps further, to a random moment: in training, in a save, in an evaluation."""
    folder, chance, kills = tmp_path / "run", random.Random(seed), 0
    for life in range(6):
        process, goal = start(folder), min(steps_saved(folder) + chance.choice([0, 7]), STEPS)
        reached = (lambda: saving(folder)) if life % 2 else (lambda: steps_saved(folder) >= goal)  # noqa: B023
        running = wait_for(process, reached)
        moment = time.monotonic() + chance.uniform(0, 0.1 if life % 3 else 3)
        # On a quick machine the run would be over before a later moment, with nothing left for the next lives.
        if running and wait_for(process, lambda: time.monotonic() >= moment or steps_saved(folder) > goal):  # noqa: B023
            kill(process)
            kills += 1
    finish(start(folder))
    assert kills >= 4
    assert_same_end(folder, uninterrupted)


@pytest.mark.slow
def test_killed_before_its_first_checkpoint_and_while_it_probes(start, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = start(folder)
    assert wait_for(process, (folder / "config.json").exists)
    kill(process)
    process = start(folder)
    assert wait_for(process, lambda: steps_saved(folder) == STEPS)
    kill(process)
    assert not (folder / "summary.json").exists()
    finish(start(folder))
    assert_same_end(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_saves_too(start, uninterrupted, tmp_path, number):
    """Ctrl-C in a terminal, and Slurm, signal the workers as well as the run."""
    folder = tmp_path / "run"
    process = start(folder)
    assert wait_for(process, lambda: steps_saved(folder) >= 7)
    os.killpg(process.pid, number)
    finish(process, 128 + number)
    assert f"saved at step {steps_saved(folder)} of {STEPS}" in (tmp_path / "output.txt").read_text()
    finish(start(folder))
    assert_same_end(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("number, words", [
    (signal.SIGKILL, "was killed; perhaps memory was short: fewer --workers take less"),
    (signal.SIGSTOP, "gave no sign of life for 20 seconds (was it stopped?) and was ended")])
def test_a_lost_worker_ends_the_run_with_its_last_step_saved(start, uninterrupted, tmp_path, monkeypatch, number,
                                                             words):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = tmp_path / "run"
    process = start(folder, "--checkpoint-every", 50)
    assert wait_for(process, lambda: (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").read_text())
    (begun,) = tmp_path.glob("cvjax-workers-*/0.process")
    worker = int(begun.read_text())
    os.kill(worker, number)
    assert process.wait(timeout=60) == 2
    text = (tmp_path / "output.txt").read_text()
    assert f"error: worker 0 of the data (process {worker}) {words}" in text
    assert "Traceback" not in text and "leaked" not in text
    saved = steps_saved(folder)
    assert 8 <= saved < STEPS and saved % 50, "a step that no schedule saves"
    finish(start(folder))
    assert_same_end(folder, uninterrupted)
