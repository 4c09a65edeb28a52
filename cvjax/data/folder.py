"""Folders of images: PATH/<class>/*.jpg, PATH/{train,test}/<class>/*.jpg, or images without classes."""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cvjax.data.dataset import (
    ArraySource,
    Dataset,
    Source,
    check_known_classes,
    check_labelled_alike,
    fingerprint,
    split_positions,
)
from cvjax.data.decode import DecodeError, decode
from cvjax.data.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
TEST_FOLDERS = ("test", "val")


@dataclasses.dataclass(frozen=True)
class FileSource:
    """Image files, read when asked for; always three channels.

    Attributes:
        root: the folder that the names are relative to.
        files: names.
        sizes: bytes of each, int64 `(N,)`.
        labels: int32 `(N,)`, -1 where unlabelled.
    """

    root: str
    files: tuple[str, ...]
    sizes: np.ndarray
    labels: np.ndarray
    channels: int = 3

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint(["\n".join(self.files), self.sizes, self.labels])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        with open(self.name(index), "rb") as file:
            return {"image": file.read(), "label": int(self.labels[index]), "index": int(index)}

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.files[index])

    def take(self, positions: np.ndarray) -> "FileSource":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        files = tuple(self.files[i] for i in positions)
        return dataclasses.replace(
            self, files=files, sizes=self.sizes[positions], labels=self.labels[positions]
        )


def open_folder(path: str, *, seed: int = 0, cache: bool = False) -> Dataset:
    """Opens a folder of JPEG, PNG or WebP files.

    `PATH/train` and `PATH/test` (or else `PATH/val`) are the splits when they exist; otherwise a fifth of
    each class is held out, the same one for the same `seed`. Each folder in a split is a class, searched to
    any depth; classes are sorted by name. Images that lie directly in PATH or PATH/train, where no folder has
    any, are unlabelled. Hidden and other files and empty folders are left out, and counted in `ignored`.

    Args:
        cache: decode every file once, into memory; all must have one size. Those that cannot be decoded are
            dropped, and named in the sources' `dropped`.

    Raises:
        DataError: when there is nothing to read, or the splits do not fit each other.
    """
    return hold_test(*list_folder(path), seed=seed, cache=cache)


def list_folder(path: str) -> tuple[FileSource, FileSource | None, tuple[str, ...], str]:
    """What `open_folder` finds before it holds anything out: `(train, test or None, class names, ignored)`."""
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"no such folder: {path}")
    ignored = collections.Counter()
    train_root, test_root = _split_roots(root, ignored)
    class_names, train = _scan(train_root, ignored)
    test = _relabel(*_scan(test_root, ignored), class_names) if test_root else None
    if test is not None:
        check_labelled_alike(train.labels, test.labels, path)
    return train, test, class_names, in_words(ignored)


def hold_test(train: Source, test: Source | None, class_names: tuple[str, ...], ignored: str, *, seed: int,
              cache: bool) -> Dataset:
    """The data set of colour images, with a test part held out of `train` where there is none; see `open_folder`."""
    if test is None:
        kept, held = split_positions(train.labels, class_names, seed)
        train, test = train.take(kept), train.take(held)
    if cache:
        train, test = decode_all(train), decode_all(test)
        if train.images.shape[1:] != test.images.shape[1:]:
            raise DataError(
                f"cache: training images are {train.images.shape[1:]}, test images {test.images.shape[1:]}"
            )
    return Dataset(train, test, class_names, channels=3, ignored=ignored)


