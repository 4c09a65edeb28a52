"""Tar files of images, `tar:PATH`, such as WebDataset's, read where they lie and in any order.

The files of an example share folder and name up to the first dot: `0007.jpg` and `0007.cls`, whose text is the label,
or `0007.json`, whose `label` it is. Without these the folder that an image lies in is its class. Tar files do not say
where their members are, so all headers are read when a data set is opened; images are read when they are asked for.
"""

import collections
import dataclasses
import functools
import json
import os
import posixpath
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cvjax.data.dataset import (
    CLASS_LIST,
    Dataset,
    check_known_classes,
    check_labelled_alike,
    fingerprint,
    listed_classes,
)
from cvjax.data.errors import DataError
from cvjax.data.folder import EXTENSIONS, TEST_FOLDERS, hold_test, in_words, no_images


@dataclasses.dataclass(frozen=True)
class TarSource:
    """Images in tar files, read when asked for; always three channels.

    Attributes:
        root: the folder of the files.
        shards: their names.
        files: names of the images within.
        places: shard, first byte and number of bytes of each, int64 `(N, 3)`.
        labels: int32 `(N,)`, -1 where unlabelled.
    """

    root: str
    shards: tuple[str, ...]
    files: tuple[str, ...]
    places: np.ndarray
    labels: np.ndarray
    channels: int = 3

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint(["\n".join(self.files), "\n".join(self.shards), self.places, self.labels])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        shard, start, size = self.places[index]
        with open(os.path.join(self.root, self.shards[shard]), "rb") as file:
            file.seek(start)
            return {"image": file.read(size), "label": int(self.labels[index]), "index": int(index)}

    def name(self, index: int) -> str:
        return f"{os.path.join(self.root, self.shards[self.places[index, 0]])}: {self.files[index]}"

    def take(self, positions: np.ndarray) -> "TarSource":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        files = tuple(self.files[i] for i in positions)
        return dataclasses.replace(self, files=files, places=self.places[positions], labels=self.labels[positions])


