"""A run's folder at an address, such as s3://BUCKET/runs/digits: a copy on this machine, carried there as it grows.

Logs grow, checkpoints appear by a change of name, TensorBoard's events stay open: an object store can do none of these.
So a run works in a folder on this machine. A thread carries what has changed to the address, each file whole, in an
order that makes the address a run that can be resumed at any moment:

1. logs and figures, which are then as new as the checkpoints that were there before;
2. a checkpoint's files, and last of all its mark, the file `carried`: one without a mark counts as not there;
3. what is gone from the copy goes from the address, marks first;
4. `summary.json`, whose presence marks a run as complete.

So a run that is killed resumes at the newest checkpoint that was carried, and ends as an undisturbed one does. There is
no lock: two runs must not write to one address. It is for a run of one process, because the processes of a run write
one checkpoint together.
"""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cvjax.data.cache import cache_folder
from cvjax.errors import ConfigError, CvjaxError, StorageError
from cvjax.storage import download, files_below, remove, upload
from cvjax.workflow.run_files import CONFIG, SUMMARY, read_summary

EVERY = 30.0  # seconds between two looks at what has changed

_MARK = "carried"
_STEP = re.compile(r"(?:.*/)?checkpoints/\d+(?=/)")  # a checkpoint's folder, at the start of a file's name
_PASSING = re.compile(r".*\.(partial|deleted|removed|damaged)$|.*\.orbax-checkpoint-tmp")
_AT_ONCE = 8  # files that are fetched together


