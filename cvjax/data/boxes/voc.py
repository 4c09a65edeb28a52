"""Data sets for detection in the layout of PASCAL VOC: one XML file for each picture, and lists of names.

Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge", and its development kit.
"""

import collections
import dataclasses
import errno
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from cvjax.data.bad_files import BadFiles
from cvjax.data.boxes.annotations import UNKNOWN, Objects, side_of
from cvjax.data.boxes.files import BoxedFiles, boxed_files, joined, unlabelled_files
from cvjax.data.boxes.flags import read_flag
from cvjax.data.dataset import CLASS_LIST, Dataset, listed_classes, split_positions
from cvjax.data.problems import Problems
from cvjax.data.voc_lists import files_by_name, lists_of_parts, read_names
from cvjax.errors import DataError
from cvjax.storage import read_bytes

# In the order of the challenge, which is alphabetical.
CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
           "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_NAMED = 3  # unreadable annotations in a message
_MOST_BYTES = 2**22  # of an annotation: ten thousand objects


@dataclasses.dataclass(frozen=True)
class _Annotation:
    """The contents of one file: height and width (0 if it gives none), its objects' names, difficulties and corners."""

    extent: tuple[int, int]
    names: tuple[str, ...]
    difficult: tuple[bool, ...]
    boxes: tuple[tuple[float, ...], ...]


def open_voc(path: str, *, seed: int = 0, validation: bool = False, max_bad: float = 0.01) -> Dataset:
    """Opens PATH with Annotations/*.xml, JPEGImages/* and ImageSets/Main/{train,val,trainval,test}.txt.

    With a list `test`, training has `trainval` (or `train` and `val`). Without it, as in VOC 2012, `train` and `val`
    are the parts. If there is only one list, a fifth of it is held out, the same one for the same `seed`. Boxes name
    their first and last pixel, counted from 1, and become continuous: `x1 - 1, y1 - 1, x2, y2`. Classes are the lines
    of PATH/classes.txt, or else the names in the training part, by name. Mistakes in annotations are mended where
    possible (see `cvjax.data.boxes.annotations`) and reported in `ignored`.

    PATH+PATH joins several folders, such as VOC2007+VOC2012: training has `trainval` (or `train` and `val`) of each,
    and the test part is that of the folders with a list `test`, of which there must be one. Their classes.txt must be
    the same.

    Args:
        validation: keep the list `val` as the validation part and train on `train`; there must be a `test` as well, in
            one of several folders.
        max_bad: it is an error if more than this share of the XML files is unreadable; their pictures are left out.

    Raises:
        DataError: for a missing folder or list, an empty part, or too many unreadable files.
    """
    roots = _folders(path)
    problems = Problems()
    pictures = [files_by_name(root / "JPEGImages") for root in roots]
    annotated = [files_by_name(root / "Annotations", (".xml",)) for root in roots]
    lists = [_parts(path, root / "ImageSets" / "Main", seed, validation, problems, {*names, *files}, len(roots) == 1)
             for root, names, files in zip(roots, annotated, pictures)]
    bad = BadFiles(sum(len({name for names in parts.values() for name in names}) for parts in lists), max_bad)
    annotations = [{part: _read_all(root, names, files, bad, problems, len(roots) == 1)
                    for part, names in parts.items()} for root, parts, files in zip(roots, lists, annotated)]
    classes = _classes(path, roots, [each for parts in annotations for each in parts["train"].values()])
    sources = {part: joined([_source(root, parts[part], classes, files, problems)
                             for root, parts, files in zip(roots, annotations, pictures)]) for part in annotations[0]}
    for part, source in sources.items():
        if not len(source):
            raise DataError(f"voc:{path}: the list of the {part} part names no picture that can be read")
    more = ", ..." * (bad.count > _NAMED)
    unread = (f"{bad.count} unreadable annotations, whose pictures are left out: {bad.examples(_NAMED)}{more}"
              if bad.count else "")
    return Dataset(sources["train"], sources["test"], classes, 3, "; ".join(filter(None, [unread, problems.words()])),
                   sources.get("validation"), lost=tuple(problems.lost))


def _folders(path) -> list[Path]:
    """The folders that PATH or PATH+PATH names; a folder may have a + in its own name."""
    names = [path] if Path(path).expanduser().is_dir() else path.split("+")
    for name in names:
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            if not (Path(name).expanduser() / folder).is_dir():
                raise DataError(f"voc:{name} has no folder {folder}; it must be laid out as VOC: Annotations, "
                                "JPEGImages, ImageSets/Main")
    return [Path(name).expanduser() for name in names]