def open_tar(path: str, *, seed: int = 0, cache: bool = False) -> Dataset:
    """Opens a tar file, or a folder of them.

    In a folder, files whose names begin with `train` are the training part, and with `test` (or else `val`) the test
    part; where none does, all are, and a fifth of each class is held out. Labels of .cls and .json files are numbers
    from 0 on, named by the lines of `classes.txt` beside the tar files, or by themselves; classes that are folders are
    sorted by name, and a single folder is none. Members that are no images are left out, and counted in `ignored`.

    Args:
        seed, cache: as for `open_folder`.

    Raises:
        DataError: when there is nothing to read, a file is damaged or compressed, or labels do not fit each other.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise DataError(f"no such file or folder: {path}")
    ignored: collections.Counter = collections.Counter()
    folder, shards_of = (root, _split(root, ignored)) if root.is_dir() else (root.parent, [[root.name]])
    parts = [_images_of(folder, shards, ignored) for shards in shards_of]
    numbered = parts[0][0].label is not None
    if any((images[0].label is not None) != numbered for images in parts):
        raise DataError(f"{path}: one of training and test files has labels as numbers, and the other has not")
    class_names = _class_names(folder, parts) if numbered else _folder_names(parts, path)
    known = {name: label for label, name in enumerate(class_names)}
    sources = []
    for images, shards in zip(parts, shards_of):
        labels = [image.label if numbered else known.get(image.folder, -1) for image in images]
        sources.append(TarSource(str(folder), tuple(shards), tuple(image.name for image in images),
                                 np.array([image[1:4] for image in images], np.int64), np.array(labels, np.int32)))
    train, test = sources if len(sources) == 2 else (*sources, None)
    if test is not None:
        check_labelled_alike(train.labels, test.labels, path)
    return hold_test(train, test, class_names, in_words(ignored), seed=seed, cache=cache)


def _split(root: Path, ignored: collections.Counter) -> list[list[str]]:
    """Names of the tar files of the training part, and of the test part if there is one."""
    names = sorted(entry.name for entry in os.scandir(root) if entry.name.endswith(".tar") and entry.is_file())
    if not names:
        raise DataError(f"no .tar files in {root}")
    train = [name for name in names if name.startswith("train")]
    test = next((found for start in TEST_FOLDERS if (found := [n for n in names if n.startswith(start)])), [])
    if not train and test:
        raise DataError(f"{root} has {test[0]} but no file that begins with train")
    if not train:
        return [names]
    ignored["other tar files"] += len(names) - len(train) - len(test)
    return [train, test] if test else [train]


class _Image(NamedTuple):
    """What headers say of an image."""

    name: str
    shard: int
    start: int
    size: int
    label: int | None

    @property
    def folder(self) -> str:
        return posixpath.basename(posixpath.dirname(self.name))


def _images_of(folder: Path, shards: Sequence[str], ignored: collections.Counter) -> list[_Image]:
    """The images of some tar files, in the files' order; all of them have a label, or none has."""
    found: list[_Image] = []
    for number, name in enumerate(tqdm(shards, desc=f"headers in {folder}", unit="file", delay=2, leave=False)):
        try:
            with tarfile.open(folder / name, "r:") as archive:
                found += _images_in(archive, number, os.path.getsize(folder / name), ignored)
        except (OSError, tarfile.TarError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{folder / name} cannot be read as a tar file that is not compressed: {reason}") from None
    which = f"{folder / shards[0]}{f' and {len(shards) - 1} more' * (len(shards) > 1)}"
    if not found:
        raise no_images(which, in_words(ignored))
    bare = [image.name for image in found if image.label is None]
    if 0 < len(bare) < len(found):
        raise DataError(f"{len(bare)} of {len(found)} images in {which} have no label, such as {bare[0]}")
    return found


def _images_in(archive: tarfile.TarFile, shard: int, size: int, ignored: collections.Counter) -> list[_Image]:
    found, labels = [], {}
    for member in archive:
        folder, base = posixpath.split(posixpath.normpath(member.name))
        key, extension = posixpath.join(folder, base.partition(".")[0]), posixpath.splitext(base)[1].lower()
        if not member.isfile() or base.startswith("."):
            ignored["hidden or linked members"] += not member.isdir()
        elif member.offset_data + member.size > size:
            raise tarfile.ReadError(f"it ends within {member.name}")
        elif extension in EXTENSIONS:
            found.append((key, posixpath.join(folder, base), member.offset_data, member.size))
        elif extension in (".cls", ".json"):
            labels[key] = _label(archive.extractfile(member).read(), extension, f"{archive.name}: {member.name}",
                                 labels.get(key))
        else:
            ignored[f"{extension or 'extensionless'} members"] += 1
    if archive.offset + tarfile.BLOCKSIZE > size:  # where the empty block that ends it should be
        raise tarfile.ReadError(f"it was cut short after {found[-1][1] if found else 'nothing'}")
    return [_Image(name, shard, start, length, labels.get(key)) for key, name, start, length in found]


def _label(text: bytes, extension: str, name: str, known: int | None) -> int | None:
    """The number that a member holds; `known`, of the example's other file, for a .json without a `label`."""
    try:
        value = json.loads(text).get("label", known) if extension == ".json" else int(text)
        if value is None or (type(value) is int and value >= 0):
            return value
    except (ValueError, AttributeError):
        pass
    raise DataError(f"{name} must hold a label, a number from 0 on; it holds {text[:40]!r}")


def _class_names(folder: Path, parts: Sequence[Sequence[_Image]]) -> tuple[str, ...]:
    """Names of the classes of images whose labels are numbers."""
    count = 1 + max(image.label for images in parts for image in images)
    names = listed_classes(folder)
    if names is None:
        return tuple(map(str, range(count)))
    if len(names) < count:
        raise DataError(f"{folder / CLASS_LIST} names {len(names)} classes, the labels need {count}")
    return names


def _folder_names(parts: Sequence[Sequence[_Image]], path: str) -> tuple[str, ...]:
    """Names of the classes of images whose labels are their folders; none where there is one folder alone."""
    train, *test = ({image.folder for image in images} for images in parts)
    if len(train) < 2:
        return ()
    if test and len(test[0]) > 1:
        check_known_classes(test[0], train, f"{path}: the test part")
    return tuple(sorted(train))
