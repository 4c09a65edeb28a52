"""Images in a CSV list, with any number of labels each (multi-label) or with numbers to predict (regression)."""

import csv
import dataclasses
import io
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from cvjax.data.dataset import Dataset, Targets, check_known_classes, check_spellings
from cvjax.data.parts import TRAIN, folders_of_parts, names_of_parts, part_of
from cvjax.data.problems import Problems
from cvjax.data.sources.folder import FileSource, is_folder, is_kind
from cvjax.data.sources.image_files import PICTURES, alike_names, arrange, hold_test
from cvjax.errors import DataError
from cvjax.storage import check_within
from cvjax.text import read_text, text_as_name

LIST = "labels.csv"
SPLIT = "split"  # the column that names a row's part
SEPARATOR = ";"  # between the labels of one image
_LARGEST = float(np.finfo(np.float32).max)
_OF_CLASSES = ("class", "classes", "label", "labels", "tag", "tags")  # columns whose whole numbers may be names


def open_labels(path: str, *, seed: int = 0, cache: bool = False) -> Dataset:
    """Opens images that CSV lists name.

    A list has a header; its first column is the file, relative to the list's folder. The other columns, without one
    that is called `split`, are what is learnt. Numbers in every row are numbers to predict. A single column of text has
    the labels of an image, separated by `;`, or nothing for an image without labels; it has labels, too, as soon as
    there is a `;`, so that `3;` is the label 3. Anything between the two is refused.

    The parts (see `cvjax.data.parts`) are `train/labels.csv`, `test/labels.csv`, ..., or `labels-train.csv`,
    `labels-test.csv`, ...; of a single `labels.csv` they are the words in the column `split`, or the folders of the
    files. A test part that is missing is held out as in `open_folder`, but regardless of labels. Labels are those of
    the training part, or of all images where the test part is held out, sorted by name.

    Files that are not there are left out and counted as bad. What repeats or is not listed is counted in `ignored`.

    Args:
        path: a folder, or a list itself.
        cache: as in `open_folder`.

    Raises:
        DataError: for a list that cannot be read, or that can be meant in two ways; with its name and line.
    """
    root, problems = Path(path).expanduser(), Problems()
    folder = root if root.is_dir() else root.parent
    lists = {part: _read(file, folder) for part, file in _lists(root, problems).items()}
    rows = _rows_of_parts(lists, root)
    columns = _columns(lists)
    every = [row for part in rows.values() for row in part]
    kind = _kind(columns, every)
    rows = {part: _once(part_rows, problems) for part, part_rows in rows.items()}
    if kind == "numbers":
        names = columns
        values = {part: np.array([row.cells for row in each], np.float32) for part, each in rows.items()}
    else:
        found = {part: [_labels(row, problems) for row in each] for part, each in rows.items()}
        names = tuple(sorted({name for labels in found[TRAIN] for name in labels}))
        if not names:
            raise DataError(f"{root}: no training image has a label")
        for part, labels in found.items():
            known = {name for each in labels for name in each}
            check_known_classes(known, names, f"the part {part} of {root}")
        check_spellings(names, str(root))
        values = {part: np.array([[name in labels for name in names] for labels in each], np.float32)
                  for part, each in found.items()}
    sources = {part: _files(part, rows[part], values[part], problems) for part in rows}
    _count_unlisted(sources, problems)
    sources = arrange(sources, path, problems)
    noticed = alike_names(source.name(i) for source in sources.values() for i in range(len(source)))
    dataset = hold_test(sources, (), problems.words(), noticed, seed=seed, cache=cache)
    return dataclasses.replace(dataset, targets=Targets(kind, names), lost=tuple(problems.lost))


@dataclasses.dataclass(frozen=True)
class _Row:
    """One line of a list: its place in messages, the folder of the list, the file, its part, and the other cells."""

    place: str
    folder: Path
    file: str
    part: str | None
    cells: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _List:
    path: Path
    columns: tuple[str, ...]
    rows: Sequence[_Row]


