"""One door to data sets with label maps: `open_segmentation("scenes" | "folder:PATH" | "voc:PATH" | "tfds:NAME")`.

A record's `label_map` is uint8 `(H, W)` of the image's size: classes from 0, and 255 where a pixel does not count.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cvjax.data.dataset import CLASS_LIST, Dataset, Source, fingerprint, listed_classes, split_positions
from cvjax.data.decode import DecodeError, LazyImage, decode_label_map
from cvjax.data.errors import DataError
from cvjax.data.folder import image_files
from cvjax.data.scenes import open_scenes, scene_numbers
from cvjax.data.segmentation_crops import IGNORE
from cvjax.data.tfds_records import open_tfds_label_maps

FORMS = "scenes, scenes:TRAIN,TEST,SIDE, folder:PATH, voc:PATH, tfds:NAME"

# Brostow et al. 2009 in the eleven classes of Badrinarayanan et al. 2017 (SegNet, https://arxiv.org/abs/1511.00561),
# numbered as in the label maps that its authors publish, where 11 is void.
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
_CAMVID_VOID = 11
_CAMVID_FILE = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_")  # its four videos
# Everingham et al. 2010.
VOC = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
       "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")


@dataclasses.dataclass(frozen=True)
class LabelledPhotos:
    """Image files and PNG files of label maps, read when asked for.

    Attributes:
        root: the folder that the names are relative to.
        files: names of `(image, label map)`.
        sizes: bytes of both, int64 `(N, 2)`.
        classes: labels are below this, or 255.
        ignore_label: a label that becomes 255; None for none.
    """

    root: str
    files: tuple[tuple[str, str], ...]
    sizes: np.ndarray
    classes: int = IGNORE
    ignore_label: int | None = None
    channels: int = 3
    labels: None = None  # of whole images: there are none

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint(["\n".join(map("\t".join, self.files)), self.sizes, str((self.classes, self.ignore_label))])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        image, label_map = (Path(self.root, name).read_bytes() for name in self.files[index])
        return {"image": image, "label": -1, "index": int(index),
                "label_map": read_labels(label_map, self.classes, self.ignore_label)}

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.files[index][0])

    def take(self, positions: np.ndarray) -> "LabelledPhotos":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        return dataclasses.replace(self, files=tuple(self.files[i] for i in positions), sizes=self.sizes[positions])


@dataclasses.dataclass(frozen=True)
class WithLabelMaps:
    """Records whose label map is still a PNG's bytes, as TFDS has them; the fields are those of `LabelledPhotos`."""

    source: Any
    classes: int = IGNORE
    ignore_label: int | None = None
    labels: None = None

    @property
    def channels(self) -> int:
        return self.source.channels

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint([self.source.fingerprint, str((self.classes, self.ignore_label))])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        record = self.source[index]
        return record | {"label_map": read_labels(record["label_map"], self.classes, self.ignore_label)}

    def name(self, index: int) -> str:
        return self.source.name(index)

    def take(self, positions: np.ndarray) -> "WithLabelMaps":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        return dataclasses.replace(self, source=self.source.take(positions))


