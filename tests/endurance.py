"""What a long training takes and keeps: `python -m tests.endurance --steps 20000`.

A small network is trained on pictures in a folder, read by a worker process, with an evaluation and a checkpoint every
200 steps. Once in two seconds it is asked for its memory, open files, threads and processes, and its folder for its
files. Each of these must be as large at the end as soon after the start. Linux only, for /proc.
"""

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.data.pictures import encode

ROOT = Path(__file__).parents[1]
EVERY = 200


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a run takes at one moment; memory in MB, its worker's included. other_files: those of its folder that are
    no checkpoint's."""

    steps: int
    memory: float
    files: int
    threads: int
    processes: int
    checkpoints: int
    other_files: int


def train(folder: Path, steps: int, environment: dict[str, str]) -> list[Sample]:
    """Train to the end; the samples between the first checkpoint and the last."""
    pictures = folder / "pictures"
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (pictures / name).mkdir(parents=True)
        for i in range(40):
            (pictures / name / f"{i:02}.png").write_bytes(encode(rng.integers(0, 256, (20, 24, 3), np.uint8)))
    run = folder / "run"
    command = ("--data", f"folder:{pictures}", "--image-size", 16, "--workers", 1, "--model", "mlp", "--model-fields",
               "hidden=(32,)", "--batch-size", 8, "--steps", steps, "--eval-every", EVERY, "--checkpoint-every", EVERY,
               "--validation", 0.2, "--ema-decay", 0.9, "--run-dir", run)
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "experiments.supervised", *map(str, command)], cwd=ROOT,
                                   env=environment, stdout=output, stderr=output)
        samples = []
        while process.poll() is None:
            found = sample(process.pid, run)
            if found and 0 < found.steps < steps:  # not its start, and not the pictures that it draws at its end
                samples.append(found)
            time.sleep(2 if steps > 10_000 else 0.2)
    if process.returncode:
        raise RuntimeError((folder / "output.txt").read_text()[-2000:])
    return samples


def sample(process: int, run: Path) -> Sample | None:
    """What a process and its children take now; None if one of them has just ended."""
    try:
        family = [process, *(int(child) for listed in Path(f"/proc/{process}/task").glob("*/children")
                             for child in listed.read_text().split())]
        pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in family)
        files = sum(len(os.listdir(f"/proc/{one}/fd")) for one in family)
        threads = sum(len(os.listdir(f"/proc/{one}/task")) for one in family)
        steps = [int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal()]
        listed = sum(len(names) for place, _, names in os.walk(run) if "checkpoints" not in Path(place).parts)
    except (FileNotFoundError, ProcessLookupError):
        return None
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return Sample(max(steps, default=0), memory, files, threads, len(family), len(steps), listed)


def ends(samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """For each kind of thing: its median in the second fifth of the samples, and in the last one."""
    fifth = len(samples) // 5
    early, late = samples[fifth:2 * fifth], samples[-fifth:]
    kinds = [field.name for field in dataclasses.fields(Sample) if field.name != "steps"]
    return {kind: (statistics.median(getattr(one, kind) for one in early),
                   statistics.median(getattr(one, kind) for one in late)) for kind in kinds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    with tempfile.TemporaryDirectory() as folder:
        samples = train(Path(folder), parser.parse_args().steps, dict(os.environ))
    print(f"{len(samples)} samples up to step {samples[-1].steps}")
    for kind, (early, late) in ends(samples).items():
        most = max(getattr(one, kind) for one in samples)
        print(f"{kind:>12}: {early:8.1f} early, {late:8.1f} late, {most:8.1f} at most")


if __name__ == "__main__":
    main()