def _lists(root: Path, problems: Problems) -> dict[str | None, Path]:
    """Part -> its list; None -> the list of all parts."""
    if root.is_file():
        return {None: root}
    if not root.is_dir():
        raise DataError(f"no such folder or list: {root}")
    entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    lists = {entry.name: Path(entry.path) for entry in entries
             if is_kind(entry.is_file) and entry.name.lower().endswith(".csv") and not entry.name.startswith(".")}
    alone = [name for name in lists if name.lower() == LIST]
    folders = [entry.name for entry in entries if is_folder(entry)]
    listed = folders_of_parts([name for name in folders if (root / name / LIST).is_file()], str(root))
    bare = {re.sub("labels?", "", name[:-len(".csv")], flags=re.I): name for name in lists if name not in alone}
    named = {part: bare[name] for part, name in names_of_parts(list(bare), str(root)).items()}
    ways = [way for way in (alone, [f"{name}/{LIST}" for name in listed.values()], list(named.values())) if way]
    if len(ways) > 1:
        raise DataError(f"{root} has {' and '.join(', '.join(way) for way in ways)}: keep one kind of list")
    if not ways:
        raise DataError(f"no {LIST} in {root}; it may also be train/{LIST} and test/{LIST}, or labels-train.csv and "
                        "labels-test.csv")
    found: dict[str | None, Path] = {}
    if alone:
        found[None] = lists.pop(alone[0])
    else:
        parts = {part: root / name / LIST for part, name in listed.items()} or {
            part: lists.pop(name) for part, name in named.items()}
        if TRAIN not in parts:
            raise DataError(f"{root} has {', '.join(ways[0])} but no list of the training part")
        if listed:
            for name in folders_of_parts(folders, str(root)).values():
                if name not in listed.values():
                    problems.add(f"folders without {LIST}", name)
        found |= parts
    for name in lists:
        problems.add("other lists", name)
    return found


def _read(path: Path, root: Path) -> _List:
    """A list, whose cells are without spaces around them; `root`: the folder that its files lie in, at any depth."""
    try:
        lines = csv.reader(io.StringIO(read_text(path, names=True), newline=""), strict=True)
        table = [(lines.line_num, [cell.strip() for cell in cells]) for cells in lines]
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} is not a readable list: {error}") from None
    table = [(number, cells) for number, cells in table if any(cells)]
    if len(table) < 2:
        raise DataError(f"{path} needs a header and a row for each image")
    header = table[0][1]
    if header[0].lower().endswith(PICTURES):
        raise DataError(f"{path} has no header: its first line names an image, {header[0]}; write one such as "
                        "file,labels above it")
    if len(header) < 2 or not all(header):
        hint = "; columns are separated by commas" * (SEPARATOR in header[0])
        raise DataError(f"{path} needs a header that names two columns or more, the file first, and each of them{hint}")
    if len({name.lower() for name in header}) < len(header):
        raise DataError(f"{path} names a column twice: {', '.join(header)}")
    split = next((i for i, name in enumerate(header) if name.lower() == SPLIT), None)
    if split == 0 or split is not None and len(header) < 3:
        raise DataError(f"{path} has the columns {', '.join(header)}: the file comes first, then what is to be learnt, "
                        f"besides {SPLIT}")
    learnt = [i for i in range(1, len(header)) if i != split]
    rows = []
    for number, cells in table[1:]:
        place = f"{path} line {number}"
        if len(cells) != len(header):
            raise DataError(f"{place} has {len(cells)} cells, the header has {len(header)}; a cell with a comma in it "
                            "needs quotation marks")
        if not cells[0]:
            raise DataError(f"{place} names no file")
        try:
            "".join(cells[1:]).encode()
        except UnicodeEncodeError:
            raise DataError(f"{place} is not UTF-8") from None
        part = None
        if split is not None and (part := part_of(cells[split])) is None:
            raise DataError(f"{place} has the {SPLIT} {cells[split]!r}; it must be train, val or test")
        file = text_as_name(cells[0])
        below = f"{path.parent.relative_to(root).as_posix()}/"  # of the list; a file may be beside its folder
        try:
            check_within(posixpath.normpath(below + file) if file[:1] not in "/\\" else file)
        except ValueError as error:
            raise DataError(f"{place}: {error}; the folder is {root}") from None
        file = file if os.path.isfile(path.parent / file) else file.replace("\\", "/")
        rows.append(_Row(place, path.parent, file, part, tuple(cells[i] for i in learnt)))
    return _List(path, tuple(header[i] for i in learnt), rows)