class FarFolder:
    """The copy of a run's folder, and its way to the address.

    address: of the folder. kind: copies of different kinds lie apart.
    """

    def __init__(self, address: str, kind: str = "runs") -> None:
        self.address = address.rstrip("/")
        digest = hashlib.blake2b(self.address.encode(), digest_size=8).hexdigest()
        self.path = cache_folder() / kind / digest
        self._there: dict[str, tuple[int, int]] = {}  # name -> size and time of change of the file that was carried
        self._marked: set[str] = set()
        self._doomed: list[str] = []  # files at the address that `start` deletes
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def fetch(self, *, anew: bool = False) -> None:
        """Makes the copy: what is at the address, without checkpoints that have no mark. Of a complete run only its
        configuration and summary. anew: nothing, because `start` will delete the run at the address.

        Raises:
            ConfigError: for an address where there are files but no run, or that must not be read.
            StorageError: for one that cannot be reached.
        """
        with self._named_errors():
            names = self.names()
            if names and CONFIG not in names:
                raise ConfigError(f"--run-dir {self.address} holds files but no run (no {CONFIG}): give an empty or "
                                  "new folder")
            shutil.rmtree(self.path, ignore_errors=True)
            if anew:
                self._doomed = names
            elif SUMMARY not in names or not self._fetch_complete():
                self.copy(names)
                self._remove(name for name in names if (step := _step_of(name)) and step not in self._marked)

    def _fetch_complete(self) -> bool:
        """Fetches configuration and summary; whether the run is complete, which a damaged summary does not say."""
        self.copy([CONFIG, SUMMARY])
        try:
            read_summary(self.path)
        except ConfigError:
            return False
        return True

    def names(self) -> list[str]:
        """The files at the address; none if there is nothing."""
        try:
            return list(files_below(self.address))
        except FileNotFoundError:
            return []

    def copy(self, names: Sequence[str]) -> None:
        """Fetches these files, those of checkpoints only if their mark is among them."""
        self._marked = {name.removesuffix(f"/{_MARK}") for name in names if _is_mark(name)}
        whole = {None, *self._marked}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._fetch, [name for name in names if _step_of(name) in whole and not _is_mark(name)]))

    def start(self) -> None:
        """Carries all that there is, and from now on what changes, in a thread.

        Raises:
            ConfigError: for an address that must not be written.
            StorageError: for one that cannot be reached.
        """
        with self._named_errors():
            self._remove(self._doomed)
            self.carry()
        self._thread = threading.Thread(target=self._carry_on, daemon=True, name="far folder")
        self._thread.start()

    def carry(self) -> None:
        """Carries what has changed, in the order that is said above.

        Raises:
            OSError, StorageError: as in `cvjax.storage.upload`.
        """
        here = self._files()
        steps: dict[str, list[str]] = {}
        for name in here:
            if step := _step_of(name):
                steps.setdefault(step, []).append(name)
            elif name != SUMMARY:
                self._carry(name, here[name])
        for step, names in steps.items():
            if all([self._carry(name, here[name]) for name in names]) and step not in self._marked:
                mark = self.path / f"{_MARK}.partial"
                mark.touch()
                upload(mark, f"{self.address}/{step}/{_MARK}")
                self._marked.add(step)
        gone = [name for name in self._there if name not in here]
        lost = self._marked - steps.keys()
        self._remove([*(f"{step}/{_MARK}" for step in lost), *gone])
        self._marked -= lost
        if SUMMARY in here:
            self._carry(SUMMARY, here[SUMMARY])

    def close(self, *, keep: bool = False, forget: bool = False) -> None:
        """Carries the rest and deletes the copy, unless it is to be kept; or, to `forget` the run, deletes both.

        Raises:
            StorageError: if that fails; it says where the copy is, which is then kept.
        """
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
        if forget:
            with contextlib.suppress(OSError, CvjaxError):  # the error that led here is the one to tell
                self._remove(self.names())
        if forget or self._thread is None:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        try:
            self.carry()
        except (OSError, CvjaxError) as error:
            raise StorageError(f"{error}; what is not there yet is in {self.path}") from None
        if not keep:
            shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(f"--run-dir {self.address}: {error}") from None

    def _carry_on(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                self.carry()
            except (OSError, CvjaxError) as error:  # the next look, or `close`, tries again
                print(f"not carried to {self.address} yet: {error}", file=sys.stderr)

    def _carry(self, name: str, stamp: tuple[int, int]) -> bool:
        """Whether a file is at the address as it is here; it is carried there if need be. False if it has gone."""
        if self._there.get(name) != stamp:
            try:
                upload(self.path / name, f"{self.address}/{name}")
            except FileNotFoundError:
                return False
            self._there[name] = stamp
        return True

    def _files(self) -> dict[str, tuple[int, int]]:
        """Name -> size and time of change of all files of the copy that stay, sorted."""
        found = {}
        for folder, below, names in os.walk(self.path):
            below[:] = sorted(name for name in below if not _PASSING.match(name))
            for name in sorted(names):
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    if not _PASSING.match(name):
                        known = path.stat()
                        found[path.relative_to(self.path).as_posix()] = known.st_size, known.st_mtime_ns
        return found

    def _fetch(self, name: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        download(f"{self.address}/{name}", path)
        known = path.stat()
        self._there[name] = known.st_size, known.st_mtime_ns

    def _remove(self, names: Iterable[str]) -> None:
        """Deletes files at the address: the summary and the marks first, the configuration last."""
        for name in sorted(names, key=lambda name: (name == CONFIG, name != SUMMARY, not _is_mark(name))):
            remove(f"{self.address}/{name}")
            self._there.pop(name, None)


def local_copy(address: str, only: re.Pattern[str] | None = None) -> Path:
    """The folder on this machine with a copy of the run at an address, made anew. only: of the files of these names.

    Raises:
        OSError, StorageError: as in `cvjax.storage`.
    """
    far = FarFolder(address, "copies" if only is None else "glances")
    shutil.rmtree(far.path, ignore_errors=True)
    far.copy([name for name in far.names() if only is None or only.fullmatch(name)])
    return far.path


def _step_of(name: str) -> str | None:
    """The folder of the checkpoint that a file belongs to."""
    found = _STEP.match(name)
    return found[0] if found else None


def _is_mark(name: str) -> bool:
    return _step_of(name) == name.removesuffix(f"/{_MARK}") != name
