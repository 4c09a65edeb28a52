"""The known words that are nearest to an unknown one, for errors."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """At most so many of the known words, the likeliest first: those that look alike, then those that begin so."""
    known, word = list(known), word.lower()
    alike = difflib.get_close_matches(word, known, n=most)
    return list(dict.fromkeys([*alike, *(name for name in known if word and name.startswith(word))]))[:most]


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """`did you mean A, B?`, or `otherwise` if nothing is near."""
    near = nearest(word, known)
    return f"did you mean {', '.join(near)}?" if near else otherwise
