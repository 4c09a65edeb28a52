"""Data sets for detection in the layout of COCO: a JSON file of all boxes for each part, and folders of pictures.

Lin et al. 2014, "Microsoft COCO: Common Objects in Context" (https://arxiv.org/abs/1405.0312), and its data format.
"""

import collections
import json
import os
from pathlib import Path
from typing import Any, cast

import numpy as np

from cvjax.data.boxes.annotations import UNKNOWN, Objects, side_of
from cvjax.data.boxes.files import BoxedFiles, boxed_files, unlabelled_files
from cvjax.data.boxes.flags import read_flag
from cvjax.data.boxes.outlines import box_of
from cvjax.data.dataset import Dataset, split_positions
from cvjax.data.parts import TEST, TRAIN, VALIDATION, names_of_parts, part_in
from cvjax.data.problems import Problems
from cvjax.errors import DataError
from cvjax.storage import check_within, read_bytes
from cvjax.text import text_as_name

_WORDS = ("id", "image_id", "category_id", "file_name", "name")  # fields that are no boxes


def open_coco(path: str, *, seed: int = 0) -> Dataset:
    """Opens PATH with [annotations/]instances_NAME.json and the pictures of each in PATH/NAME, PATH/images/NAME,
    PATH/images or PATH, as `file_name` says below one of them; there a backslash counts as a slash.

    A NAME with a word of `cvjax.data.parts` in it is that part (`train2017`, `Valid`). The test part is `val` (whose
    annotations COCO publishes), else `test`; without either a fifth of training is held out, the same one for the same
    `seed`. Other files are named in `ignored`, and two of one part are refused. Boxes are corner and
    size, and continuous already; one that is not given is drawn around the object's outline. `iscrowd` makes a box
    difficult; `area`, that of the object's outline in COCO, says how large it counts in an evaluation. Classes are the
    training file's categories, in the order of their ids; without a list of them, the ids that its objects have.
    Mistakes in annotations are mended where possible (see `cvjax.data.boxes.annotations`), and reported in `ignored`.

    Raises:
        DataError: for missing files and for JSON that is not of this form.
    """
    root = Path(path).expanduser()
    found = {file.stem.removeprefix("instances_"): file for place in (root, root / "annotations")
             for file in sorted(place.glob("instances_*.json"))}
    parts = names_of_parts(found, f"coco:{path}", lambda name: part_in(name, f"coco:{path}"))
    if TRAIN not in parts:
        raise DataError(f"coco:{path} and its folder annotations have no file instances_train*.json; found "
                        f"{', '.join(found) or 'none'}")
    train, test = parts[TRAIN], parts.get(VALIDATION, parts.get(TEST))
    problems = Problems()
    for name in found:
        if name not in (train, test):
            problems.add("files of annotations that are not read", found[name].name)
    content = _read(found[train])
    categories = _categories(found[train], content, problems)
    source = _source(root, train, content, categories, problems)
    if test is None:
        kept, held = split_positions(source.labels, (), seed)
        train_part, test_part = source.take(kept), source.take(held)
    else:
        other = _read(found[test])
        for category in other.get("categories", []):
            if categories.get(category["id"], category["name"]) != category["name"]:
                raise DataError(f"coco:{path}: category {category['id']} is {categories[category['id']]!r} in {train} "
                                f"and {category['name']!r} in {test}")
        train_part, test_part = source, _source(root, test, other, categories, problems)
    return Dataset(train_part, test_part, tuple(categories.values()), 3, problems.words(), lost=tuple(problems.lost))


def _categories(file, content, problems) -> dict[Any, str]:
    """Names of classes by their ids, in the order of these."""
    listed = content.get("categories")
    if listed is None:
        ids = {annotation["category_id"] for annotation in content["annotations"]}
        if not ids:
            raise DataError(f"{file} has no list 'categories', and no annotation whose category it could be")
        problems.add("categories that no list names, called by their ids", file.name, len(ids))
        listed = [{"id": each, "name": each} for each in ids]
    if len({type(category["id"]) for category in listed}) > 1:
        raise DataError(f"{file}: ids of categories must be numbers only or words only")
    return {category["id"]: str(category["name"]) for category in sorted(listed, key=lambda entry: entry["id"])}


