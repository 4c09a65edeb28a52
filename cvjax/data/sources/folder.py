"""Folders of images: PATH/<class>/*.jpg, PATH/{train,test}/<class>/*.jpg, or images without classes.

At an address (see `cvjax.storage`) folders are what lies before the slashes in names of files.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cvjax.data.dataset import Dataset, check_known_classes, check_spellings, fingerprint, label_at
from cvjax.data.decode import MAX_BYTES, DecodeError
from cvjax.data.listings import keep_listing, kept_listing
from cvjax.data.parts import TRAIN, folders_of_parts, refuse_parts_as_classes
from cvjax.data.problems import Problems
from cvjax.data.sources.image_files import PICTURES, alike_names, arrange, hold_test, no_images
from cvjax.errors import DataError
from cvjax.storage import files_below, is_address, read_bytes
from cvjax.text import name_as_text, printable


@dataclasses.dataclass(frozen=True)
class FileSource:
    """Image files, read when asked for; always three channels.

    Attributes:
        root: the folder that the names are relative to, which may be an address.
        files: names.
        sizes: bytes of each, int64 `(N,)`.
        labels: int32 `(N,)`, -1 where unlabelled, or float32 `(N, K)`.
    """

    root: str
    files: tuple[str, ...]
    sizes: np.ndarray
    labels: np.ndarray
    channels: int = 3

    @property
    def fingerprint(self) -> str:
        return fingerprint(["\n".join(self.files), self.sizes, self.labels])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        if self.sizes[index] > MAX_BYTES:  # an address must not send it first
            raise DecodeError(f"has {self.sizes[index]:,} bytes, the limit is {MAX_BYTES:,}")
        content = read_bytes(self.name(index), most=MAX_BYTES)
        if 0 <= self.sizes[index] != len(content):
            raise DecodeError(f"has {len(content)} bytes, and had {self.sizes[index]} when the data set was listed")
        return {"image": content, "label": label_at(self.labels, index), "index": int(index)}

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.files[index])

    def take(self, positions: np.ndarray) -> "FileSource":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        files = tuple(self.files[i] for i in positions)
        return dataclasses.replace(
            self, files=files, sizes=self.sizes[positions], labels=self.labels[positions]
        )


def open_folder(path: str, *, seed: int = 0, cache: bool = False) -> Dataset:
    """Opens a folder of JPEG, PNG, WebP or TIFF files, which may be an address such as `s3://BUCKET/photos`.

    Folders in PATH whose names mean a part (see `cvjax.data.parts`: `train`, `Training`, `valid`, ...) are the parts:
    the test part is `test`, and `val` is then the validation part; without a `test` it is `val`. Without either a fifth
    of each class is held out, the same one for the same `seed`. Each folder in a part is a class, searched to any
    depth; classes are sorted by name. If no folder has images, those that lie directly in PATH or in the part are
    unlabelled. What is left out is counted and named in `ignored`: hidden and other files, folders without images, and
    what lies beside the parts.

    Args:
        cache: decode every file once, into memory; all must have one size. Those that cannot be decoded are
            dropped, and named in the sources' `dropped`.

    Raises:
        DataError: when there is nothing to read, or parts and classes cannot be told apart or do not fit each other.
        StorageError: when an address cannot be reached or listed.
    """
    listing = list_folder(path)
    return hold_test(listing.parts, listing.class_names, listing.ignored, listing.noticed, seed=seed, cache=cache)


@dataclasses.dataclass(frozen=True)
class Listing:
    """What `open_folder` finds before it holds anything out.

    Attributes:
        parts: `train`, and `test` and `val` if there are any.
        class_names: empty when unlabelled.
        ignored, noticed: as in `Dataset`.
    """

    parts: Mapping[str, FileSource]
    class_names: tuple[str, ...]
    ignored: str
    noticed: str


def list_folder(path: str) -> Listing:
    """Lists a folder; a long listing is kept, see `cvjax.data.listings`. That of an address never is: to know whether
    it is as it was takes as long as the listing.
    """
    if is_address(path):
        try:
            return _list(path.rstrip("/"), path, _Scan(Problems(), entries=_entries_below(path.rstrip("/"))))
        except FileNotFoundError:
            raise DataError(f"no such folder: {path}") from None
    root = str(Path(path).expanduser())
    if not os.path.isdir(root):
        raise DataError(f"no such folder: {path}")
    if (kept := kept_listing(root)) is not None:
        with contextlib.suppress(KeyError, TypeError, ValueError):  # written by another version
            return _from_json(root, kept)
    with tqdm(desc=printable(f"files in {root}"), unit="file", delay=2, leave=False) as bar:
        scan = _Scan(Problems(), bar)
        listing = _list(root, path, scan)
    files = [(source.name(i), int(source.sizes[i])) for source in listing.parts.values() for i in range(len(source))]
    keep_listing(root, _as_json(listing), scan.folders, files)
    return listing


def _list(root: str, path: str, scan: "_Scan") -> Listing:
    roots = _roots_of_parts(root, scan)
    class_names, train = _scan(roots[TRAIN], scan)
    _check_classes(class_names, train, root)
    parts = {TRAIN: train}
    for part, folder in roots.items():
        if part != TRAIN:
            names, source = _scan(folder, scan)
            _check_classes(names, source, root)
            parts[part] = _relabel(names, source, class_names)
    arranged = arrange(parts, path, scan.problems)
    noticed = alike_names(source.name(i) for source in arranged.values() for i in range(len(source)))
    return Listing(arranged, class_names, scan.problems.words(), noticed)


def _as_json(listing: Listing) -> dict[str, Any]:
    parts = {part: {"root": source.root, "files": source.files, "sizes": source.sizes.tolist(),
                    "labels": source.labels.tolist()} for part, source in listing.parts.items()}
    return {"parts": parts, "class_names": listing.class_names, "ignored": listing.ignored, "noticed": listing.noticed}


def _from_json(root: str, kept: dict[str, Any]) -> Listing:
    parts = {part: FileSource(facts["root"], tuple(facts["files"]), np.array(facts["sizes"], np.int64),
                              np.array(facts["labels"], np.int32)) for part, facts in kept["parts"].items()}
    return Listing(parts, tuple(kept["class_names"]), kept["ignored"], kept["noticed"])


def image_files(path: str | Path) -> list[str]:
    """The image files of a folder, to any depth, by name; the names of subfolders are ignored.

    Raises:
        DataError: when there is no such folder, or no image in it.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"no such folder: {path}")
    files = [os.path.join(root, name) for name, _ in _images_below(root, "", _Scan(Problems()))]
    if not files:
        raise no_images(path)
    return files


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A file or folder at an address, in the manner of `os.DirEntry`. st_size: bytes of a file; None for a folder."""

    name: str
    path: str
    st_size: int | None

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self.st_size is None

    def is_file(self) -> bool:
        return self.st_size is not None

    def is_symlink(self) -> bool:
        return False

    def stat(self) -> Any:
        return self


def _entries_below(address: str) -> dict[str, list[_Entry]]:
    """Folder -> its entries, for all folders below an address; FileNotFoundError if there is nothing."""
    found: dict[str, dict[str, _Entry]] = {}
    for name, known in files_below(address).items():
        folder = address
        *within, last = name.split("/")
        for part in within:
            path = f"{folder}/{part}"
            if found.setdefault(folder, {}).setdefault(part, _Entry(part, path, None)).is_file():
                raise DataError(f"{path} is a file and a folder; give one of them another name")
            folder = path
        found.setdefault(folder, {})[last] = _Entry(last, f"{folder}/{last}", known.size)
    return {folder: list(entries.values()) for folder, entries in found.items()}


class _Scan:
    """What looking through folders collects on its way.

    Attributes:
        problems: what was left out.
        bar: the progress, in files.
        folders: all folders that were looked into.
    """

    def __init__(self, problems: Problems, bar: Any = None,
                 entries: Mapping[str, Sequence[os.DirEntry | _Entry]] | None = None) -> None:
        """entries: of all folders, where these are known already."""
        self.problems, self.bar, self.folders, self._entries = problems, bar, list[str](), entries

    def aside(self) -> "_Scan":
        """A look at the same folders that is not counted."""
        return _Scan(Problems(), entries=self._entries)

    def entries(self, folder: str | os.PathLike) -> list[os.DirEntry | _Entry]:
        """A folder's entries by name; none if it has vanished."""
        self.folders.append(os.fspath(folder))
        try:
            known = os.scandir(folder) if self._entries is None else self._entries[os.fspath(folder)]
            found = sorted(known, key=lambda entry: entry.name)
        except FileNotFoundError:
            self.problems.add("folders that vanished while they were listed", os.fspath(folder))
            return []
        except OSError as error:
            raise DataError(f"{os.fspath(folder)} cannot be listed: {error.strerror}") from None
        if self.bar is not None:
            self.bar.update(len(found))
        return found

    def size(self, entry: os.DirEntry | _Entry) -> int | None:
        """Bytes of an image file, None if it is none by its name or has vanished; what is left out is counted."""
        if entry.name.startswith("."):
            self.problems.add("hidden entries", entry.name)
        elif is_kind(entry.is_file):
            extension = os.path.splitext(entry.name)[1].lower()
            if extension not in PICTURES:
                self.problems.add(f"{extension or 'extensionless'} files", entry.name)
                return None
            try:
                return entry.stat().st_size
            except OSError:
                self.problems.add("files that vanished while they were listed", entry.name)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            self.problems.add("broken links", entry.name)
        elif not is_kind(entry.is_dir):
            self.problems.add("FIFOs, sockets and devices", entry.name)
        return None


