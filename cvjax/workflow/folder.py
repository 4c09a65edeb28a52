"""A run's folder: `runs/EXPERIMENT/NAME/` with its configuration, logs, checkpoints, figures and summary."""

import contextlib
import importlib.metadata
import json
import platform
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from cvjax.durable import delete_folder, make_folder, sync, sync_tree, write_whole
from cvjax.errors import ConfigError, CvjaxError
from cvjax.evaluate.shares import in_words
from cvjax.storage import is_address
from cvjax.text import printable
from cvjax.train.log import read_metrics
from cvjax.train.processes import is_first, wait_for_all
from cvjax.visualize.curves import plot_curves
from cvjax.workflow.config import STARTED, TrainingConfig, as_json, require
from cvjax.workflow.far_folder import FarFolder
from cvjax.workflow.lock import FolderLock, is_lock
from cvjax.workflow.next_commands import next_commands
from cvjax.workflow.origin import Origin, changes_of, sources_json
from cvjax.workflow.report.page import REPORT, write_report
from cvjax.workflow.run_files import CONFIG, PIECES, SUMMARY, check_same, read_config, read_summary

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scikit-learn", "pillow",
            "simplejpeg", "opencv-contrib-python-headless")


class RunFolder:
    """The files of one run.

    Opening the folder of an unfinished run of the same configuration resumes that run. If the configuration differs, it
    raises ConfigError and names the fields, unless `config.overwrite` is set. The first process opens it for all.

    It is a context. Within it no other process may write to the folder (`cvjax.workflow.lock`). Nothing is written, and
    nothing of an older run deleted, until `begin`. If the context ends by an error before the run has a checkpoint, a
    line in its log, a piece of a result, a list of bad files or a summary, what was made goes: the folder, and empty
    ones around it.

    A folder at an address (see `cvjax.storage`) has a copy on this machine, in which the run works. It is carried there
    as `cvjax.workflow.far_folder` says, until the end of the context. It has no lock.

    within: the run of which this one is a part, in a folder of that one's; that one's lock guards both.
    started: how the command line started it, see `cvjax.workflow.command.how_started`. With the devices and versions it
    goes into `config.json`, for a person and for the run's page; nothing depends on it.

    Attributes:
        place: where the run is, for messages; a path or an address.
        path: where its files are on this machine.
        origins: what the weights that it judges or starts from were read from.
    """

    def __init__(self, config: Any, experiment: str, name: str, *, within: "RunFolder | None" = None,
                 started: Mapping[str, Any] | None = None) -> None:
        self.experiment, self.name, self._config, self._within = experiment, name, config, within
        self._started: Mapping[str, Any] = started or (within._started if within else {})
        self.place = str(config.run_dir or Path("runs") / experiment / name)
        self._far = FarFolder(self.place) if is_address(self.place) else None
        if self._far and jax.process_count() > 1:
            raise ConfigError(f"--run-dir {self.place}: a run in {jax.process_count()} processes needs a folder that "
                              "all of them see, such as the bucket mounted by gcsfuse or Mountpoint for S3")
        self.path = self._far.path if self._far else Path(self.place)
        self.checkpoints, self.figures = self.path / "checkpoints", self.path / "figures"
        self._begun = self._was_empty = False
        self._overwrites = config.overwrite
        self._made: list[Path] = []  # folders that were not there, the outermost first
        self._lock: FolderLock | None = None
        self._beginnings: list[Callable[[], None]] = []
        self.origins: list[Origin] = []
        self._read_again: list[Origin] = []  # those whose weights no checkpoint holds
        if is_first():
            try:
                self._open()
            except BaseException:
                if self._far:
                    self._far.close()
                raise
        wait_for_all("run folder")

    def __enter__(self) -> "RunFolder":
        if is_first() and not self._config.dry_run and self.summary is None:
            try:
                self._take()
            except BaseException:
                self._give_back()
                raise
        wait_for_all("run folder locked")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        failed = kind is not None and is_first() and not self._config.dry_run
        forget = failed and self._begun and self._was_empty and not self._is_recorded()
        try:
            if self._far and not self._config.dry_run:
                # An error may name a file of the copy.
                self._far.close(keep=isinstance(error, CvjaxError), forget=forget)
        finally:
            if forget and not self._far:
                _empty(self.path)
            self._give_back()

    @property
    def anew(self) -> bool:
        """Whether `begin` will delete a run that is in the folder now."""
        return (self._overwrites and not self._begun) or (self._within is not None and self._within.anew)

    def _open(self) -> None:
        config = self._config
        if self._far and config.dry_run:
            return
        if self._far:
            self._far.fetch(anew=config.overwrite)
        for path in (self.path, *self.path.parents):
            if path.exists() and not path.is_dir():
                within = "" if path == self.path else f"--run-dir {self.path}: "
                raise ConfigError(f"{within or '--run-dir '}{path} is a file; it must be a folder or not exist")
        if self._within and self._within.anew:
            return
        self._check()

    def _check(self) -> None:
        """ConfigError for a folder that holds another run, or files but no run."""
        if (self.path / CONFIG).exists() and not self._config.overwrite:
            try:
                before = read_config(self.path)
            except ConfigError as error:
                raise ConfigError(f"{self._named(error)}: put a copy of it back, give another --run-dir, or "
                                  "--overwrite to delete the run") from None
            check_same(before, self._described, self.place)
        elif self.path.exists():
            _refuse_foreign(self.path)

    @property
    def config(self) -> dict[str, Any]:
        """The content of `config.json`: the experiment, all fields that define the run, and how it was started."""
        return self._described | {STARTED: dict(self._started)}

    @property
    def _described(self) -> dict[str, Any]:
        return {"experiment": self.experiment, **as_json(self._config)}

    def _take(self) -> None:
        """Make the folder if need be, and lock it."""
        if self._far or self._within or self._lock:
            return
        for _ in range(100):  # another process may remove the empty folder just now
            self._made += [path for path in reversed((self.path, *self.path.parents)) if not path.exists()]
            try:
                make_folder(self.path)
                lock = FolderLock(self.path, self.place)
                lock.acquire()
                break
            except FileNotFoundError:
                continue
        else:
            raise ConfigError(f"{self.place} vanishes as soon as it is made: another process deletes it")
        self._lock = lock
        self._check()  # another run may have been here between the first look and the lock

    def _give_back(self) -> None:
        """Release the lock, and remove the folders that were made if nothing is in them."""
        if self._lock:
            self._lock.release()
            self._lock = None
        for path in reversed(self._made):
            with contextlib.suppress(OSError):  # something is in it
                path.rmdir()

    def begin(self) -> None:
        """Start writing: from here on the folder holds this run and no other. All processes of a run call it together,
        just before the first of them writes; it does nothing the second time, nor in a dry run."""
        if self._begun or self._config.dry_run:
            return
        if self._within:
            self._within.begin()
        if is_first():
            self._take()
            if self.anew and self.path.exists() and not self._far:
                _empty(self.path)
            self._was_empty = not (self.path / CONFIG).exists()
            make_folder(self.path)
            for left in self.path.glob("*.partial"):  # by a process that was killed while it wrote
                left.unlink()
            self._started = {**self._started, "devices": devices(), "versions": versions()}
            write_json(self.path / CONFIG, self.config)  # first, because it marks the folder as a run's
            self._set_aside_damaged_summary()
            self.figures.mkdir(exist_ok=True)
            if self._far:
                self._far.start()
        self._begun = True
        wait_for_all("run begun")
        for beginning in self._beginnings:
            beginning()

    def when_begun(self, beginning: Callable[[], None]) -> None:
        """Have a function called once the folder may be written: in `begin`, or now."""
        if self._begun:
            beginning()
        else:
            self._beginnings.append(beginning)

    def reads(self, origin: Origin | None, *, again: bool = False) -> None:
        """Take down what learnt weights of this run were read from.

        again: a resumed training reads them again, because its checkpoints do not hold them: a frozen teacher.
        """
        if origin is not None and origin not in self.origins:
            self.origins.append(origin)
        if origin is not None and again:
            self._read_again.append(origin)
        if self._within:
            self._within.reads(origin)

    def goes_on_from(self, origins: Sequence[Origin]) -> None:
        """Take down what a resumed training started from, whatever has become of that; prints what has changed.

        ConfigError where that is something whose weights its checkpoints do not hold.
        """
        for before, now in zip(origins, self.origins):
            if not before.is_same(now) and now in self._read_again:
                raise ConfigError(f"{self.place} learnt from {before}, now {now}, which its checkpoints do not hold: "
                                  "put it back, --overwrite to train anew, or give another --run-dir")
            if not before.is_same(now):
                print(f"it started from {before}, now {now}, and goes on from what its checkpoint holds")
        self.origins[:] = origins or self.origins
        for origin in self.origins:
            self.reads(origin)

    def _is_recorded(self) -> bool:
        """Whether there is anything that a resumed run, or a person, would miss."""
        return (any(step.name.isdecimal() for step in self.path.rglob("checkpoints/*"))
                or any(self.path.glob(f"{PIECES}/*"))
                or any(log.stat().st_size for log in self.path.rglob("metrics.jsonl"))
                or any(any(self.path.rglob(name)) for name in (SUMMARY, "bad_files*.txt")))

    def _set_aside_damaged_summary(self) -> None:
        """A run whose summary cannot be read is not complete: its last step leads to the same summary again."""
        if not (self.path / SUMMARY).exists():
            return
        try:
            read_summary(self.path)
        except ConfigError as error:
            aside = (self.path / SUMMARY).replace(self.path / f"{SUMMARY}.damaged")
            print(f"{self._named(error)}: the run is finished again; the file is now {aside.name}")

    def _named(self, error: ConfigError) -> str:
        """What is wrong with a file, named by its place where the run is."""
        return str(error).replace(f"{self.path}/", f"{self.place.rstrip('/')}/", 1)

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run; None while the run is unfinished, where the summary is damaged, and for a run
        that `begin` will delete."""
        if self.anew or not (self.path / SUMMARY).exists():
            return None
        try:
            return read_summary(self.path)
        except ConfigError:
            return None

    def finished(self) -> bool:
        """Whether the run is complete already; if so, prints that and its numbers.

        A result whose source has changed since is not complete: it is made anew. Of a training, which may have taken
        days, that is for a person to say: ConfigError.
        """
        summary = self.summary
        if summary is None:
            return False
        changes = changes_of(summary.get("sources", []))
        if changes and (isinstance(self._config, TrainingConfig) or any(self.checkpoints.glob("*"))):
            raise ConfigError(f"{self.place} is complete, but what it started from has changed: {changes}; --overwrite "
                              "trains anew, another --run-dir trains beside it")
        if changes:
            print(f"{self.place} is out of date and judged anew: {changes}")
            self._overwrites = True
            if is_first() and not self._config.dry_run:
                self._take()
                if self._far:
                    self._far.fetch(anew=True)
            return False
        print(f"{self.place} is complete; --overwrite starts anew, another --run-dir starts beside it")
        print_metrics(summary["metrics"])
        return True

    def finish(self, metrics: dict[str, float], protocol: dict[str, Any], trained: Any = None) -> None:
        """Write `summary.json`, whose presence marks the run as complete, draw a training's curves, and write the page
        `report.html`.

        All other files of the run are on the disk before. A page that cannot be written is no reason to lose the run.

        metrics: flat names to numbers. protocol: how they were measured (k, temperature, crop, layer, seed).
        trained: the `Trained` of an experiment that trains.
        """
        self.begin()
        facts = {}
        if trained is not None:
            metrics_path = self.path / "metrics.jsonl"
            if read_metrics(metrics_path):
                plot_curves(metrics_path, self.figures / "curves.png")
            else:  # it was lost, and the run was resumed at its end
                print(f"no curves are drawn: {metrics_path.name} has no lines")
            facts = {"params_sha256": trained.params_sha256, "steps": trained.steps,
                     "wall_seconds": round(trained.seconds, 2),
                     "images_per_second": round(trained.images_per_second, 1)}
        summary = {"metrics": metrics, **facts, "sources": sources_json(self.origins), "protocol": protocol,
                   "versions": versions()}
        problem = write_report(self.path, self.place, self.config, summary)
        sync_tree(self.path)
        write_json(self.path / SUMMARY, summary)
        print(f"written to {self.place}/summary.json")
        print(problem or f"a page to look at: {self.place}/{REPORT}")
        if trained is not None and not self._within:
            for command, purpose in next_commands(self.experiment, self.config, self.place):
                print(printable(f"next: {command}    # {purpose}"))


def devices() -> str:
    """The devices of all processes of this run, in words."""
    kinds = [device.device_kind for device in jax.devices()]
    counts = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    return counts if jax.process_count() == 1 else f"{counts} in {jax.process_count()} processes"


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that numbers may depend on."""
    found = {d.name for d in importlib.metadata.distributions()}
    return {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES if p in found}


