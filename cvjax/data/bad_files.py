"""The account of files that could not be read: named in a list, counted, and limited."""

import os
from pathlib import Path

from cvjax.data.errors import DataError


class BadFiles:
    """Counts the unreadable records of a data set, each once, and stops the run when they are too many.

    Args:
        total: records in all its splits together.
        limit_fraction: greatest share of them that may be bad (`--data-max-bad`), in [0, 1].
        path: a text file that lists them, one `name<TAB>reason` a line, sorted. What it holds already stays
            there: several splits, and a run and its resumption, share one file. None: no file. When several
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

    def add(self, name: str, reason: str) -> None:
        """Registers one bad record; a second report of the same one changes nothing.

        Raises:
            DataError: when the bad ones exceed the limit.
        """
        name = _one_line(name)
        if name in self.reasons:
            return
        self.reasons[name] = _one_line(reason)
        if self.path:
            self._write()
        if self.count > self.limit_fraction * self.total:
            where = f"see {self.path}" if self.path else f"the last is {name}: {reason}"
            raise DataError(
                f"{self.count} of {self.total} files cannot be read "
                f"({self.count / max(self.total, 1):.2%}, the limit is {self.limit_fraction:.2%}); {where}"
            )

    def _write(self):
        lines = {f"{name}\t{reason}" for name, reason in self.reasons.items()}
        if self.path.exists():
            known = self.path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            lines |= {line for line in known if line and line.split("\t")[0] not in self.reasons}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and moved, so that a run that is killed here leaves the old list whole.
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(
            "".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8", errors="surrogateescape"
        )
        partial.replace(self.path)


def _one_line(text):
    return " ".join(text.split())