def is_kind(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; a link that leads back to itself is of none."""
    try:
        return kind()
    except OSError:
        return False


def is_folder(entry: os.DirEntry | _Entry) -> bool:
    """Whether an entry is a folder that is looked into."""
    return not entry.name.startswith(".") and is_kind(entry.is_dir)


def _roots_of_parts(root: str, scan: _Scan) -> dict[str, str]:
    """Part -> its folder; `train` alone, with `root` itself, if no folder is a part."""
    entries = scan.entries(root)
    folders = [entry.name for entry in entries if is_folder(entry)]
    parts = folders_of_parts(folders, root)
    others = [name for name in folders if name not in parts.values()]
    if not parts:
        return {TRAIN: root}
    hint = "if it is a class, put all classes into a folder of their own: train/CLASS/..."
    if TRAIN not in parts:
        raise DataError(f"{root} has {', '.join(parts.values())} but no train folder; {hint}")
    aside = scan.aside()
    beside = {name: len(list(_images_below(os.path.join(root, name), "", aside))) for name in others}
    inside = any(map(is_folder, aside.entries(os.path.join(root, parts[TRAIN]))))
    if len(parts) == 1 and any(beside.values()) and not inside:
        with_images = [name for name, count in beside.items() if count]
        raise DataError(f"{root}: {parts[TRAIN]} beside {', '.join(with_images[:3])} may be the training part or a "
                        f"class; {hint}")
    for name, count in beside.items():
        scan.problems.add("folders beside the parts", f"{name} with {count} images")
    for entry in entries:
        if entry.name not in folders:
            scan.problems.add("files beside the parts", entry.name)
    return {part: os.path.join(root, name) for part, name in parts.items()}


def _scan(root: str, scan: _Scan) -> tuple[tuple[str, ...], FileSource]:
    """Lists one part: its class names, empty when unlabelled, and its files."""
    entries = scan.entries(root)
    found = ((entry.name, scan.size(entry)) for entry in entries)
    loose = [(name, size) for name, size in found if size is not None]
    folders = list(filter(is_folder, entries))
    classes = {entry.name: list(_images_below(entry.path, f"{entry.name}/", scan)) for entry in folders}
    empty = [name for name, files in classes.items() if not files]
    for name in empty:
        scan.problems.add("folders without images", name)
    if len(empty) == len(classes) and not loose:
        raise no_images(root, scan.problems.words())
    names = [name for name in classes if classes[name]]
    if names and loose:
        scan.problems.add("images outside class folders", loose[0][0], len(loose))
    groups = [classes[name] for name in names] or [loose]
    labels = np.repeat(np.arange(len(groups)) if names else [-1], [len(group) for group in groups])
    files, sizes = zip(*(file for group in groups for file in group), strict=True)
    return tuple(map(name_as_text, names)), FileSource(root, files, np.array(sizes, np.int64), labels.astype(np.int32))


def _images_below(folder: str | os.PathLike, prefix: str, scan: _Scan) -> Iterator[tuple[str, int]]:
    for entry in scan.entries(folder):
        if (size := scan.size(entry)) is not None:
            yield prefix + entry.name, size
        elif entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from _images_below(entry.path, f"{prefix}{entry.name}/", scan)
        elif is_folder(entry):  # it could lead back here
            scan.problems.add("linked folders inside others", prefix + entry.name)


def _check_classes(class_names: tuple[str, ...], source: FileSource, root: str) -> None:
    """DataError for classes that are parts, have parts within them, or differ by case only."""
    refuse_parts_as_classes(class_names, root)
    check_spellings(class_names, root)
    within: dict[str, set[str]] = {}
    for name in source.files:
        folder, *rest = name.split("/", 2)
        if len(rest) > 1:
            within.setdefault(folder, set()).add(rest[0])
    for folder, names in within.items():
        parts = folders_of_parts(names, os.path.join(source.root, folder))
        if TRAIN in parts and len(parts) > 1:
            raise DataError(f"{source.root}: the folder {folder} has the parts {', '.join(sorted(parts.values()))} "
                            f"within it; give folder:{os.path.join(source.root, folder)}, or put parts first and "
                            "classes within them: train/CLASS/..., test/CLASS/...")


def _relabel(names, source, class_names) -> FileSource:
    """A test part's records, labelled by the training part's classes."""
    if not names or not class_names:
        return source
    check_known_classes(names, class_names, source.root)
    labels = np.array([class_names.index(name) for name in names], np.int32)[source.labels]
    return dataclasses.replace(source, labels=labels)
