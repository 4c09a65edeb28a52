"""Tar files of images, `tar:PATH`, such as WebDataset's, read without unpacking and in any order.

Names are read by WebDataset's rule: the files of an example share a key, which is folder and name up to the first dot,
and what follows that dot is the field (https://github.com/webdataset/webdataset). The picture of the key `0007` is
`0007.jpg`, its label is the text of `0007.cls` or the `label` in `0007.json`, and `0007.seg.png` is another field,
which is left out. Without labels the folder that an image lies in is its class.

Names in a tar file of an ordinary folder may have dots that mean nothing. So where a key has no picture of its own, as
`img.1.jpg` and `img.2.jpg` have none named `img.jpg`, each picture stands for itself, and `img.1.cls` is its label.

Tar files do not say where their members are, so all headers are read when a data set is opened; images are read when
they are asked for. Of a tar file at an address (see `cvjax.storage`) that is one pass through the file, whose result is
kept (see `cvjax.data.listings`); then only the bytes of images are fetched.
"""

import contextlib
import dataclasses
import json
import os
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from cvjax.data.braces import expand, has_braces
from cvjax.data.dataset import (
    CLASS_LIST,
    MOST_CLASSES,
    Dataset,
    check_known_classes,
    check_spellings,
    fingerprint,
    listed_classes,
)
from cvjax.data.listings import keep_listing, kept_listing
from cvjax.data.parts import TEST, TRAIN, VALIDATION, folders_of_parts, part_in, part_of, refuse_parts_as_classes
from cvjax.data.place_options import split_options
from cvjax.data.problems import Problems
from cvjax.data.sources.folder import is_kind
from cvjax.data.sources.image_files import PICTURES, alike_names, arrange, hold_test, no_images
from cvjax.errors import CvjaxError, DataError
from cvjax.storage import facts, files_below, is_address, open_stream, read_bytes
from cvjax.text import decode_text, printable

_AT_ONCE = 16  # tar files at addresses that are looked at together
_MOST_HEADER = 2**20  # bytes; a name has a few hundred
_MOST_LABEL = 2**24  # bytes of a member with a label; a .json may hold much beside it
_DIGITS = re.compile(rb"[0-9]{256}")
_LINK = -1  # the place of a member without contents of its own
_META = re.compile(r"__[^/]*__($|/)")  # WebDataset's members about the file itself


@dataclasses.dataclass(frozen=True)
class TarSource:
    """Images in tar files, read when asked for; always three channels.

    Attributes:
        root: the folder of the files, which may be an address.
        shards: their names, relative to it.
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

    @property
    def fingerprint(self) -> str:
        return fingerprint(["\n".join(self.files), "\n".join(self.shards), self.places, self.labels])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        shard, start, size = self.places[index].tolist()
        content = read_bytes(os.path.join(self.root, self.shards[shard]), start, size)
        return {"image": content, "label": int(self.labels[index]), "index": int(index)}

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each image, int64 `(N,)`."""
        return self.places[:, 2]

    def name(self, index: int) -> str:
        return f"{os.path.join(self.root, self.shards[self.places[index, 0]])}: {self.files[index]}"

    def take(self, positions: np.ndarray) -> "TarSource":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        files = tuple(self.files[i] for i in positions)
        return dataclasses.replace(self, files=files, places=self.places[positions], labels=self.labels[positions])


