"""What learnt weights were read from, and whether that is still the same: a checkpoint of a run, or a file.

A result carries the origins of the weights that it judges, or that its training started from, in its summary. So a
later start sees when a run that was read has gone on, or a file has been replaced.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Union

from cvjax.errors import CvjaxError
from cvjax.interop.hub import HUB
from cvjax.storage import is_address
from cvjax.train.checkpoint import Saved, describe
from cvjax.workflow.far_folder import local_copy


@dataclasses.dataclass(frozen=True)
class RunOrigin:
    """A checkpoint of a run.

    run: its folder or address, as given. asked: which checkpoint was asked for: judged, best, latest or a number.
    total_steps: of the run's training, None where its checkpoints do not say. weights: hash of its weights.
    """

    run: str
    asked: str | int
    step: int
    total_steps: int | None
    weights: str

    def __str__(self) -> str:
        return f"{self.run} at step {self.step}{f' of {self.total_steps}' if self.total_steps else ''}"

    def now(self) -> "RunOrigin | None":
        """The same request today; None if there is no such run any more."""
        try:
            path = local_copy(self.run, only=_META) if is_address(self.run) else Path(self.run)
            return origin_of_run(self.run, find_checkpoint(path, self.asked), self.asked)
        except (CvjaxError, OSError):
            return None

    def is_same(self, other: "Origin") -> bool:
        """Whether the other one has the same weights."""
        return isinstance(other, RunOrigin) and (self.step, self.weights) == (other.step, other.weights)


@dataclasses.dataclass(frozen=True)
class FileOrigin:
    """A file of weights. file: as given, also hf-hub:OWNER/NAME. size: in bytes. changed: when, in nanoseconds."""

    file: str
    size: int
    changed: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.file} with the hash {self.sha256[:12]}"

    def now(self) -> "FileOrigin | None":
        """The file today; None if it is gone. One of the size and time that it had is not read again, nor is the hub
        asked."""
        if self.file.startswith(HUB):
            return self
        path = Path(self.file if os.path.exists(self.file) else self.file.rpartition("#")[0])
        try:
            known = path.stat()
            return self if (known.st_size, known.st_mtime_ns) == (self.size, self.changed) else origin_of_file(
                self.file, path)
        except OSError:
            return None

    def is_same(self, other: "Origin") -> bool:
        """Whether the other one has the same bytes."""
        return isinstance(other, FileOrigin) and self.sha256 == other.sha256


Origin = Union[RunOrigin, FileOrigin]  # noqa: UP007  # the classes name it in quotes

_META = re.compile(r"(config|summary)\.json|checkpoints/\d+/(carried|meta/.*)")


def find_checkpoint(path: Path, asked: str | int) -> Saved:
    """The checkpoint of a run's folder that is asked for, see `cvjax.workflow.restore.load_run`; errors as there."""
    folder = path / "checkpoints"
    if asked == "judged":
        asked = "best" if describe(folder).meta.get("validated") else "latest"
    return describe(folder, asked)


def origin_of_run(run: str, saved: Saved, asked: str | int) -> RunOrigin:
    """The origin of weights that were read from a checkpoint."""
    return RunOrigin(run, asked, saved.step, saved.meta.get("total_steps"), saved.weights)


def origin_of_file(file: str, path: Path) -> FileOrigin:
    """The origin of weights that were read from a file, which lies at `path` on this machine."""
    known = path.stat()
    with open(path, "rb") as content:  # about as long as reading the weights takes
        return FileOrigin(file, known.st_size, known.st_mtime_ns, hashlib.file_digest(content, "sha256").hexdigest())


def sources_json(origins: Iterable[Origin | None]) -> list[dict[str, Any]]:
    """Origins as JSON, which `from_json` reads; None is left out."""
    return [dataclasses.asdict(origin) for origin in origins if origin is not None]


def from_json(sources: Iterable[Mapping[str, Any]]) -> list[Origin]:
    """The origins that `sources_json` wrote."""
    return [RunOrigin(**facts) if "run" in facts else FileOrigin(**facts) for facts in sources]


def changes_of(sources: Iterable[Mapping[str, Any]]) -> str:
    """How the origins of a result have changed since, in words; "" if they have not. Prints which are gone."""
    changes = []
    for origin in from_json(sources):
        now = origin.now()
        if now is None:
            print(f"{origin}, from which weights were read, is not there any more")
        elif not origin.is_same(now):
            changes.append(f"{origin} then, {now} now")
    return "; ".join(changes)
