"""Names in braces: `train-{000..099}.tar` for a hundred files, as WebDataset and shells write them."""

import itertools
import re
from collections.abc import Iterator

from cvjax.errors import DataError

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?|([A-Za-z])\.\.([A-Za-z])(?:\.\.(-?\d+))?")


def has_braces(pattern: str) -> bool:
    """Whether there is a brace in it."""
    return "{" in pattern or "}" in pattern


def expand(pattern: str) -> list[str]:
    """The names that a pattern stands for, in its order, as bash has them.

    `{a,b}` are alternatives, `{000..099}` numbers (as wide as the wider end, if one begins with 0), `{a..e}` letters; a
    third number is the step. Braces may stand within braces, and several after one another give each with each. Other
    braces, such as `{x}`, are themselves.

    Raises:
        DataError: for a brace without its other one, or a name that is there twice.
    """
    names, rest = _sequence(pattern, 0, pattern)
    if rest != len(pattern):
        raise DataError(f"{pattern}: a brace has no other one")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise DataError(f"{pattern} names {twice} twice")
    return names


def _sequence(text: str, at: int, whole: str, ends: str = "") -> tuple[list[str], int]:
    """What the text from `at` on stands for, up to one of the characters in `ends`, and where that is."""
    pieces: list[list[str]] = []
    start = at
    while at < len(text) and text[at] not in ends:
        if text[at] == "}":
            break
        if text[at] == "{":
            pieces.append([text[start:at]])
            inner, at = _brace(text, at + 1, whole)
            pieces.append(inner)
            start = at
        else:
            at += 1
    pieces.append([text[start:at]])
    return ["".join(each) for each in itertools.product(*pieces)], at


def _brace(text: str, at: int, whole: str) -> tuple[list[str], int]:
    """What a brace stands for whose inside begins at `at`, and where it ends."""
    start, alternatives, several = at, [], False
    while True:
        found, at = _sequence(text, at, whole, ",")
        alternatives += found
        if at == len(text):
            raise DataError(f"{whole}: a brace has no other one")
        at += 1
        if text[at - 1] == "}":
            break
        several = True
    if several:
        return alternatives, at
    if span := _RANGE.fullmatch(text[start:at - 1]):
        return list(_range(*span.groups())), at
    return [f"{{{name}}}" for name in alternatives], at


def _range(first: str | None, last: str | None, by: str | None, letter: str | None, end: str | None,
           step: str | None) -> Iterator[str]:
    if first is not None and last is not None:
        low, high, width = int(first), int(last), 0
        if any(re.match(r"-?0\d", number) for number in (first, last)):
            width = max(len(first), len(last))
        numbers = _steps(low, high, by)
        yield from (f"{number:0{width}d}" for number in numbers)
    elif letter is not None and end is not None:
        yield from map(chr, _steps(ord(letter), ord(end), step))


def _steps(low: int, high: int, by: str | None) -> range:
    step = abs(int(by or 1)) or 1
    return range(low, high + 1, step) if low <= high else range(low, high - 1, -step)
