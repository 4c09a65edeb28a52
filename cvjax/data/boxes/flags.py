"""Yes or no, as people write it: VOC's `difficult`, COCO's `iscrowd`."""

from typing import Any

from cvjax.data.problems import Problems

UNKNOWN_FLAG = "objects with a flag that is neither yes nor no, taken as no"

_YES, _NO = ("1", "true", "yes", "y", "t"), ("0", "false", "no", "n", "f", "", "none", "null")


def read_flag(value: Any, name: str, problems: Problems) -> bool:
    """Whether a flag is set: a number 1 or 0, or a word for it in any case; nothing at all is no.

    Other words and numbers count as no, because an object that is wrongly left out of training is lost silently; they
    are counted in `problems` by the flag's `name` and the word.
    """
    word = "" if value is None else str(value).strip().lower()
    if word in _YES or word in _NO:
        return word in _YES
    try:
        number = float(word)
    except ValueError:
        number = float("nan")
    if number in (0, 1):
        return number == 1
    problems.add(UNKNOWN_FLAG, f"{name} {' '.join(str(value).split())[:40]!r}")
    return False
