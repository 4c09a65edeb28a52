"""Data sets for detection in the layout of PASCAL VOC: one XML file for each picture, and lists of names.

Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge", and its development kit.
"""

import collections
import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from cvjax.data.bad_files import BadFiles
from cvjax.data.box_annotations import UNKNOWN, Objects, Problems, mend
from cvjax.data.boxed_files import BoxedFiles, true_extents, unlabelled_files
from cvjax.data.dataset import CLASS_LIST, Dataset, listed_classes, split_positions
from cvjax.data.errors import DataError
from cvjax.data.folder import EXTENSIONS

# In the order of the challenge, which is alphabetical.
CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
           "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclasses.dataclass(frozen=True)
class _Annotation:
    """What one file says: height and width (0 where it does not), and its objects' names, difficulties and corners."""

    extent: tuple[int, int]
    names: tuple[str, ...]
    difficult: tuple[bool, ...]
    boxes: tuple[tuple[float, ...], ...]


def open_voc(path: str, *, seed: int = 0, validation: bool = False, max_bad: float = 0.01) -> Dataset:
    """Opens PATH with Annotations/*.xml, JPEGImages/* and ImageSets/Main/{train,val,trainval,test}.txt.

    With a list `test`, training has `trainval` (or `train` and `val`); without it, as in VOC 2012, `train` and `val`
    are the parts; where only one list is left a fifth of it is held out, the same one for the same `seed`. Boxes name
    pixels from 1 on and their last one, and become continuous: `x1 - 1, y1 - 1, x2, y2`. Classes are the lines of
    PATH/classes.txt, or else the names in the training part, by name. What is wrong with annotations is mended where
    it can be (see `cvjax.data.box_annotations`) and told in `ignored`.

    Args:
        validation: keep the list `val` as the validation part and train on `train`; there must be a `test` as well.
        max_bad: share of unreadable XML files, whose pictures are left out, past which it is an error.

    Raises:
        DataError: for a missing folder or list, an empty part, or too many unreadable files.
    """
    root = Path(path).expanduser()
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        if not (root / folder).is_dir():
            raise DataError(f"voc:{path} has no folder {folder}; it must be laid out as VOC: Annotations, JPEGImages, "
                            "ImageSets/Main")
    problems = Problems()
    parts = _parts(path, root / "ImageSets" / "Main", seed, validation, problems)
    pictures = _pictures(root / "JPEGImages")
    bad = BadFiles(len({name for names in parts.values() for name in names}), max_bad)
    annotations = {part: _read_all(root, names, bad) for part, names in parts.items()}
    classes = _classes(root, annotations["train"].values())
    sources = {part: _source(root, found, classes, pictures, problems) for part, found in annotations.items()}
    for part, source in sources.items():
        if not len(source):
            raise DataError(f"voc:{path}: the list of the {part} part names no picture that can be read")
    unread = f"{bad.count} unreadable annotations, whose pictures are left out: {_reasons(bad)}" if bad.count else ""
    return Dataset(sources["train"], sources["test"], classes, 3, "; ".join(filter(None, [unread, problems.words()])),
                   sources.get("validation"))


def _reasons(bad):
    return ", ".join(f"{name} ({reason})" for name, reason in list(bad.reasons.items())[:3]) + (
        ", ..." if bad.count > 3 else "")


def _parts(path, lists, seed, validation, problems) -> dict[str, list[str]]:
    """Names of the pictures of each part."""
    found = {file.stem: _read_list(file, problems) for file in sorted(lists.glob("*.txt"))
             if file.stem in ("train", "val", "trainval", "test")}
    if validation:
        if missing := {"train", "val", "test"} - set(found):
            raise DataError(f"voc:{path}: a validation part of its own needs the lists train, val and test; it has no "
                            f"{', '.join(sorted(missing))}")
        return {"train": found["train"], "validation": found["val"], "test": found["test"]}
    both = found.get("trainval") or [*dict.fromkeys(found.get("train", []) + found.get("val", []))]
    if not both:
        raise DataError(f"voc:{path}: ImageSets/Main has no list train.txt or trainval.txt with a name in it")
    if "test" in found:
        return {"train": both, "test": found["test"]}
    if found.get("train") and found.get("val"):
        return {"train": found["train"], "test": found["val"]}
    kept, held = split_positions(np.full(len(both), -1), (), seed)
    return {"train": [both[i] for i in kept], "test": [both[i] for i in held]}


