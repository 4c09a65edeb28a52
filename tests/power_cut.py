"""Power cuts: one run is recorded, what a cut at any moment leaves of its folder is rebuilt, and the run is resumed.

`power_cut.c`, loaded into the run's process, records every change of a file below one folder. From the recording
follows what may be on the disk after a cut between any two records. The model knows no file system's kindness, only
what POSIX promises:

- The bytes of a file are there up to its last `fsync`. Of what was written later, each file has nothing, or its length
  in zeros, or a part of the writes in their order, the last one cut.
- The names in a folder are those at its last `fsync`. Of the changes made later, a number from the first one on has
  taken place; in another folder another number has. A change of name within a folder takes place or does not.

Four moods choose among what is possible: "least" (only what was synced), "names" (all changes of names and no bytes, as
a journal of metadata leaves it), "most" (everything, as after SIGKILL) and "mixed" (each file and folder by itself). It
is not modelled that a disk lies about `fsync`, writes half a sector or returns other bytes than it was given.

`cuts` resumes the run from many such states with its own command and compares it with the undisturbed one.
"""

import ctypes
import dataclasses
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cvjax.train.log import TIMING
from cvjax.workflow.lock import is_lock

ROOT = Path(__file__).parents[1]
MOODS = ("least", "names", "mixed", "most")


class Unavailable(Exception):
    """There is no C compiler to build the recorder with."""


# The recording.


@dataclasses.dataclass(frozen=True)
class Record:
    """One change; `power_cut.c` lists the kinds and their fields."""

    kind: str
    fields: tuple[str, ...]
    data: bytes


def read_recording(path: Path) -> list[Record]:
    """The records in the order in which they happened."""
    content, at, found = path.read_bytes(), 0, []
    while at < len(content):
        end = content.index(b"\n", at)
        kind, length, *fields = content[at:end].decode().split("\t")
        at = end + 1 + int(length)
        found.append(Record(kind, tuple(fields), content[end + 1:at]))
        if kind == "lost":
            raise ValueError(f"a call of {fields[0]} was not recorded")
    return found


def recorder(folder: Path) -> Path:
    """The library of `power_cut.c`, built into a folder."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("the recorder of power cuts needs a C compiler (cc, gcc or clang)")
    library = folder / "power_cut.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, Path(__file__).with_suffix(".c"), "-ldl",
                    "-lpthread"], check=True)
    return library


def record(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[list[Record], "Disk"]:
    """Run a command that writes below `folder`/disk, which is made, and read what it did there.

    Raises Unavailable where nothing can be recorded, and ValueError if the recording is not complete.
    """
    disk, recorded = folder / "disk", folder / "recording"
    disk.mkdir(parents=True)
    preload = {"LD_PRELOAD": str(recorder(folder)), "POWER_CUT_ROOT": str(disk), "POWER_CUT_LOG": str(recorded)}
    done = subprocess.run(command, cwd=ROOT, env={**environment, **preload}, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-4000:]
    records = read_recording(recorded)
    history = Disk(records, Path(os.path.realpath(disk)))
    check_complete(history, disk)
    return records, history


# What a cut leaves.


class File:
    """The writes of a file, `(index, offset, bytes)`, or `(index, length, None)` where it is cut; and its syncs."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, int, bytes | None]] = []
        self.syncs: list[int] = []


