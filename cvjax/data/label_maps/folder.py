"""Folders of images and of label maps, as SegNet's authors publish CamVid."""

import os
import re
from pathlib import Path

from cvjax.data.dataset import Dataset
from cvjax.data.label_maps.files import existing_folder, named_classes, photos_dataset
from cvjax.data.label_maps.labels import IGNORE, Labels
from cvjax.data.parts import TEST, TRAIN, VALIDATION, names_of_parts, part_of
from cvjax.data.sources.folder import image_files
from cvjax.errors import DataError

# Brostow et al. 2009 in the eleven classes of Badrinarayanan et al. 2017 (SegNet, https://arxiv.org/abs/1511.00561),
# numbered as in the label maps that its authors publish, where 11 is void.
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
_CAMVID_VOID = 11
_CAMVID_FILE = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_")  # its four videos


def open_label_map_folder(place: str, *, seed: int, ignore_label: int | None = None,
                          mask_values: tuple[int, ...] = ()) -> Dataset:
    """PATH with images in `train`, `val` and `test`, and label maps in `trainannot`, `valannot` and `testannot`; or
    PATH with `images` and `labels`. Other names of parts (see `cvjax.data.parts`) do as well: `Valid`, `Validannot`.

    An image and its label map have the same name except for the ending. Classes are the lines of PATH/classes.txt;
    without it, CamVid's are known, and others are called by numbers. For parts, arguments and errors see
    `photos_dataset`.
    """
    root = existing_folder(place)
    ignored: list[str] = []
    folders = {name.lower(): name for name in sorted(os.listdir(root)) if (root / name).is_dir()}
    maps = {name: folders.get(f"{lowered}annot") for lowered, name in folders.items() if part_of(name)}
    if alone := [name for name, beside in maps.items() if beside is None]:
        ignored.append(f"folders without label maps beside them: {', '.join(alone)}")
    parts = names_of_parts([name for name in maps if name not in alone], str(root))
    pairs = {part: _pair(root, parts[part], str(maps[parts[part]]), ignored) for part in (TRAIN, VALIDATION, TEST)
             if part in parts}
    if not pairs and (root / "images").is_dir() and (root / "labels").is_dir():
        pairs = {"train": _pair(root, "images", "labels", ignored)}
    if "train" not in pairs:
        raise DataError(f"{root} has no pictures with label maps: there must be folders train and trainannot, or "
                        "images and labels")
    names = named_classes(root)
    camvid = names is None and all(_CAMVID_FILE.match(os.path.basename(image)) for image, _ in pairs["train"])
    if camvid and not mask_values:
        names, ignore_label = CAMVID, _CAMVID_VOID if ignore_label is None else ignore_label
    return photos_dataset(root, pairs, names, seed=seed, meaning=Labels(IGNORE, ignore_label, mask_values),
                          ignored=ignored)


def _pair(root: Path, images: str, maps: str, ignored: list[str]) -> list[tuple[str, str]]:
    """Pairs of names below `root` that differ only in the folder and the ending; the others are counted."""
    def named(folder: str) -> dict[str, str]:
        files = image_files(root / folder)
        return {os.path.splitext(os.path.relpath(file, root / folder))[0]: os.path.relpath(file, root)
                for file in files}

    first, second = named(images), named(maps)
    for own, other, what in ((first, second, "without a label map"), (second, first, "without a picture")):
        if alone := [own[name] for name in own if name not in other]:
            ignored.append(f"{len(alone)} {what}, such as {alone[0]}")
    return [(first[name], second[name]) for name in first if name in second]
