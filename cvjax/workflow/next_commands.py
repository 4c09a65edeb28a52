"""What a person does next with a run: whole commands, with the run's own path, to copy as they stand."""

import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from cvjax.text import printable

ENCODERS = ("mae_pretrain", "dino_pretrain", "simsiam_pretrain")
CLASSIFIERS = ("supervised", "distill", "finetune", "average")
ANSWERING = (*CLASSIFIERS, "segment", "detect")


def next_commands(experiment: str, config: Mapping[str, Any], place: str) -> list[tuple[str, str]]:
    """`(command, what it is for)` of each useful next step, the most useful first.

    experiment: which wrote the run. config: the content of its `config.json`. place: the run's folder or address. A
    word in capitals is for the reader to replace.
    """
    run = _quoted(place)
    if config.get("folds"):
        whole = " ".join(_quoted(f"{place.rstrip('/')}/fold-{fold}") for fold in range(config["folds"]))
        run = whole if config.get("fold") is None else run
    found = []
    is_encoder = experiment in ENCODERS or config.get("method") == "features"
    if experiment in ANSWERING:
        found.append((f"predict PHOTOS --checkpoint {run} --output DIR", "asks it about your own photos"))
    if experiment in CLASSIFIERS:
        found.append((f"evaluate --checkpoint {run}", "judges it again, also on other data (--data)"))
    if is_encoder:
        found = [(f"knn --checkpoint {run}", "judges its features by nearest neighbours"),
                 (f"linear_probe --checkpoint {run}", "judges them by a linear classifier")]
        if experiment == "mae_pretrain":
            found.append((f"finetune --checkpoint {run}", "trains all of it as a classifier"))
    if not place.partition("://")[1] and len(PurePath(place).parts) > 1:
        found.append((f"report {_quoted(str(_top_of(place)))}", "compares it with the other runs there, on one page"))
    return [(f"python -m experiments.{command}", purpose) for command, purpose in found]


def resume_command(config: Mapping[str, Any]) -> str | None:
    """The command that goes on with a run, as it was started last; None where no command line started it."""
    arguments = config.get("started", {}).get("arguments")
    return f"python -m {' '.join(map(_quoted, arguments))}" if arguments else None


def _top_of(place: str) -> PurePath:
    """The folder of all runs: `runs` of `runs/supervised/digits`, else the one that the run lies in."""
    path = PurePath(place)
    return path.parent.parent if path.parent.parent.name == "runs" else path.parent


def _quoted(word: Any) -> str:
    """A word for a shell; characters that would steer a terminal or a page are written as bash reads them in $''."""
    word = str(word)
    if printable(word) == word:
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{''.join(map(_in_bytes, escaped))}'"


def _in_bytes(letter: str) -> str:
    """A letter as it is, or the bytes of one that steers: what Python calls \\x9b is one byte to bash, not a letter."""
    if printable(letter) == letter:
        return letter
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))