class Folder:
    """The changes of a folder's names, `(index, {name: what it names, None for nothing})`, and its syncs."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, dict[str, File | Folder | None]]] = []
        self.syncs: list[int] = []
        self.now: dict[str, File | Folder] = {}

    def change(self, index: int, names: Mapping[str, "File | Folder | None"]) -> None:
        """Change some names."""
        self.changes.append((index, dict(names)))
        self.now = _changed(self.now, names)


def _changed(names: Mapping[str, "File | Folder"], change: Mapping[str, "File | Folder | None"]
             ) -> dict[str, "File | Folder"]:
    return {name: node for name, node in ({**names, **change}).items() if node is not None}


class Disk:
    """The history of a folder that was empty, and on the disk, when the recording began."""

    def __init__(self, records: Sequence[Record], root: Path) -> None:
        self.root, self.top, self.end = root, Folder(), len(records)
        opened: dict[str, File | Folder] = {}
        for index, record in enumerate(records):
            fields = record.fields
            if record.kind == "open":
                number, flags, path = fields
                opened[number] = self._opened(index, int(flags), path)
            elif record.kind == "write":
                self._file(opened[fields[0]]).changes.append((index, int(fields[1]), record.data))
            elif record.kind == "cut":
                self._file(opened[fields[0]]).changes.append((index, int(fields[1]), None))
            elif record.kind == "sync":
                opened[fields[0]].syncs.append(index)
            elif record.kind == "mkdir":
                parent, name = self._place(fields[0])
                parent.change(index, {name: Folder()})
            elif record.kind in ("rmdir", "unlink"):
                parent, name = self._place(fields[0])
                parent.change(index, {name: None})
            elif record.kind in ("rename", "link"):
                (before, old), (after, new) = self._place(fields[0]), self._place(fields[1])
                if before is not after:
                    raise ValueError(f"{record.kind} from {fields[0]} to another folder is not modelled")
                before.change(index, {new: before.now[old]} | ({old: None} if record.kind == "rename" else {}))

    def _place(self, path: str) -> tuple[Folder, str]:
        """The folder that a path lies in, and its name there."""
        *parents, name = Path(path).relative_to(self.root).parts
        folder = self.top
        for parent in parents:
            folder = folder.now[parent]
            assert isinstance(folder, Folder)
        return folder, name

    def _opened(self, index: int, flags: int, path: str) -> File | Folder:
        if Path(path) == self.root:
            return self.top
        folder, name = self._place(path)
        if name not in folder.now:
            folder.change(index, {name: File()})
        node = folder.now[name]
        if isinstance(node, File) and flags & os.O_TRUNC:
            node.changes.append((index, 0, None))
        return node

    @staticmethod
    def _file(node: File | Folder) -> File:
        assert isinstance(node, File)
        return node

    def after_cut(self, index: int, mood: str, chance: random.Random) -> dict[str, bytes | None]:
        """What is there after a cut before the record of this index: path -> bytes, None for a folder."""
        found: dict[str, bytes | None] = {}

        def look(folder: Folder, above: str) -> None:
            names: dict[str, File | Folder] = {}
            for _, change in _survivors(folder, index, mood, chance):
                names = _changed(names, change)
            for name, node in sorted(names.items()):
                path = f"{above}{name}"
                if isinstance(node, Folder):
                    found[path] = None
                    look(node, f"{path}/")
                else:
                    found[path] = _bytes_of(node, index, mood, chance)

        look(self.top, "")
        return found


def _synced(node: File | Folder, index: int) -> int:
    """The index of the last sync before a cut, -1 without one."""
    return max((sync for sync in node.syncs if sync < index), default=-1)


def _survivors(node: File | Folder, index: int, mood: str, chance: random.Random) -> list:
    """The changes that a cut leaves, in order."""
    made, synced = [change for change in node.changes if change[0] < index], _synced(node, index)
    safe = sum(change[0] < synced for change in made)
    if mood == "mixed":
        return made[:chance.randint(safe, len(made))]
    keeps_all = mood == "most" or mood == "names" and isinstance(node, Folder)
    return made if keeps_all else made[:safe]


def _bytes_of(file: File, index: int, mood: str, chance: random.Random) -> bytes:
    kept = _survivors(file, index, mood, chance)
    content = _written(kept)
    if mood in ("names", "mixed") and chance.random() < 0.5:  # its length reached the disk, its bytes did not
        whole = _written([change for change in file.changes if change[0] < index])
        content += bytes(max(len(whole) - len(content), 0))
    if mood == "mixed" and kept and kept[-1][0] > _synced(file, index) and kept[-1][2]:
        content = content[:len(content) - chance.randrange(len(kept[-1][2]))]
    return content


def _written(changes: Sequence[tuple[int, int, bytes | None]]) -> bytes:
    content = bytearray()
    for _, where, data in changes:
        if data is None:
            del content[where:]
        content += bytes(max(where - len(content), 0))
        if data is not None:
            content[where:where + len(data)] = data
    return bytes(content)


def lay_out(state: Mapping[str, bytes | None], folder: Path) -> None:
    """Make the folder hold this state and nothing else, as it is found long after the cut: locks in it have expired."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in state.items():
        path = folder / name
        path.mkdir() if content is None else path.write_bytes(content)
        if is_lock(path.name):
            os.utime(path, (0, 0))


# Moments.


def moments(records: Sequence[Record]) -> dict[str, list[int]]:
    """The indices before which a cut falls into what a name says; a run has them all once it has removed something."""
    def where(kind: str, pattern: str) -> list[int]:
        return [index for index, record in enumerate(records)
                if record.kind == kind and any(re.search(pattern, field) for field in record.fields)]

    def next_mark(index: int) -> int:
        return next((i for i in range(index, len(records)) if records[i].kind == "mark"), len(records) - 1)

    configured = where("rename", r"/config\.json$")[0]
    saves = where("mkdir", r"checkpoints/\d+\.orbax-checkpoint-tmp$")
    commits = where("rename", r"checkpoints/\d+$")
    summed = where("rename", r"/summary\.json$")
    removed = where("rename", r"\.removed$")
    return {"first configuration": list(range(configured + 4)),
            "save": [i for save in saves for i in range(save, next_mark(save))],
            "end of a save": [i for commit in commits for i in range(commit - 3, next_mark(commit) + 1)],
            "promise": [i + 1 for i, record in enumerate(records) if record.kind == "mark"],
            "removal": [i for gone in removed for i in range(gone, gone + 40) if i < len(records)],
            "end": list(range(summed[0] - 6, len(records) + 1)) if summed else [],
            "any": list(range(len(records) + 1))}