def _parts(path, lists, seed, validation, problems, known, alone) -> dict[str, list[str]]:
    """Names of the pictures of each part; alone: whether there is no other folder, which may have the test part."""
    found = {part: _read_list(file, problems, known)
             for part, file in lists_of_parts(lists, f"voc:{path}").items()}
    if validation:
        if missing := {"train", "val", *(["test"] if alone else [])} - set(found):
            raise DataError(f"voc:{path}: a validation part of its own needs the lists train, val and test; it has no "
                            f"{', '.join(sorted(missing))}")
        return {"train": found["train"], "validation": found["val"], "test": found.get("test", [])}
    both = found.get("trainval") or [*dict.fromkeys(found.get("train", []) + found.get("val", []))]
    if not both:
        raise DataError(f"voc:{path}: ImageSets/Main has no list train.txt or trainval.txt with a name in it")
    if "test" in found or not alone:
        return {"train": both, "test": found.get("test", [])}
    if found.get("train") and found.get("val"):
        return {"train": found["train"], "test": found["val"]}
    kept, held = split_positions(np.full(len(both), -1), (), seed)
    return {"train": [both[i] for i in kept], "test": [both[i] for i in held]}


def _read_list(file, problems, known) -> list[str]:
    names = read_names(file, known)
    if repeated := len(names) - len(set(names)):
        problems.add("names that a list repeats, taken once", file.name, repeated)
    return [*dict.fromkeys(names)]


def _read_all(root, names, annotated, bad, problems, alone) -> dict[str, _Annotation]:
    annotations = {}
    for name in names:
        file = root / "Annotations" / f"{name}.xml"
        try:
            if name not in annotated:  # not looked for by its name, which may lead elsewhere
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
            file = root / "Annotations" / annotated[name]
            annotations[name] = _read(file, problems)
        except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # the last: an unknown encoding
            reason = str(getattr(error, "strerror", None) or error)
            bad.add(annotated.get(name, f"{name}.xml") if alone else str(file), reason)
    return annotations


class _PlainTree(ElementTree.TreeBuilder):
    """The elements of a file without declarations, by which a few bytes may stand for gigabytes."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has declarations (<!DOCTYPE), which no annotation needs")


def _read(file, problems) -> _Annotation:
    top = ElementTree.fromstring(read_bytes(file, most=_MOST_BYTES), ElementTree.XMLParser(target=_PlainTree()))
    height, width = (side_of(top.findtext(f"size/{side}"), side) for side in ("height", "width"))
    objects = top.findall("object")
    names, boxes = [], []
    for thing in objects:
        name = (thing.findtext("name") or "").strip()
        corners = [text for corner in _CORNERS if (text := thing.findtext(f"bndbox/{corner}")) is not None]
        if len(corners) < len(_CORNERS) or not name:
            raise ValueError("an object without a name or a whole bndbox")
        names.append(name)
        boxes.append(tuple(map(float, corners)))
    return _Annotation((height, width), tuple(names),
                       tuple(read_flag(thing.findtext("difficult"), "difficult", problems) for thing in objects),
                       tuple(boxes))


def _classes(path, roots, annotations) -> tuple[str, ...]:
    known = {listed_classes(root) for root in roots}
    if len(known) > 1:
        raise DataError(f"voc:{path}: the folders must have the same {CLASS_LIST}, or none")
    listed, root = known.pop(), roots[0]
    if listed is not None:
        if not listed or len(set(listed)) != len(listed):
            raise DataError(f"{root / CLASS_LIST} must name classes, one a line and each once, got {len(listed)} lines "
                            f"with {len(set(listed))} names")
        return listed
    names = {name for annotation in annotations for name in annotation.names}
    if not names:
        raise DataError(f"voc:{path}: the training part has no object, and there is no classes.txt to name classes")
    # A part of VOC, too, has VOC's labels.
    return CLASSES if len(names) > len(CLASSES) // 2 and names <= set(CLASSES) else tuple(sorted(names))


def _source(root, annotations, classes, pictures, problems) -> BoxedFiles:
    for name in (name for name in annotations if name not in pictures):
        problems.lose(str(root / "JPEGImages" / f"{name}.jpg"), name)
    names = [name for name in annotations if name in pictures]
    found = [annotations[name] for name in names]
    files = unlabelled_files(root / "JPEGImages", [pictures[name] for name in names])
    said = np.array([annotation.extent for annotation in found]).reshape(-1, 2)
    label = {name: i for i, name in enumerate(classes)}
    called = [name for annotation in found for name in annotation.names]
    for name, count in sorted(collections.Counter(set_aside for set_aside in called if set_aside not in label).items()):
        problems.add(UNKNOWN, name, count)
    objects = Objects(np.array([box for annotation in found for box in annotation.boxes], np.float64).reshape(-1, 4),
                      np.array([label.get(name, -1) for name in called], int),
                      np.array([flag for annotation in found for flag in annotation.difficult], bool),
                      np.repeat(np.arange(len(found)), [len(annotation.names) for annotation in found]))
    return boxed_files(files, objects, said, names.__getitem__, problems, inclusive=True)
