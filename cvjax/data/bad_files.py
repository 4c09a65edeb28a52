"""The account of files that could not be read: named in a list, counted, and limited."""

import itertools
import os
from collections.abc import Mapping
from pathlib import Path

from cvjax.durable import write_whole
from cvjax.errors import DataError
from cvjax.text import printable, read_text

FEW = 5  # files that may be bad whatever their share is, if they are at most half of all

_NAMED = 5  # in the error


class BadFiles:
    """Counts the unreadable records of a data set, each once, and stops the run when they are too many.

    Args:
        total: records in all its splits together.
        limit_fraction: greatest share of them that may be bad (`--data-max-bad`), in [0, 1]; but `FEW` may be in any
            case, up to half of them, unless it is 0.
        path: a text file that lists them, one `name<TAB>reason` a line, sorted. Lines that it already has stay,
            because several splits share one file, as do a run and its resumption. None: no file. When several
            processes load one data set, give each its own path, or only the first one a path.
    """

    def __init__(
        self,
        total: int,
        limit_fraction: float = 0.01,
        path: str | os.PathLike | None = None,
    ):
        if not 0 <= limit_fraction <= 1:
            raise DataError(f"the limit on bad files must lie in [0, 1], got {limit_fraction}")
        self.total, self.limit_fraction = total, limit_fraction
        self.path = Path(path) if path else None
        self.reasons: dict[str, str] = {}

    @property
    def count(self) -> int:
        """How many different records were bad so far."""
        return len(self.reasons)

    @property
    def allowed(self) -> int:
        """How many may be."""
        share = int(self.limit_fraction * self.total + 1e-9)  # 0.29 of 100 are 28.999...
        return max(share, min(FEW, self.total // 2)) if self.limit_fraction else 0

    def add(self, name: str, reason: str) -> None:
        """Registers one bad record; a second report of the same one changes nothing.

        Raises:
            DataError: when the bad ones exceed the limit.
        """
        self.add_all({name: reason})

    def add_all(self, found: Mapping[str, str]) -> None:
        """Registers bad records, name -> reason; errors as in `add`, once all of them are in the list."""
        known = self.count
        for name, reason in found.items():
            self.reasons.setdefault(printable(name), printable(" ".join(reason.split())))
        if self.count == known:
            return
        if self.path:
            self._write(self.path)
        if self.count > self.allowed:
            more = f", and {self.count - _NAMED} more" * (self.count > _NAMED)
            where = f"; {self.path} names them all" if self.path and more else ""
            raise DataError(f"{self.count} of {self.total} files cannot be read, {self.allowed} may be by "
                            f"--data-max-bad {self.limit_fraction:g}: {self.examples(_NAMED)}{more}{where}")

    def examples(self, most: int) -> str:
        """The first bad records with their reasons, in words."""
        return ", ".join(f"{name} ({reason})" for name, reason in itertools.islice(self.reasons.items(), most))

    def keep_in(self, path: str | os.PathLike) -> None:
        """Have the list in this file from now on."""
        self.path = Path(path)
        if self.reasons:
            self._write(self.path)

    def _write(self, path: Path) -> None:
        lines = {f"{name}\t{reason}" for name, reason in self.reasons.items()}
        if path.exists():
            known = read_text(path, names=True).splitlines()
            lines |= {line for line in known if line and line.split("\t")[0] not in self.reasons}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(f"{line}\n" for line in sorted(lines)))