def open_segmentation(spec: str, *, seed: int = 0, ignore_label: int | None = None) -> Dataset:
    """Opens the data set that `spec` names.

    - `scenes`, `scenes:TRAIN,TEST,SIDE`: painted digits, see `cvjax.data.scenes`; so many, of so many pixels a side.
    - `folder:PATH`: images in `train`, `val` and `test`, label maps of the same names in `trainannot`, `valannot` and
      `testannot` (as SegNet's authors publish CamVid); or in `images` and `labels`, of which a fifth is held out.
      Classes are named by the lines of `classes.txt`; without it CamVid's are known, others are called by numbers.
    - `voc:PATH`: `JPEGImages`, `SegmentationClass`, and lists of names in `ImageSets/Segmentation`.
    - `tfds:NAME`: features `image` and `segmentation_mask`, `segmentation_label` or `label`, itself an image.

    The test part is `test`, and `val` is then the validation part; without a `test` it is `val`. Images without a label
    map, or the other way round, are left out and counted in `ignored`.

    Args:
        seed: decides a held-out part where the data set brings none; of `scenes`, the scenes.
        ignore_label: label that says of a pixel that it does not count, besides 255. CamVid's 11 is known.

    Raises:
        DataError: with what was asked and what is allowed. A label map that is damaged or has labels beyond the classes
            is a record that cannot be read.
    """
    if ignore_label is not None and not 0 <= ignore_label < IGNORE:
        raise DataError(f"the label to ignore must lie in [0, {IGNORE}), got {ignore_label}")
    kind, _, place = spec.partition(":")
    if kind == "scenes":
        return _open_scenes(spec, seed, ignore_label)
    if not place or kind not in ("folder", "voc", "tfds"):
        raise DataError(f"unknown data set {spec!r} with label maps; allowed: {FORMS}")
    opened = {"folder": _open_folder, "voc": _open_voc, "tfds": _open_tfds}[kind]
    return opened(place, seed, ignore_label)


def read_labels(encoded: bytes | np.ndarray, classes: int, ignore_label: int | None) -> np.ndarray:
    """A label map uint8 `(H, W)` with labels below `classes` and 255, which takes the place of `ignore_label`.

    Raises:
        DecodeError: for other labels, and for what is no label map.
    """
    labels = decode_label_map(encoded)
    if ignore_label is not None:
        labels = np.where(labels == ignore_label, np.uint8(IGNORE), labels)
    beyond = labels[(labels >= classes) & (labels != IGNORE)]
    if beyond.size:
        raise DecodeError(f"label {beyond.max()} in a label map of {classes} classes, 0 to {classes - 1} and {IGNORE}")
    return labels


def image_sizes(source: Source) -> np.ndarray:
    """Height and width of each image, from its header: int64 `(N, 2)`; 1 x 1 where it cannot be read."""
    def size(index: int) -> tuple[int, int]:
        try:
            with LazyImage(source[index]["image"], source.channels) as image:
                return image.height, image.width
        except (DecodeError, OSError):
            return 1, 1

    return np.array(_for_each(source, size, "sizes"), np.int64).reshape(-1, 2)


def label_maps(source: Source) -> Iterator[np.ndarray]:
    """The label maps of a source in order, uint8 `(H, W)`, without those that cannot be read."""
    for i in range(len(source)):
        try:
            yield source[i]["label_map"]
        except (DecodeError, OSError):
            continue  # counted once batches are made


def _open_scenes(spec, seed, ignore_label):
    if ignore_label is not None:
        raise DataError(f"all pixels of scenes count: there is no label to ignore, got {ignore_label}")
    return open_scenes("label_map", **scene_numbers(spec), seed=seed)


def _open_folder(place, seed, ignore_label):
    root, ignored = _folder(place), []
    pairs = {part: _pair(root, part, f"{part}annot", ignored) for part in ("train", "val", "test")
             if (root / part).is_dir() and (root / f"{part}annot").is_dir()}
    if not pairs and (root / "images").is_dir() and (root / "labels").is_dir():
        pairs = {"train": _pair(root, "images", "labels", ignored)}
    if "train" not in pairs:
        raise DataError(f"{root} has no pictures with label maps: there must be folders train and trainannot, or "
                        "images and labels")
    names = _named_classes(root)
    if names is None and all(_CAMVID_FILE.match(os.path.basename(image)) for image, _ in pairs["train"]):
        names, ignore_label = CAMVID, _CAMVID_VOID if ignore_label is None else ignore_label
    return _dataset(root, pairs, names, seed, ignore_label, ignored)