def open_tar(place: str, *, seed: int = 0, cache: bool = False) -> Dataset:
    """Opens a tar file, a folder of them, or those that names in braces stand for (see `cvjax.data.braces`).

    Of several, the part that a tar file belongs to is the word for it in the file's name (see `cvjax.data.parts`:
    `imagenet1k-validation-00.tar`); names in braces count from the first brace's folder on. If no name has such a word,
    all files belong together, and parts may be folders in them. `test`, `val` and what is held out are as for
    `open_folder`. Labels in .cls and .json files are numbers from 0; the lines of `classes.txt` beside the tar files
    name them, or else the numbers do. Classes that are folders are sorted by name; a single folder is no class. What is
    left out is counted and named in `ignored`.

    Args:
        place: PATH, which may be an address such as `s3://BUCKET/train-{000..099}.tar` or `https://...` (of files, not
            of a folder); or with fields named: `PATH#label=FIELD` takes labels from FIELD of the .json files alone, and
            `PATH#image=FIELD` pictures from the members of this field, such as `left.png`; `&` joins both.
        seed, cache: as for `open_folder`.

    Raises:
        DataError: when there is nothing to read, a file is damaged or compressed, or missing where braces name it, a
            key has two pictures or two labels, or labels do not fit each other.
        StorageError: when an address cannot be reached, or read by ranges of bytes.
    """
    path, fields = split_options(place, "tar", {"image": "FIELD", "label": "FIELD"})
    if not all(fields.values()):
        raise DataError(f"tar:{place}: a field is named after =, got none")
    fields = {name: field.lower() if name == "image" else field for name, field in fields.items()}
    problems = Problems()
    folder, shards_of = _find_shards(path, problems)
    images_of = {part: _images_of(folder, shards, fields, problems) for part, shards in shards_of.items()}
    if len(images_of) == 1:
        images_of = _parts_within(images_of[TRAIN], path, problems)
    numbered = images_of[TRAIN][0].label is not None
    if any((image.label is not None) != numbered for images in images_of.values() for image in images[:1]):
        raise DataError(f"{path}: labels must be numbers in both the training and the test files, or in neither")
    class_names = _class_names(folder, images_of) if numbered else _folder_names(images_of, path)
    known = {name: label for label, name in enumerate(class_names)}
    sources = {}
    for part, images in images_of.items():
        labels = [image.label if numbered else known.get(image.folder, -1) for image in images]
        shards = shards_of.get(part, shards_of[TRAIN])
        sources[part] = TarSource(folder, tuple(shards), tuple(image.name for image in images),
                                  np.array([image[1:4] for image in images], np.int64), np.array(labels, np.int32))
    arranged = arrange(sources, path, problems)
    noticed = alike_names(source.name(i) for source in arranged.values() for i in range(len(source)))
    return hold_test(arranged, class_names, problems.words(), noticed, seed=seed, cache=cache)


def _find_shards(path: str, problems: Problems) -> tuple[str, dict[str, list[str]]]:
    """The folder of the tar files that a path stands for, and their names relative to it by part."""
    far = is_address(path)
    root = path if far else str(Path(path).expanduser())
    if has_braces(path) and (far or not os.path.exists(root)):
        paths = expand(root)
        folder = root[:root[:root.index("{")].rfind("/") + 1]
        names = [each.removeprefix(folder) for each in paths]
        if missing := _missing(paths):
            raise DataError(f"{path}: {len(missing)} of {len(paths)} tar files are missing, such as {missing[0]}")
        return folder, _by_part(names, path, problems)
    if root.partition("?")[0].endswith(".tar") if far else os.path.isfile(root):
        if _missing([root]):
            raise DataError(f"no such file: {path}")
        folder, name = os.path.split(root)
        return folder, {TRAIN: [name]}
    try:
        entries = files_below(root, deep=False) if far else [e.name for e in os.scandir(root) if is_kind(e.is_file)]
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"no such file or folder: {path}") from None
    names = sorted(name for name in entries if name.endswith(".tar"))
    if not names:
        raise DataError(f"no .tar files in {path}")
    return root, _by_part(names, path, problems)


def _missing(places: Sequence[str]) -> list[str]:
    """Those places where there is no file."""
    def is_missing(place: str) -> bool:
        if not is_address(place):
            return not os.path.isfile(place)
        try:
            facts(place)
        except FileNotFoundError:
            return True
        return False

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [place for place, missing in zip(places, pool.map(is_missing, places)) if missing]


def _by_part(names: Sequence[str], root: str, problems: Problems) -> dict[str, list[str]]:
    """Part -> names of its tar files, by the words in them."""
    parts: dict[str | None, list[str]] = {}
    for name in names:
        parts.setdefault(part_in(name.removesuffix(".tar"), root), []).append(name)
    others = parts.pop(None, [])
    if not parts:
        return {TRAIN: list(names)}
    if TRAIN not in parts:
        raise DataError(f"{root} has {next(iter(parts.values()))[0]} but no file with train in its name")
    for name in others:
        problems.add("tar files whose name says no part", name)
    return {part: parts[part] for part in (TRAIN, TEST, VALIDATION) if part in parts}


class _Image(NamedTuple):
    """The facts that headers give of an image."""

    name: str
    shard: int
    start: int
    size: int
    label: int | None

    @property
    def folder(self) -> str:
        return posixpath.basename(posixpath.dirname(self.name))