def print_metrics(metrics: dict[str, float]) -> None:
    """One metric per line, as a person reads it; `summary.json` has all digits."""
    for name, value in metrics.items():
        print(f"  {printable(name)}: {in_words(name, value)}")


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all: neither a killed run nor a power cut leaves a half-written file."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def _empty(path: Path) -> None:
    """Delete all of a run but its lock. A kill or a power cut on the way leaves a run that can be resumed or begun
    again: its summary goes first, then its checkpoints, folders by a change of name, and last its configuration."""
    order = (CONFIG, "", "checkpoints", SUMMARY)  # from the last on
    entries = [entry for entry in path.iterdir() if not is_lock(entry.name)]
    for entry in sorted(entries, key=lambda entry: -order.index(entry.name if entry.name in order else "")):
        if entry.is_dir() and not entry.is_symlink():
            delete_folder(entry, path / f"{entry.name}.{secrets.token_hex(4)}.deleted")
        else:
            entry.unlink(missing_ok=True)
            sync(path)


def _refuse_foreign(path: Path) -> None:
    """ConfigError for a folder that holds files but no run: it must not be written into, let alone deleted."""
    names = {entry.name for entry in path.iterdir() if not (is_lock(entry.name) or entry.name.endswith(".partial"))}
    if names and CONFIG not in names:
        raise ConfigError(f"--run-dir {path} holds files but no run (no config.json): give an empty or new folder")


def check_output(output: Path, *inputs: Path) -> None:
    """ConfigError for an output folder that is a file or also an input folder, whose pictures would be overwritten."""
    require(not output.exists() or output.is_dir(), "output", output, "a folder, or not exist")
    for folder in inputs:
        require(output.resolve() != folder.resolve(), "output", output, f"another folder than {folder}, which is read")


def write_summary(folder: Path, metrics: dict[str, Any], protocol: dict[str, Any], origins: Sequence[Origin | None],
                  **more: Any) -> None:
    """Write `summary.json` with metrics, their protocol, the origins of the weights, and more; NaN becomes null,
    because JSON has no NaN."""
    path = folder / "summary.json"
    content = {"metrics": metrics, **more, "sources": sources_json(origins), "protocol": protocol,
               "versions": versions()}
    write_json(path, json.loads(json.dumps(content), parse_constant=lambda _: None))
    print(f"written to {path}")