def _open_voc(place, seed, ignore_label):
    root, ignored = _folder(place), []
    lists = root / "ImageSets" / "Segmentation"
    if not (lists / "train.txt").is_file():
        raise DataError(f"{root} has no list of training pictures: there must be a file {lists / 'train.txt'}")
    pairs = {}
    for part in ("train", "val", "test"):
        listed = (lists / f"{part}.txt").read_text().split() if (lists / f"{part}.txt").is_file() else []
        both = [(f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png") for name in listed]
        found = [pair for pair in both if all((root / name).is_file() for name in pair)]
        if len(found) < len(both):
            lost = next(pair for pair in both if pair not in found)
            ignored.append(f"{len(both) - len(found)} of {part}.txt without picture or label map, such as {lost[1]}")
        if found or part == "train":
            pairs[part] = found
    return _dataset(root, pairs, _named_classes(root) or VOC, seed, ignore_label, ignored)


def _open_tfds(name, seed, ignore_label):
    parts = open_tfds_label_maps(name)
    train, test = (WithLabelMaps(part, ignore_label=ignore_label) for part in parts)
    classes = _count_classes(train, f"tfds:{name}")
    train, test = (dataclasses.replace(part, classes=classes) for part in (train, test))
    return Dataset(train, test, tuple(map(str, range(classes))), train.channels)


def _dataset(root, pairs, names, seed, ignore_label, ignored):
    if not pairs["train"]:
        raise DataError(f"{root} has no training picture with a label map{'; ' if ignored else ''}{', '.join(ignored)}")
    if names is not None and ignore_label == len(names) - 1:
        names = names[:-1]  # the last class is no class then
    parts = {part: LabelledPhotos(str(root), tuple(found), _bytes(root, found), ignore_label=ignore_label)
             for part, found in pairs.items() if found}
    if names is None:
        names = tuple(map(str, range(_count_classes(parts["train"], str(root)))))
    parts = {part: dataclasses.replace(source, classes=len(names)) for part, source in parts.items()}
    train, test, validation = parts["train"], parts.get("test"), parts.get("val")
    if test is None:
        test, validation = validation, None
    if test is None:
        kept, held = split_positions(np.zeros(len(train), int), ("of pictures",), seed)
        train, test = train.take(kept), train.take(held)
    return Dataset(train, test, names, channels=3, ignored="; ".join(ignored), validation=validation)


def _folder(place):
    root = Path(place).expanduser()
    if not root.is_dir():
        raise DataError(f"no such folder: {place}")
    return root


def _pair(root, images, maps, ignored):
    """Pairs of names below `root` that are the same but for the folder and the ending; the others are counted."""
    def named(folder):
        files = image_files(root / folder)
        return {os.path.splitext(os.path.relpath(file, root / folder))[0]: os.path.relpath(file, root)
                for file in files}

    first, second = named(images), named(maps)
    for own, other, what in ((first, second, "without a label map"), (second, first, "without a picture")):
        if alone := [own[name] for name in own if name not in other]:
            ignored.append(f"{len(alone)} {what}, such as {alone[0]}")
    return [(first[name], second[name]) for name in first if name in second]


def _named_classes(root):
    """The lines of `classes.txt`; None where there is no such file."""
    names = listed_classes(root)
    if names is not None and (not 2 <= len(names) <= IGNORE or len(set(names)) < len(names)):
        raise DataError(f"{root / CLASS_LIST} must name 2 to {IGNORE} classes, one a line and each once; it has "
                        f"{len(names)}, {len(set(names))} different")
    return names


def _count_classes(source, what):
    """One more than the greatest label of a source."""
    def greatest(index):
        try:
            labels = source[index]["label_map"]
        except (DecodeError, OSError):
            return -1
        return int(labels[labels != IGNORE].max(initial=0)) if (labels != IGNORE).any() else -1

    classes = max(_for_each(source, greatest, "classes")) + 1
    if classes < 2:
        raise DataError(f"{what}: its training label maps have {classes} classes, there must be at least two")
    return classes


def _for_each(source, function: Callable[[int], Any], what) -> list:
    from tqdm import tqdm

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(function, range(len(source)))
        return list(tqdm(found, total=len(source), desc=what, leave=False, disable=len(source) < 1000))


def _bytes(root, pairs):
    return np.array([[(root / name).stat().st_size for name in pair] for pair in pairs], np.int64).reshape(-1, 2)