def _read_list(file, problems) -> list[str]:
    words = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    if repeated := len(words) - len(set(words)):
        problems.add("names that a list repeats, taken once", file.name, repeated)
    return [*dict.fromkeys(words)]


def _pictures(folder) -> dict[str, str]:
    """File names by what is before the extension; of several the first kind of `EXTENSIONS`."""
    found = sorted((file for file in folder.iterdir() if file.suffix.lower() in EXTENSIONS),
                   key=lambda file: -EXTENSIONS.index(file.suffix.lower()))
    return {file.stem: file.name for file in found}


def _read_all(root, names, bad) -> dict[str, _Annotation]:
    annotations = {}
    for name in names:
        file = root / "Annotations" / f"{name}.xml"
        try:
            annotations[name] = _read(file)
        except (OSError, ElementTree.ParseError, ValueError) as error:
            bad.add(file.name, " ".join(str(getattr(error, "strerror", None) or error).split()))
    return annotations


def _read(file) -> _Annotation:
    top = ElementTree.parse(file).getroot()
    extent = tuple(int(float(top.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    objects = top.findall("object")
    boxes = []
    for thing in objects:
        corners = [thing.findtext(f"bndbox/{corner}") for corner in _CORNERS]
        if None in corners or not (thing.findtext("name") or "").strip():
            raise ValueError("an object without a name or a whole bndbox")
        boxes.append(tuple(map(float, corners)))
    return _Annotation(extent, tuple(thing.findtext("name").strip() for thing in objects),
                       tuple((thing.findtext("difficult") or "0").strip() not in ("0", "") for thing in objects),
                       tuple(boxes))


def _classes(root, annotations) -> tuple[str, ...]:
    listed = listed_classes(root)
    if listed is not None:
        if not listed or len(set(listed)) != len(listed):
            raise DataError(f"{root / CLASS_LIST} must name classes, one a line and each once, got {len(listed)} lines "
                            f"with {len(set(listed))} names")
        return listed
    names = {name for annotation in annotations for name in annotation.names}
    if not names:
        raise DataError(f"voc:{root}: the training part has no object, and there is no classes.txt to name classes")
    # A part of VOC, too, has VOC's labels.
    return CLASSES if len(names) > len(CLASSES) // 2 and names <= set(CLASSES) else tuple(sorted(names))


def _source(root, annotations, classes, pictures, problems) -> BoxedFiles:
    names, found = list(annotations), list(annotations.values())
    files = unlabelled_files(root / "JPEGImages", [pictures.get(name, f"{name}.jpg") for name in names])
    said = np.array([annotation.extent for annotation in found]).reshape(-1, 2)
    extents = true_extents(files, said, problems, names.__getitem__)
    label = {name: i for i, name in enumerate(classes)}
    called = [name for annotation in found for name in annotation.names]
    for name, count in sorted(collections.Counter(set_aside for set_aside in called if set_aside not in label).items()):
        problems.add(UNKNOWN, name, count)
    objects = Objects(np.array([box for annotation in found for box in annotation.boxes], np.float64).reshape(-1, 4),
                      np.array([label.get(name, -1) for name in called], int),
                      np.array([flag for annotation in found for flag in annotation.difficult], bool),
                      np.repeat(np.arange(len(found)), [len(annotation.names) for annotation in found]))
    return BoxedFiles(files, mend(objects, extents, names.__getitem__, problems, inclusive=True))