def image_files(path: str | Path) -> list[str]:
    """The image files of a folder, to any depth, by name; folder names mean nothing.

    Raises:
        DataError: when there is no such folder, or no image in it.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"no such folder: {path}")
    files = [os.path.join(root, name) for name, _ in _images_below(root, "", collections.Counter())]
    if not files:
        raise no_images(path)
    return files


def in_words(ignored: collections.Counter) -> str:
    """What was left out and how often, such as "2 .txt files, 1 hidden entries"; empty for nothing."""
    return ", ".join(f"{count} {what}" for what, count in sorted(ignored.items()) if count)


def no_images(where: str | os.PathLike, found: str = "") -> DataError:
    """What to raise where there is no image file; `found`: what is there instead."""
    return DataError(f"no images ({', '.join(EXTENSIONS)}) in {where}{f'; found {found}' * bool(found)}")


def _split_roots(root, ignored):
    """`(training folder, test folder or None)`."""
    tests = [root / name for name in TEST_FOLDERS if (root / name).is_dir()]
    if not (root / "train").is_dir():
        if tests:
            raise DataError(f"{root} has {tests[0].name} but no train folder")
        return root, None
    test = tests[0] if tests else None
    others = {entry.name for entry in os.scandir(root)} - {"train", test.name if test else ""}
    if others:
        ignored["entries beside the split folders"] += len(others)
    return root / "train", test


def _scan(root, ignored) -> tuple[tuple[str, ...], FileSource]:
    """Lists one split: its class names, empty when unlabelled, and its files."""
    entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    loose = [(entry.name, entry.stat().st_size) for entry in entries if _is_image(entry, ignored)]
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    classes = {entry.name: list(_images_below(entry.path, f"{entry.name}/", ignored)) for entry in folders}
    empty = [name for name, files in classes.items() if not files]
    if len(empty) == len(classes) and not loose:
        raise no_images(root, in_words(ignored))
    ignored["folders without images"] += len(empty)
    class_names = tuple(name for name in classes if classes[name])
    if class_names:
        ignored["images outside class folders"] += len(loose)
    groups = [classes[name] for name in class_names] or [loose]
    labels = np.repeat(np.arange(len(groups)) if class_names else [-1], [len(group) for group in groups])
    files, sizes = zip(*(file for group in groups for file in group), strict=True)
    return class_names, FileSource(str(root), files, np.array(sizes, np.int64), labels.astype(np.int32))


def _images_below(folder, prefix, ignored) -> Iterator[tuple[str, int]]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if _is_image(entry, ignored):
            yield prefix + entry.name, entry.stat().st_size
        elif entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _images_below(entry.path, f"{prefix}{entry.name}/", ignored)
        elif entry.is_dir() and not entry.name.startswith("."):  # it could lead back here
            ignored["linked folders inside others"] += 1


def _is_image(entry, ignored) -> bool:
    """Whether a directory entry is an image by its name; if it is left out, counts it."""
    if entry.name.startswith("."):
        ignored["hidden entries"] += 1
    elif entry.is_file():
        extension = os.path.splitext(entry.name)[1].lower()
        if extension in EXTENSIONS:
            return True
        ignored[f"{extension or 'extensionless'} files"] += 1
    elif entry.is_symlink() and not os.path.exists(entry.path):
        ignored["broken links"] += 1
    return False


def _relabel(names, source, class_names) -> FileSource:
    """A test split's records, labelled by the training split's classes."""
    if not names or not class_names:
        return source
    check_known_classes(names, class_names, source.root)
    labels = np.array([class_names.index(name) for name in names], np.int32)[source.labels]
    return dataclasses.replace(source, labels=labels)


def decode_all(source: Source) -> ArraySource:
    """Decodes every record into one array, leaving out those that cannot be decoded."""
    from tqdm import tqdm

    images, dropped, kept = None, [], []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda i: _try_decode(source, i), range(len(source)))
        for i, result in enumerate(
            tqdm(results, total=len(source), desc=f"decode {source.root}", leave=False)
        ):
            if isinstance(result, str):
                dropped.append((source.name(i), result))
                continue
            if images is None:
                images = np.empty((len(source), *result.shape), np.uint8)
            if result.shape != images.shape[1:]:
                pool.shutdown(wait=False, cancel_futures=True)
                raise DataError(
                    f"cache: images must have one size, got {images.shape[1:]} in {source.name(kept[0])} "
                    f"and {result.shape} in {source.name(i)}"
                )
            images[len(kept)] = result
            kept.append(i)
    if not kept:
        raise DataError(
            f"cache: none of the {len(source)} images in {source.root} can be decoded: {dropped[0][1]}"
        )
    return ArraySource(images[: len(kept)], source.labels[kept], tuple(dropped))


def _try_decode(source, index) -> np.ndarray | str:
    """The pixels, or the reason why there are none."""
    try:
        return decode(source[index]["image"], source.channels)
    except (DecodeError, OSError) as error:
        return str(error)