# Runs.


@dataclasses.dataclass
class Cut:
    """One cut and what became of the run. problem: what the promise was broken by; None if it was kept."""

    index: int
    moment: str
    mood: str
    saved: int | None  # the newest step whose save had finished
    resumed: int | None  # the step that the run went on from
    problem: str | None = None


def end_of(run: Path) -> tuple:
    """All of a finished run that repeats exactly."""
    summary = json.loads((run / "summary.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [json.dumps({key: value for key, value in line.items() if key not in TIMING}) for line in lines]
    return (summary["params_sha256"], summary["metrics"], summary["steps"], lines,
            sorted(path.name for path in (run / "checkpoints").iterdir()))


def cuts(command: Sequence[str], count: int, seed: int, folder: Path, environment: Mapping[str, str] = os.environ
         ) -> Iterator[Cut]:
    """Record one run, cut its power `count` times, resume it each time, and say what became of it.

    command: an experiment and its options, such as ("supervised", "--steps", "30"), without --run-dir; one process
    must write the run's folder. folder: an empty one to work in.
    The moments are those of `moments` in turn, each with another mood whenever it comes again.
    Raises Unavailable where nothing can be recorded.
    """
    experiment, *options = command
    disk = folder / "disk"
    run = disk / "runs" / "run"
    options += ["--run-dir", str(run)]
    records, history = record([sys.executable, "-m", "tests.power_cut", experiment, *options], folder, environment)
    expected, chance, places = end_of(run), random.Random(seed), moments(records)
    for number in range(count):
        turn, place = divmod(number, len(places))
        moment, mood = list(places)[place], MOODS[(turn + place) % len(MOODS)]
        index = chance.choice(places[moment] or places["any"])
        marks = [record.fields[0].split() for record in records[:index] if record.kind == "mark"]
        saved = max((int(step) for what, step in marks if what == "saved"), default=None)
        lay_out(history.after_cut(index, mood, chance), disk)
        again = subprocess.run([sys.executable, "-m", f"experiments.{experiment}", *options], cwd=ROOT, env=environment,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        cut = Cut(index, moment, mood, saved, None)
        if found := re.search(r"^resuming .* at step (\d+) of", again.stdout, re.M):
            cut.resumed = int(found[1])
        complete = "is complete; --overwrite" in again.stdout
        if again.returncode or any(sign in again.stdout for sign in ("Traceback", "is damaged", "missing")):
            cut.problem = f"exit status {again.returncode}\n{again.stdout[-3000:]}"
        elif any(what == "finished" for what, _ in marks) and not complete:
            cut.problem = "a finished run was not complete any more"
        elif saved and not complete and (cut.resumed or 0) < saved:
            cut.problem = f"the save of step {saved} had finished, the run went on from {cut.resumed}"
        elif end_of(run) != expected:
            cut.problem = f"it ended otherwise: {end_of(run)}\nnot as {expected}"
        yield cut


def check_complete(history: Disk, disk: Path) -> None:
    """ValueError unless the recording tells of every byte that the run left."""
    told = history.after_cut(history.end, "most", random.Random(0))
    there = {path.relative_to(disk).as_posix(): None if path.is_dir() else path.read_bytes()
             for path in disk.rglob("*")}
    wrong = sorted(name for name in {*told, *there} if told.get(name, "") != there.get(name, ""))
    if wrong:
        raise ValueError(f"the recording missed changes of {', '.join(wrong)}")


def mark_promises() -> None:
    """From now on this process marks in its recording what is promised to survive: saves that finished, and the end."""
    from cvjax.train.checkpoint import Checkpointer
    from cvjax.workflow.folder import RunFolder

    wait, finish = Checkpointer.wait, RunFolder.finish

    def marked_wait(self: Checkpointer) -> None:
        step = self._pending
        wait(self)
        if step is not None:
            mark(f"saved {step}")

    def marked_finish(self: RunFolder, *arguments: Any, **named: Any) -> None:
        finish(self, *arguments, **named)
        mark("finished 0")

    Checkpointer.wait, RunFolder.finish = marked_wait, marked_finish


def mark(text: str) -> None:
    """Write a mark into the recording of this process, which must be recorded."""
    ctypes.CDLL(None).power_cut_mark(text.encode())


def main() -> None:
    """Run an experiment, named by the first argument, and mark what is promised."""
    from cvjax.workflow.command import main as start

    mark_promises()
    experiment = sys.argv.pop(1)
    start(f"experiments.{experiment}", f"experiments.wiring.{experiment}")


if __name__ == "__main__":
    main()