def _images_of(folder: str, shards: Sequence[str], fields: Mapping[str, str], problems: Problems) -> list[_Image]:
    """The images of some tar files, in the files' order; all of them have a label, or none has."""
    found: list[_Image] = []
    paths = [os.path.join(folder, name) for name in shards]
    bar = tqdm(paths, desc=printable(f"headers in {folder}"), unit="file", delay=2, leave=False)
    with ThreadPoolExecutor(_AT_ONCE if is_address(folder) else 1) as pool:
        for number, (path, members) in enumerate(zip(bar, pool.map(lambda p: _members(p, fields.get("label")), paths))):
            found += [_Image(*known[:1], number, *known[1:]) for known in _pictures(members, path, fields, problems)]
    which = f"{paths[0]}{f' and {len(shards) - 1} more' * (len(shards) > 1)}"
    if not found:
        raise no_images(which, problems.words())
    bare = [image.name for image in found if image.label is None]
    if 0 < len(bare) < len(found):
        raise DataError(f"{len(bare)} of {len(found)} images in {which} have no label, such as {bare[0]}")
    return found


class _Member(NamedTuple):
    """A file in a tar file: its name, place, and the label in it, or what is wrong with it."""

    name: str
    start: int
    size: int
    label: int | None = None
    fault: str = ""

    @property
    def key(self) -> str:
        """Folder and name up to the first dot."""
        return _key(self.name)

    @property
    def field(self) -> str:
        """What follows the key's dot, in lower case."""
        return self.name[len(self.key) + 1:].lower()

    @property
    def stem(self) -> str:
        """The name up to the last dot; a name that begins with a dot has none."""
        return posixpath.splitext(self.name)[0]

    @property
    def extension(self) -> str:
        return posixpath.splitext(self.name)[1].lower()


def _key(name: str) -> str:
    end = name.find(".", name.rfind("/") + 1)
    return name if end < 0 else name[:end]


def _members(path: str, label_field: str | None) -> list[_Member]:
    """All files in a tar file, in its order; they may be kept, see `cvjax.data.listings`."""
    place = f"{path}#{label_field or ''}"
    if (kept := kept_listing(place)) is not None:
        return [_Member(*known) for known in kept["members"]]
    try:
        size = facts(path).size
        bar = tqdm(desc=printable(f"headers of {path}"), total=size, unit="B", unit_scale=True, delay=2, leave=False)
        with open_stream(path) as file, bar, contextlib.ExitStack() as opened:
            headers = None if is_address(path) else plain_headers(file, size, bar.update)
            if headers is None:
                file.seek(0)
                checked: Any = _HeadersOnly(file)
                archive = opened.enter_context(tarfile.open(path, "r:", checked, encoding="utf-8"))
                headers = all_headers(archive, size)
            # At an address headers and labels come as the pass reaches them: nothing is fetched twice.
            found = [_read(file, *header, label_field) for header in
                     tqdm(headers, desc=printable(f"members of {path}"), unit="member", delay=2, leave=False)]
    except CvjaxError:
        raise
    except Exception as error:  # tarfile raises what its parts raise, such as RecursionError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as a tar file that is not compressed: {reason}") from None
    keep_listing(place, {"members": found}, [path], [(path, size)] * len(found))
    return found


class _HeadersOnly:
    """A tar file whose headers tarfile reads. Contents it skips, so all that it reads at once is a header.

    A header with very many digits in a row would be searched for minutes by Python's tarfile (CVE-2024-6232).
    """

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"it has a header of {size:,} bytes, the limit is {_MOST_HEADER:,}")
        block = self._read(size)
        if size > tarfile.BLOCKSIZE and _DIGITS.search(block):
            raise tarfile.ReadError("it has a header of numbers that are no sizes")
        return block