def _read(file) -> dict:
    try:
        content = json.loads(read_bytes(file))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is not readable JSON: {' '.join(str(error).split())[:200]}") from error
    for key, fields in (("images", ("id", "file_name")), ("annotations", ("image_id", "bbox", "category_id")),
                        ("categories", ("id", "name"))):
        entries = content.get(key) if isinstance(content, dict) else None
        if key == "categories" and entries is None:
            continue
        if not isinstance(entries, list) or key != "annotations" and not entries:
            raise DataError(f"{file} has no list {key!r}, or an empty one")
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or any(field not in entry and not (field == "bbox" and "segmentation" in
                                                                              entry) for field in fields):
                raise DataError(f"{file}: {key}[{number}] must have {', '.join(fields)}"
                                f"{' or segmentation' if key == 'annotations' else ''}")
            for field in fields:
                if field in _WORDS and (type(entry[field]) not in (int, float, str)):
                    raise DataError(f"{file}: {key}[{number}] must have a number or a word as {field}, got "
                                    f"{str(entry[field])[:40]!r}")
        _refuse_one_id(file, key, entries)
    for number, image in enumerate(content["images"]):
        try:
            for side in ("height", "width"):
                side_of(image.get(side), side)
            check_within(str(image["file_name"]))
        except ValueError as error:
            raise DataError(f"{file}: images[{number}]: {error}") from None
    return content


def _refuse_one_id(file, key, entries) -> None:
    """DataError if two pictures or categories have one id."""
    known: dict[Any, int] = {}
    for number, entry in enumerate(entries if key != "annotations" else ()):
        if (first := known.setdefault(entry["id"], number)) != number:
            raise DataError(f"{file}: {key}[{first}] and {key}[{number}] have the same id, {entry['id']!r}")


def _source(root, part, content, categories, problems) -> BoxedFiles:
    given, listed = content["annotations"], {image["id"] for image in content["images"]}
    folder, paths = _folder(root, part, [text_as_name(str(image["file_name"])) for image in content["images"]])
    images = []
    for image, path in zip(content["images"], paths):
        if path is None:
            problems.lose(str(folder / str(image["file_name"])), str(image["file_name"]))
        else:
            images.append(image)
    names = [path for path in paths if path is not None]
    files = unlabelled_files(folder, names)
    said = np.array([[side_of(image.get(side), side) for side in ("height", "width")] for image in images])
    place = {image["id"]: i for i, image in enumerate(images)}
    known = [annotation for annotation in given if annotation["image_id"] in place]
    for annotation in given:
        if annotation["image_id"] not in listed:
            problems.add("boxes of pictures that the file does not list, left out",
                         f"{part}, image_id {annotation['image_id']!r}")
    label = {category: i for i, category in enumerate(categories)}
    unknown = collections.Counter(a["category_id"] for a in known if a["category_id"] not in label)
    for category, count in sorted(unknown.items(), key=str):
        problems.add(UNKNOWN, f"category {category!r}", count)
    boxes = np.array([_corners(annotation) for annotation in known], np.float64).reshape(-1, 4)
    objects = Objects(boxes, np.array([label.get(a["category_id"], -1) for a in known], int),
                      np.array([read_flag(a.get("iscrowd"), "iscrowd", problems) for a in known], bool),
                      np.array([place[a["image_id"]] for a in known], int),
                      np.array([_area(a.get("area")) for a in known], np.float64))
    return boxed_files(files, objects, said, names.__getitem__, problems)


def _folder(root, part, names) -> tuple[Path, list[str | None]]:
    """Where most pictures of a part are, and the path of each below it, None if it is not there.

    DataError if none is in any of the places where they may be.
    """
    places = [root / part, root / "images" / part, root / "images", root]
    spellings = [dict.fromkeys((name, name.replace("\\", "/"))) for name in names]
    folder, found = places[0], cast(list[str | None], [None] * len(names))
    for place in places:
        here = [next((path for path in spelled if os.path.isfile(place / path)), None) for spelled in spellings]
        if here.count(None) < found.count(None):
            folder, found = place, here
        if None not in found:
            break
    if found.count(None) == len(names):
        raise DataError(f"none of the {len(names)} pictures of {part}, such as {names[0]}, is in "
                        f"{', '.join(map(str, places))}")
    return folder, found


def _area(stated) -> float:
    """An annotation's area in pixels; NaN if it is no finite number."""
    try:
        return float(stated) if np.isfinite(float(stated)) else np.nan
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _corners(annotation) -> tuple[float, float, float, float]:
    """x1 y1 x2 y2 of an object; NaN if its box is not four numbers."""
    if annotation.get("bbox") is None:
        return box_of(annotation.get("segmentation"))
    try:
        x, y, width, height = map(float, annotation["bbox"])
    except (TypeError, ValueError, OverflowError):
        return np.nan, np.nan, np.nan, np.nan
    return x, y, x + width, y + height