def _rows_of_parts(lists: Mapping[str | None, _List], root: Path) -> dict[str, list[_Row]]:
    """Part -> its rows. Without a column `split` and without a list for each part, folders may be parts."""
    rows: dict[str, list[_Row]] = {}
    for part, table in lists.items():
        with_split = table.rows[0].part is not None
        if part is not None and with_split:
            raise DataError(f"{table.path} is the list of one part and has a column {SPLIT}: leave it out")
        folders = {} if part is not None or with_split else folders_of_parts(
            dict.fromkeys(row.file.split("/")[0] for row in table.rows if "/" in row.file), str(table.path))
        of_folder = {name: part for part, name in folders.items()} if TRAIN in folders and len(folders) > 1 else {}
        for row in table.rows:
            top = row.file.split("/")[0]
            if of_folder and top not in of_folder:
                raise DataError(f"{row.place} is in none of the folders {', '.join(of_folder)}, which are the parts of "
                                f"other rows; give all rows a column {SPLIT}")
            rows.setdefault(part or row.part or of_folder.get(top) or TRAIN, []).append(row)
    if TRAIN not in rows:
        raise DataError(f"{root} has no training image, only those of {', '.join(rows)}")
    return rows


def _columns(lists: Mapping[str | None, _List]) -> tuple[str, ...]:
    first, *others = lists.values()
    for other in others:
        if other.columns != first.columns:
            raise DataError(f"{first.path} has the columns {', '.join(first.columns)}, {other.path} "
                            f"{', '.join(other.columns)}; they must be the same, in the same order")
    return first.columns


def _kind(columns: Sequence[str], rows: Sequence[_Row]) -> Literal["labels", "numbers"]:
    """What the columns are, see `open_labels`."""
    cells = [(row.place, name, cell) for row in rows for name, cell in zip(columns, row.cells)]
    texts = [each for each in cells if not _is_number(each[2])]
    if len(columns) == 1 and (len(texts) == len(cells) or any(SEPARATOR in cell for _, _, cell in cells)):
        return "labels"
    if texts:
        place, name, cell = texts[0]
        raise DataError(f"{place}: the column {name} has {cell!r}, which is no number; numbers to predict stand in "
                        f"every row and column, labels in a single column, separated by {SEPARATOR}, and a label that "
                        f"is a number ends with {SEPARATOR}")
    for place, name, cell in cells:
        if not abs(float(cell)) <= _LARGEST:
            raise DataError(f"{place}: the column {name} has {cell}, which is no finite number; leave the row out")
    if len(columns) == 1 and columns[0].lower() in _OF_CLASSES and all(float(cell) % 1 == 0 for _, _, cell in cells):
        raise DataError(f"{cells[0][0]}: the column {columns[0]} has whole numbers alone, which may be names or "
                        f"numbers to predict; end each name with {SEPARATOR}, or call the column by what it measures")
    return "numbers"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _once(rows: Sequence[_Row], problems: Problems) -> list[_Row]:
    """The rows without those that say the same of the same file again; DataError if they say something else."""
    known: dict[tuple[Path, str], _Row] = {}
    for row in rows:
        first = known.setdefault((row.folder, posixpath.normpath(row.file)), row)
        if first is row:
            continue
        if first.cells != row.cells:
            raise DataError(f"{first.place} and {row.place} say different things of {row.file}")
        problems.add("rows that repeat another", row.file)
    return list(known.values())


def _labels(row: _Row, problems: Problems) -> list[str]:
    labels = [name for each in row.cells[0].split(SEPARATOR) if (name := each.strip())]
    if len(set(labels)) < len(labels):
        problems.add("images with a label twice", row.file)
    return labels


def _files(part: str, rows: Sequence[_Row], labels: np.ndarray, problems: Problems) -> FileSource:
    """The files of a part that are there."""
    sizes = []
    for row in rows:
        path = row.folder / row.file
        sizes.append(path.stat().st_size if os.path.isfile(path) else -1)
        if sizes[-1] < 0:
            problems.lose(str(path), row.file)
    there = np.array(sizes, np.int64) >= 0
    if not there.any():
        raise DataError(f"none of the {len(rows)} files of the part {part}, such as {rows[0].file}, is in "
                        f"{rows[0].folder}")
    files = tuple(row.file for row, exists in zip(rows, there) if exists)
    return FileSource(str(rows[0].folder), files, np.array(sizes, np.int64)[there], labels[there])


def _count_unlisted(sources: Mapping[str, FileSource], problems: Problems) -> None:
    """Counts the images beside listed ones that no row names."""
    listed = {os.path.normpath(source.name(i)) for source in sources.values() for i in range(len(source))}
    for folder in sorted({os.path.dirname(path) for path in listed}):
        for name in sorted(os.listdir(folder or ".")):
            if name.lower().endswith(PICTURES) and os.path.join(folder, name) not in listed:
                problems.add("images that no row names", name)
