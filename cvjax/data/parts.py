"""Which part of a data set a name means: the one vocabulary of `train`, `val` and `test` for all readers.

Names are read as words: any case, any separator, numbers and words such as `images` or `set` aside. `Training`,
`train2017`, `TrainSet` and `01_train-images` all mean the training part.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from cvjax.errors import DataError

TRAIN, VALIDATION, TEST = "train", "val", "test"

WORDS = {
    "train": TRAIN, "training": TRAIN, "trn": TRAIN, "trainval": TRAIN,
    "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "validate": VALIDATION, "dev": VALIDATION,
    "eval": VALIDATION, "evaluation": VALIDATION,
    "test": TEST, "testing": TEST, "tst": TEST, "holdout": TEST, "heldout": TEST,
}
_FILLERS = ("set", "sets", "data", "dataset", "split", "part", "images", "image", "imgs", "img", "pictures", "photos",
            "samples", "records")
_GLUED = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})({'|'.join(_FILLERS)})?")


def part_of(name: str) -> str | None:
    """The part that a name means as a whole (`Testing`, `val_images`, `train2017`); None for any other name."""
    part, rest = _read(name)
    return None if rest else part


def part_in(name: str, where: str) -> str | None:
    """The part whose word stands somewhere in a file's name (`imagenet1k-validation-00.tar`); None without one.

    Raises:
        DataError: if the name has the words of two parts.
    """
    found = {part for word in _words(name) if (part := _meaning(word)) is not None}
    if len(found) > 1:
        raise DataError(f"{where}: the name {name} has the words of several parts, {' and '.join(sorted(found))}; "
                        "rename it after one of them")
    return next(iter(found), None)


def folders_of_parts(names: Iterable[str], where: str) -> dict[str, str]:
    """Of the names of folders beside each other, those that are parts: part -> name.

    A folder is a part if its whole name means one. Names with more words are parts if they share these words and one of
    them is a training part: `cats_train` and `cats_test` are, `train_station` and `test_tube` are not.

    Raises:
        DataError: if several names mean one part.
    """
    groups: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name in names:
        part, rest = _read(name)
        if part is not None:
            groups.setdefault(rest, {}).setdefault(part, []).append(name)
    alike = [group for rest, group in groups.items() if not rest or (TRAIN in group and len(group) > 1)]
    return _one_each(max(alike, key=lambda group: (TRAIN in group, len(group)), default={}), where)


def names_of_parts(names: Iterable[str], where: str, meaning: Callable[[str], str | None] = part_of) -> dict[str, str]:
    """Of splits that a data set names itself, part -> name; see `folders_of_parts` for the errors."""
    found: dict[str, list[str]] = {}
    for name in names:
        if (part := meaning(name)) is not None:
            found.setdefault(part, []).append(name)
    return _one_each(found, where)


def refuse_parts_as_classes(class_names: Sequence[str], where: str) -> None:
    """DataError if the class names are names of parts, which only a misread layout can give."""
    parts = {name: part for name in class_names if (part := part_of(name)) is not None}
    if len(set(parts.values())) > 1 or 0 < len(parts) == len(class_names):
        raise DataError(f"{where}: the classes would be {', '.join(parts)}, which are names of parts; parts come first "
                        "and classes within them: train/CLASS/..., test/CLASS/...")


def _one_each(found: Mapping[str, Sequence[str]], where: str) -> dict[str, str]:
    for part, names in found.items():
        if len(names) > 1:
            raise DataError(f"{where}: {' and '.join(sorted(names))} both mean the part {part}; leave one of them")
    return {part: names[0] for part, names in found.items()}


def _read(name: str) -> tuple[str | None, tuple[str, ...]]:
    """The part whose word is in a name, if it is one word, and the other words that are no fillers."""
    words = [word for word in _words(name) if word not in _FILLERS]
    parts = [word for word in words if _meaning(word)]
    if len(parts) != 1:
        return None, tuple(words)
    return _meaning(parts[0]), tuple(word for word in words if word != parts[0])


def _meaning(word: str) -> str | None:
    glued = _GLUED.fullmatch(word)
    return WORDS[glued[1]] if glued else None


def _words(name: str) -> list[str]:
    """Its words in lower case; a capital after a small letter begins one."""
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
