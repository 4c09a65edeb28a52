"""The lists of names in PASCAL VOC's layout, and the files that they name, for boxes and for label maps alike."""

import os
import re
from collections.abc import Container
from pathlib import Path

from cvjax.data.parts import names_of_parts
from cvjax.data.sources.image_files import EXTENSIONS
from cvjax.errors import DataError
from cvjax.text import read_text, text_as_name

_FLAG = re.compile(r"\s+(-1|0|1)$")  # of lists for a single class: whether it is absent, hard to see or present


def lists_of_parts(folder: Path, where: str) -> dict[str, Path]:
    """Part -> its list of a folder such as ImageSets/Main: `train`, `val`, `test`, by the names in `cvjax.data.parts`,
    and `trainval`, which VOC has besides. Lists of other names, such as those of one class, are none.

    Raises:
        DataError: if several mean one part.
    """
    files = {file.stem: file for file in sorted(folder.glob("*.txt"))}
    both = next((name for name in files if name.lower() == "trainval"), None)
    parts = names_of_parts([name for name in files if name != both], where)
    return {part: files[name] for part, name in (parts | ({"trainval": both} if both else {})).items()}


def read_names(file: Path, known: Container[str]) -> list[str]:
    """The names in a list, one a line, spaces included.

    A trailing ` 1`, ` 0` or ` -1` is the flag of a list for one class, and a trailing ending of a file (`.jpg`, `.xml`)
    is dropped, unless the data set knows a file by the name as it stands.

    known: the names of files, without their endings.

    Raises:
        DataError: if the list cannot be read.
    """
    try:
        text = read_text(file, names=True)
    except OSError as error:
        raise DataError(f"the list {file} cannot be read: {error.strerror or error}") from None
    lines = (text_as_name(line.strip()) for line in text.splitlines())
    return [_name(line, known) for line in lines if line]


def _name(line: str, known: Container[str]) -> str:
    bare = _FLAG.sub("", line)
    readings = (line, _without_ending(line), bare, _without_ending(bare))
    return next((name for name in readings if name in known), readings[-1])


def _without_ending(name: str) -> str:
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in (*EXTENSIONS, ".xml") else name


def files_by_name(folder: Path, endings: tuple[str, ...] = EXTENSIONS) -> dict[str, str]:
    """Files of a folder by their names without the ending, which may be of any case.

    If several have one name, it is the one whose ending comes first in `endings`; nothing if there is no such folder.
    """
    if not folder.is_dir():
        return {}
    found = sorted((name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in endings),
                   key=lambda name: (-endings.index(os.path.splitext(name)[1].lower()), name))
    return {os.path.splitext(name)[0]: name for name in found}
