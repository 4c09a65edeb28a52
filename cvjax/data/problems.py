"""What a reader found wrong or left out: counted, and named by examples."""

import collections

MISSING = "listed pictures that are not there, left out"

_NAMED = 3  # examples that a message names


class Problems:
    """Counts what was wrong or left out, with the names of the first files or pictures where it was.

    Attributes:
        lost: `(file, reason)` of the listed pictures that are not there, for `Dataset.lost`.
    """

    def __init__(self) -> None:
        self._counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.lost: list[tuple[str, str]] = []

    def add(self, what: str, name: str, count: int = 1) -> None:
        """`count` more of `what` in the picture (or of the class) `name`."""
        self._counts[what][name] += count

    def lose(self, file: str, name: str) -> None:
        """A listed file that is not there, of the picture `name`, which is left out."""
        self.add(MISSING, name)
        self.lost.append((file, "no such file"))

    def count(self, what: str) -> int:
        """How many of `what` there were."""
        return self._counts[what].total() if what in self._counts else 0

    def words(self) -> str:
        """All in one line, empty when nothing was wrong."""
        return "; ".join(f"{names.total()} {what} ({_some(list(names))})" for what, names in self._counts.items())


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f", and {more} more" if more > 0 else "")