def plain_headers(file: BinaryIO, size: int,
                  progress: Callable[[int], Any] = lambda count: None) -> list[tuple[str, int, int]] | None:
    """Names, first bytes and bytes of the files in a whole tar file of plain headers; None for any other tar file.

    The same as `all_headers`, but several times as quick. A header is plain if it is of a file or a folder, of POSIX's
    form (IEEE Std 1003.1, pax, "ustar Interchange Format") or GNU's without extensions.

    Args:
        size: bytes of the file.
        progress: is called with the bytes of each member.
    """
    found, place = [], 0
    while place + tarfile.BLOCKSIZE <= size:
        file.seek(place)
        block = file.read(tarfile.BLOCKSIZE)
        if not block.rstrip(b"\0"):  # the block that ends it
            return found
        kind, digits, said = block[156:157], block[124:136].strip(b" \0"), block[148:156].strip(b" \0")
        plain = block[257:262] == b"ustar" and kind in b"05" and kind and not block[345:500].rstrip(b"\0")
        if not plain or not digits.isdigit() or not said.isdigit():
            return None
        length = int(digits, 8) if not digits.strip(b"01234567") else -1
        if length < 0 or said.strip(b"01234567") or int(said, 8) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
            return None
        start = place + tarfile.BLOCKSIZE
        if kind == b"0":
            if start + length > size:
                return None
            found.append((block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape"), start, length))
        elif length:
            return None
        here, place = place, start + -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        progress(place - here)
    return None


def all_headers(archive: tarfile.TarFile, size: int) -> Iterator[tuple[str, int, int]]:
    """Names, first bytes (`_LINK` for links and the like) and bytes of what is in a tar file, folders aside.

    The file is read from its beginning on, and each member is given when the file has been read up to its contents.

    Raises:
        tarfile.ReadError: if it was cut short, where `size` is that of the file.
    """
    last, place = "nothing", -1
    for member in archive:
        if member.size < 0 or archive.offset <= place:
            raise tarfile.ReadError(f"{member.name} has a negative size")
        place = archive.offset
        if member.isfile() and member.offset_data + member.size > size:
            raise tarfile.ReadError(f"it ends within {member.name}")
        if not member.isdir():
            last = member.name
            yield member.name, member.offset_data if member.isfile() else _LINK, member.size
    if archive.offset + tarfile.BLOCKSIZE > size:  # where the empty block that ends it should be
        raise tarfile.ReadError(f"it was cut short after {last}")


def _read(file: BinaryIO, name: str, start: int, size: int, label_field: str | None) -> _Member:
    """A member of the tar file that is open as `file`, with the label in it."""
    found = _Member(posixpath.normpath(name), start, size)
    extension = found.extension
    if start == _LINK or extension != ".json" and (extension != ".cls" or label_field is not None):
        return found
    file.seek(start)
    text = file.read(min(size, _MOST_LABEL))
    try:
        if size > _MOST_LABEL:
            return found._replace(fault=f"has {size:,} bytes, too many for a label")
        words = decode_text(text, name)
        value = json.loads(words).get(label_field or "label") if extension == ".json" else int(words)
        if type(value) is int and 0 <= value < MOST_CLASSES or value is None and label_field is None:
            return found._replace(label=value)
    except (ValueError, AttributeError, DataError, RecursionError):
        pass
    where = f" in its field {label_field}" if label_field is not None else ""
    return found._replace(fault=f"must hold a label{where}, a number from 0 to {MOST_CLASSES - 1:,}; it holds "
                          f"{text[:40]!r}")


def _pictures(members: Sequence[_Member], where: str, fields: Mapping[str, str],
              problems: Problems) -> list[tuple[str, int, int, int | None]]:
    """Name, first byte, bytes and label of the images in a tar file, in its order; what is left out is counted."""
    pictures: dict[str, list[_Member]] = {}
    labels: dict[str, list[_Member]] = {}
    order: list[_Member] = []
    for member in members:
        if _META.match(member.name):
            problems.add("members about the tar file itself", member.name)
            continue
        if member.start == _LINK or posixpath.basename(member.name).startswith("."):
            problems.add("hidden or linked members", member.name)
            continue
        extension = member.extension
        if member.field == fields["image"] if "image" in fields else extension in PICTURES:
            pictures.setdefault(member.key, []).append(member)
            order.append(member)
        elif extension == ".json" or extension == ".cls" and "label" not in fields:
            labels.setdefault(member.stem, []).append(member)
        else:
            problems.add(f"{extension or 'extensionless'} members", member.name)
    _refuse_named_fields(pictures, where, fields)
    found, used = [], set()
    for member in order:
        key = member.key
        alike = pictures[key]
        own = [each for each in alike if "image" in fields or each.stem == key]
        if len({each.name for each in alike}) < len(alike) or len(own) > 1:
            raise DataError(f"{where}: the key {key} has two pictures, "
                            f"{' and '.join(each.name for each in (own if len(own) > 1 else alike)[:2])}")
        if own and member is not own[0]:
            problems.add("pictures in other fields of a key that has one of its own", member.name)
            continue
        stem = key if own else member.stem
        if not own and key in labels and stem not in labels:
            if len(alike) > 1 and any(each.label is not None for each in labels[key]):
                raise DataError(f"{where}: the key {key} has two pictures, {alike[0].name} and {alike[1].name}, "
                                f"and one label; {_WAY_OUT}")
            stem = key
        used.add(stem)
        found.append((member.name, member.start, member.size, _label(labels.get(stem, ()), where)))
    for stem, alone in labels.items():
        if stem not in used:
            beside = _key(stem) in pictures  # then it is a field that nobody asked for
            for member in alone:
                problems.add(f"{member.extension} members" if beside else "labels without a picture", member.name)
    return found


_WAY_OUT = "name the pictures' field, as in tar:PATH#image=left.png"


def _refuse_named_fields(pictures: Mapping[str, Sequence[_Member]], where: str, fields: Mapping[str, str]) -> None:
    """DataError if each key has the same several pictures and none of its own: one may be the other's mask."""
    found = {tuple(sorted(member.field for member in alike)) for alike in pictures.values()}
    if len(found) != 1 or len(pictures) < 2 or "image" in fields:
        return
    names, = found
    words = [name.rpartition(".")[0] for name in names]
    if len(names) > 1 and all(re.search("[^0-9._-]", word) for word in words):  # numbers are no names of fields
        raise DataError(f"{where}: each key has the pictures {' and '.join(names[:3])}, and none is the key's own; "
                        f"{_WAY_OUT}")


def _label(holders: Sequence[_Member], where: str) -> int | None:
    """The label that members of an example hold; None if there is none."""
    for member in holders:
        if member.fault:
            raise DataError(f"{where}: {member.name} {member.fault}")
    said = [member for member in holders if member.label is not None]
    if len({member.label for member in said}) > 1 or len({member.name for member in said}) < len(said):
        raise DataError(f"{where}: the key {said[0].key} has two labels, "
                        f"{' and '.join(f'{member.label} in {member.name}' for member in said[:2])}")
    return said[0].label if said else None


def _parts_within(images: list[_Image], path: str, problems: Problems) -> dict[str, list[_Image]]:
    """The images by part, where tar files hold a folder with the folders of parts."""
    folders = [posixpath.dirname(image.name).split("/") for image in images]
    level = 0
    while len(names := {parts[level] if level < len(parts) else "" for parts in folders}) == 1:
        name, = names
        if not name or part_of(name):
            return {TRAIN: images}
        level += 1
    parts = folders_of_parts(names, path)
    if TRAIN not in parts or len(parts) < 2:
        return {TRAIN: images}
    found: dict[str, list[_Image]] = {part: [] for part in (TRAIN, TEST, VALIDATION) if part in parts}
    for image, folder in zip(images, folders):
        name = folder[level] if level < len(folder) else ""
        part = next((part for part, known in parts.items() if known == name), None)
        if part is None:
            problems.add("images beside the parts", image.name)
        else:
            found[part].append(image)
    return found


def _class_names(folder: str, images_of: Mapping[str, Sequence[_Image]]) -> tuple[str, ...]:
    """Names of the classes of images whose labels are numbers."""
    count = 1 + max(image.label for images in images_of.values() for image in images if image.label is not None)
    names = listed_classes(folder)
    if names is None:
        return tuple(map(str, range(count)))
    if len(names) < count:
        raise DataError(f"{os.path.join(folder, CLASS_LIST)} names {len(names)} classes, the labels need {count}")
    return names


def _folder_names(images_of: Mapping[str, Sequence[_Image]], path: str) -> tuple[str, ...]:
    """Names of the classes of images whose labels are their folders; none where there is only one folder."""
    folders = {part: {image.folder for image in images} for part, images in images_of.items()}
    train = tuple(sorted(folders.pop(TRAIN)))
    if len(train) < 2:
        return ()
    refuse_parts_as_classes(train, path)
    check_spellings(train, path)
    for part, found in folders.items():
        if len(found) > 1 or found <= set(train):
            check_known_classes(found, train, f"{path}: the {part} part")
    return train
