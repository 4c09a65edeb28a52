"""Data sets for detection in the layout of COCO: a JSON file of all boxes for each part, and folders of pictures.

Lin et al. 2014, "Microsoft COCO: Common Objects in Context" (https://arxiv.org/abs/1405.0312), and its data format.
"""

import collections
import json
from pathlib import Path

import numpy as np

from cvjax.data.box_annotations import UNKNOWN, Objects, Problems, mend
from cvjax.data.boxed_files import BoxedFiles, true_extents, unlabelled_files
from cvjax.data.dataset import Dataset, split_positions
from cvjax.data.errors import DataError


def open_coco(path: str, *, seed: int = 0) -> Dataset:
    """Opens PATH with [annotations/]instances_NAME.json and the pictures of each in PATH/NAME, PATH/images/NAME or
    PATH/images.

    The training part is the one whose NAME starts with `train`, the test part `val` (whose annotations COCO publishes),
    else `test`; without either a fifth of training is held out, the same one for the same `seed`. Boxes are corner and
    size, and continuous already; `iscrowd` makes a box difficult. Classes are the training file's categories, in the
    order of their ids. What is wrong with annotations is mended where it can be (see `cvjax.data.box_annotations`) and
    told in `ignored`.

    Raises:
        DataError: for missing files and for JSON that is not of this form.
    """
    root = Path(path).expanduser()
    found = {file.stem.removeprefix("instances_"): file for place in (root, root / "annotations")
             for file in sorted(place.glob("instances_*.json"))}
    train = next((name for name in found if name.startswith("train")), None)
    if train is None:
        raise DataError(f"coco:{path} has no file instances_train*.json, nor has its folder annotations; found "
                        f"{', '.join(found) or 'none'}")
    test = next((name for kind in ("val", "test") for name in found if name.startswith(kind)), None)
    problems = Problems()
    content = _read(found[train])
    categories = {category["id"]: str(category["name"]) for category in sorted(content["categories"],
                                                                              key=lambda entry: entry["id"])}
    source = _source(root, train, content, categories, problems)
    if test is None:
        kept, held = split_positions(source.labels, (), seed)
        parts = source.take(kept), source.take(held)
    else:
        other = _read(found[test])
        for category in other["categories"]:
            if categories.get(category["id"], category["name"]) != category["name"]:
                raise DataError(f"coco:{path}: category {category['id']} is {categories[category['id']]!r} in {train} "
                                f"and {category['name']!r} in {test}")
        parts = source, _source(root, test, other, categories, problems)
    return Dataset(*parts, tuple(categories.values()), 3, problems.words())


def _read(file) -> dict:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not readable JSON: {' '.join(str(error).split())[:200]}") from error
    for key, fields in (("images", ("id", "file_name")), ("annotations", ("image_id", "bbox", "category_id")),
                        ("categories", ("id", "name"))):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or key != "annotations" and not entries:
            raise DataError(f"{file} has no list {key!r}, or an empty one")
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or any(field not in entry for field in fields):
                raise DataError(f"{file}: {key}[{number}] must have {', '.join(fields)}")
    return content


def _source(root, part, content, categories, problems) -> BoxedFiles:
    images, given = content["images"], content["annotations"]
    names = [str(image["file_name"]) for image in images]
    files = unlabelled_files(_folder(root, part, names[0]), names)
    said = np.array([[image.get("height") or 0, image.get("width") or 0] for image in images])
    extents = true_extents(files, said, problems, names.__getitem__)
    place = {image["id"]: i for i, image in enumerate(images)}
    known = [annotation for annotation in given if annotation["image_id"] in place]
    if len(known) < len(given):
        problems.add("boxes of pictures that the file does not list, left out", part, len(given) - len(known))
    label = {category: i for i, category in enumerate(categories)}
    unknown = collections.Counter(a["category_id"] for a in known if a["category_id"] not in label)
    for category, count in sorted(unknown.items(), key=str):
        problems.add(UNKNOWN, f"category {category}", count)
    boxes = np.array([_corners(annotation["bbox"]) for annotation in known], np.float64).reshape(-1, 4)
    objects = Objects(boxes, np.array([label.get(a["category_id"], -1) for a in known], int),
                      np.array([bool(a.get("iscrowd", 0)) for a in known], bool),
                      np.array([place[a["image_id"]] for a in known], int))
    return BoxedFiles(files, mend(objects, extents, names.__getitem__, problems))


def _folder(root, part, first) -> Path:
    places = [root / part, root / "images" / part, root / "images"]
    folder = next((place for place in places if (place / first).is_file()), None)
    if folder is None:
        raise DataError(f"the picture {first} of {part} is in none of {', '.join(map(str, places))}")
    return folder


def _corners(box) -> tuple[float, float, float, float]:
    """x1 y1 x2 y2 of x1 y1 width height; not numbers where the box is not four of them."""
    try:
        x, y, width, height = map(float, box)
    except (TypeError, ValueError):
        return (np.nan,) * 4
    return x, y, x + width, y + height
