"""A campaign of faults: `python -m tests.faults --runs 50`.

Five experiments are interrupted at chosen and random moments: by SIGKILL, SIGTERM, SIGINT once and twice, SIGTERM five
times, and power cuts; and they are refused their folder, by a full disk and by one that must only be read. Every run is
started again with the same command. It must end with the parameters, the metrics and the lines of its log that the
undisturbed run has. No interruption may print a traceback, or end with the exit status of a run that is done.
"""

import argparse
import contextlib
import dataclasses
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.power_cut import Unavailable, cuts, end_of

ROOT = Path(__file__).parents[1]
STEPS = 40
# Windows of 8 and checkpoints of 7 steps: checkpoints fall into half-filled windows.
SCHEDULE = ("--batch-size", 8, "--steps", STEPS, "--log-every", 8, "--eval-every", 15, "--checkpoint-every", 7)
SCENES = ("--data", "scenes:24,8,48", "--model-fields", "backbone=resnet18",
          "backbone_fields={'width':8,'depths':(1,1,1)}")
EXPERIMENTS: dict[str, tuple[Any, ...]] = {
    "mae_pretrain": ("--model", "mae_vit_tiny_patch16", "--patch-size", 4, "--width", 16, "--depth", 1, "--heads", 2,
                     "--decoder-width", 16, "--decoder-depth", 1, "--decoder-heads", 2),
    "supervised": ("--model-fields", "width=8", "depths=(1,)", "--ema-decay", 0.9),
    "dino_pretrain": ("--model-fields", "width=8", "depths=(1,)", "--out-dim", 32, "--head-hidden", 16,
                      "--head-bottleneck", 8),
    "segment": (*SCENES, "maps=1"),
    "detect": (*SCENES, "maps=1", "head_width=8", "head_depth=1", "--canvas", 48, 48),
}
SIGNALS = {
    "SIGKILL": [signal.SIGKILL],
    "SIGTERM": [signal.SIGTERM],
    "SIGINT": [signal.SIGINT],
    "SIGINT twice": [signal.SIGINT] * 2,
    "SIGTERM five times": [signal.SIGTERM] * 5,
}
REFUSALS = ("a full disk", "a disk that must only be read")
PATIENCE = 600.0  # seconds that a run may take


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One interruption, and what was wrong afterwards; None if nothing was."""

    experiment: str
    fault: str
    result: str
    problem: str | None


def steps_saved(run: Path) -> int:
    """The newest step of a whole checkpoint, 0 without one."""
    return max((int(p.name) for p in (run / "checkpoints").glob("*") if p.name.isdecimal()), default=0)


def saving(run: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any((run / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "its start": lambda run: (run / "config.json").exists(),
    "its first save": saving,
    "an evaluation": lambda run: steps_saved(run) >= 14,  # the next step is evaluated
    "a removal": lambda run: any((run / "checkpoints").glob("*.removed")) or steps_saved(run) >= 28,
    "its end": lambda run: steps_saved(run) == STEPS,
}


class Campaign:
    """Runs of the five experiments in a folder, and their undisturbed twins.

    environment: variables for the runs' processes.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self._twins: dict[str, tuple[Any, float]] = {}
        self._count = itertools.count()

    def twin(self, experiment: str) -> tuple[Any, float]:
        """How the undisturbed run ended, and its seconds."""
        if experiment not in self._twins:
            run, started = self.folder / "undisturbed" / experiment, time.monotonic()
            process, output = self.start(experiment, run)
            if process.wait(PATIENCE):
                raise RuntimeError(output.read_text()[-3000:])
            self._twins[experiment] = end_of(run), time.monotonic() - started
        return self._twins[experiment]

    def start(self, experiment: str, run: Path) -> tuple[subprocess.Popen, Path]:
        """The process of a run, and the file with what it prints, which is not on the run's disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        output = self.folder / f"{next(self._count)}.txt"
        arguments = map(str, (*EXPERIMENTS[experiment], *SCHEDULE, "--run-dir", run))
        with output.open("w") as file:
            return subprocess.Popen([sys.executable, "-m", f"experiments.{experiment}", *arguments], cwd=ROOT,
                                    env=self.environment, stdout=file, stderr=file), output

    def interrupt(self, experiment: str, sent: str, moment: str, chance: random.Random) -> Outcome:
        """Send signals to a run at a moment, or at a random one, and start it again."""
        expected, seconds = self.twin(experiment)
        run = self.folder / f"{next(self._count)}" / "run"
        process, output = self.start(experiment, run)
        until = time.monotonic() + (chance.uniform(0, seconds) if moment == "any moment" else PATIENCE)
        while process.poll() is None and time.monotonic() < until:
            if moment != "any moment" and MOMENTS[moment](run):
                break
            time.sleep(0.001)
        for number in SIGNALS[sent]:
            process.send_signal(number)
            time.sleep(0.02)
        status, finished, saved = process.wait(PATIENCE), (run / "summary.json").exists(), steps_saved(run)
        result, problem = f"exit status {status}, {saved} steps saved", None
        allowed = {-number for number in SIGNALS[sent]} if sent == "SIGKILL" else {128 + n for n in SIGNALS[sent]}
        if status not in (allowed if not finished else {*allowed, 0}):
            problem = f"exit status {status}"
        return Outcome(experiment, f"{sent} at {moment}", result,
                       problem or _traceback(output) or self._resumes(experiment, run, expected))

    def refuse(self, experiment: str, fault: str, chance: random.Random) -> Outcome:
        """Start a run in a folder that is refused, or becomes so, and once more when it is not refused any more."""
        expected, _ = self.twin(experiment)
        place = self.folder / f"{next(self._count)}"
        with mounted(place):
            run = place / "run"
            if fault == "a disk that must only be read":
                _mount("remount,ro", place)
            filled = place / "filler"
            if fault == "a full disk":
                _fill(filled, leave=chance.choice((0, 2_000, 200_000)))
            process, output = self.start(experiment, run)
            status = process.wait(PATIENCE)
            text = output.read_text()
            problem = None if status == 2 and text.count("error: ") == 1 else f"exit status {status}\n{text[-2000:]}"
            problem = problem or _traceback(output)
            if fault == "a disk that must only be read":
                _mount("remount,rw", place)
            filled.unlink(missing_ok=True)
            problem = problem or self._resumes(experiment, run, expected)
        return Outcome(experiment, fault, f"exit status {status}", problem)

    def _resumes(self, experiment: str, run: Path, expected: Any) -> str | None:
        process, output = self.start(experiment, run)
        if status := process.wait(PATIENCE):
            return f"started again: exit status {status}\n{output.read_text()[-2000:]}"
        return None if end_of(run) == expected else f"it ended otherwise: {end_of(run)}\nnot as {expected}"

    def power_cuts(self, experiment: str, count: int, seed: int) -> Iterator[Outcome]:
        """`tests.power_cut.cuts` of an experiment."""
        command = (experiment, *map(str, (*EXPERIMENTS[experiment], *SCHEDULE)))
        folder = self.folder / f"{next(self._count)}"
        for cut in cuts(command, count, seed, folder, self.environment):
            yield Outcome(experiment, f"power cut at {cut.moment} ({cut.mood})",
                          f"{cut.saved or 0} steps saved, resumed at {cut.resumed or 0}", cut.problem)


def _traceback(output: Path) -> str | None:
    text = output.read_text()
    return text[-3000:] if "Traceback" in text else None


@contextlib.contextmanager
def mounted(place: Path) -> Iterator[None]:
    """A disk of its own at `place`, of 40 MB. Raises Unavailable without the right to mount one."""
    place.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"full and read-only disks need the right to mount one: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _mount(options: str, place: Path) -> None:
    subprocess.run(["mount", "-o", options, place], check=True)


def _fill(path: Path, leave: int) -> None:
    """Fill a disk up to some bytes."""
    space = os.statvfs(path.parent)
    size = max(space.f_bavail * space.f_frsize - leave, 0)
    with path.open("wb") as file:
        file.write(bytes(size))


def faults(runs: int) -> tuple[int, int, int]:
    """How many interruptions by signals, power cuts and refusals belong to a campaign of `runs`: 50, 30 and 10."""
    return runs, max(3, runs * 3 // 5), max(2, runs // 5)


def campaign(runs: int, seed: int, folder: Path, environment: dict[str, str]) -> Iterator[Outcome]:
    """The outcomes of `faults(runs)`: interruptions by signals of each experiment in turn, power cuts, and refusals.

    Raises Unavailable, after the rest, for what cannot be done on this machine.
    """
    work, chance = Campaign(folder, environment), random.Random(seed)
    names, kinds, places = list(EXPERIMENTS), list(SIGNALS), [*MOMENTS, "any moment"]
    missing = []
    for number in range(runs):
        # Shifted by one in each round, so that all pairs come in turn.
        turn = number // len(names)
        yield work.interrupt(names[number % len(names)], kinds[(number + turn) % len(kinds)],
                             places[(number + 2 * turn) % len(places)], chance)
    _, cut, refused = faults(runs)
    try:
        yield from work.power_cuts(names[seed % len(names)], cut, seed)
    except Unavailable as reason:
        missing.append(str(reason))
    try:
        for number in range(refused):
            yield work.refuse(names[number % len(names)], REFUSALS[number % len(REFUSALS)], chance)
    except Unavailable as reason:
        missing.append(str(reason))
    if missing:
        raise Unavailable("; ".join(missing))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="interruptions by signals (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    total = sum(faults(options.runs))
    failed, done, started = 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cvjax-faults-") as folder:
        try:
            for outcome in campaign(options.runs, options.seed, Path(folder), dict(os.environ)):
                done += 1
                failed += outcome.problem is not None
                left = (time.monotonic() - started) / done * (total - done) / 60
                print(f"{done}/{total}, {left:.0f} min left: {outcome.experiment}, {outcome.fault}: {outcome.result}: "
                      f"{outcome.problem or 'equal'}", flush=True)
        except Unavailable as missing:
            print(f"not done: {missing}")
    print(f"{done - failed} of {done} ended as the undisturbed run, in {(time.monotonic() - started) / 60:.0f} minutes")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
