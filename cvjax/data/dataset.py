"""The data set: records reached by position, a training and a test part, and their class names."""

import dataclasses
import functools
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import numpy as np

from cvjax.errors import DataError
from cvjax.storage import is_address
from cvjax.text import read_text

TEST_SHARE = 0.2
CLASS_LIST = "classes.txt"
MOST_CLASSES = 2**20  # where labels are numbers: a single wrong one would give billions of names


class Source(Protocol):
    """Random access to records. Pickles, because Grain sends it to worker processes.

    A record is a dict: `image`, uint8 or float32 levels in [0, 255] `(H, W, C)`, or encoded bytes; `label`, int, -1
    when unlabelled, or float32 `(K,)` in a data set with `Targets`; `index`, int; and annotations of the image:
    `label_map`, uint8 `(H, W)` or encoded bytes; or `boxes` float32 `(N, 4)`, corners x1 y1 x2 y2 in pixels,
    `box_label` int32 `(N,)` and `box_difficult` bool `(N,)`.
    """

    @property
    def channels(self) -> int:
        """1 or 3; any number for arrays, and for files whose channels stay as they are stored."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash that tells these records from others; see the function `fingerprint`."""
        ...

    @property
    def labels(self) -> np.ndarray | None:
        """int32 `(N,)`, -1 where unlabelled, or float32 `(N, K)`; None if they are not known before reading."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...

    def name(self, index: int) -> str:
        """The record's name in messages: its file, or `index i`."""
        ...

    def take(self, positions: np.ndarray) -> "Source":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        ...


@dataclasses.dataclass(frozen=True)
class Targets:
    """What the numbers of a label float32 `(K,)` stand for, where an image has more to say than one class.

    Attributes:
        kind: "labels", of which an image has any number: 1 where it has one, else 0. "numbers" to be predicted.
        names: of the labels or of the numbers.
    """

    kind: Literal["labels", "numbers"]
    names: tuple[str, ...]


def label_at(labels: np.ndarray, index: int) -> int | np.ndarray:
    """A record's `label`: of int32 `(N,)` an int, of float32 `(N, K)` a row."""
    return int(labels[index]) if labels.ndim == 1 else labels[index]


def unlabelled(labels: np.ndarray) -> np.ndarray:
    """bool `(N,)`: where a record has no label. Rows of float32 `(N, K)` always have one, though it may be all 0."""
    return labels < 0 if labels.ndim == 1 else np.zeros(len(labels), bool)


def annotations_of(record: dict) -> dict:
    """The annotations of a record: all its fields besides the image, its label and its index."""
    return {name: value for name, value in record.items() if name not in ("image", "label", "index")}


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Images of one size, held in memory.

    Attributes:
        images: uint8 `(N, H, W, C)`, or float32 levels in [0, 255].
        labels: int32 `(N,)`, -1 where unlabelled, or float32 `(N, K)`.
        dropped: `(name, reason)` of the files that could not be decoded when the array was made.
    """

    images: np.ndarray
    labels: np.ndarray
    dropped: tuple[tuple[str, str], ...] = ()

    @property
    def channels(self) -> int:
        return self.images.shape[-1]

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:  # of all pixels, which takes a while
        return fingerprint([str(self.images.shape), self.images, self.labels])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "label": label_at(self.labels, index), "index": int(index)}

    def name(self, index: int) -> str:
        return f"index {index}"

    def take(self, positions: np.ndarray) -> "ArraySource":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        return dataclasses.replace(self, images=self.images[positions], labels=self.labels[positions])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, opened.

    Attributes:
        train: the training records.
        test: the held-out records, or None.
        class_names: names by label; empty when unlabelled, and where there are `targets`.
        channels: those of `Source`.
        ignored: what was found but left out, in words; empty when nothing was.
        validation: records held out of the training part to choose a checkpoint, or None (see `cvjax.data.held_out`).
        noticed: what was found and read as it is, though it may be a mistake, in words; empty when nothing was.
        lost: `(file, reason)` of listed records that are not there, which the account of bad files begins with.
        targets: what labels float32 `(K,)` stand for; None where labels are classes.
        image_dtype: of the images' pixels: uint8, or float32 for levels in [0, 255] between these.
        usual_statistics: whether networks that start here see the images by the statistics of `Preprocessing.of`. None:
            if they are 8-bit RGB as ImageNet's; other images are measured.
    """

    train: Source
    test: Source | None
    class_names: tuple[str, ...]
    channels: int
    ignored: str = ""
    validation: Source | None = None
    noticed: str = ""
    lost: tuple[tuple[str, str], ...] = ()
    targets: Targets | None = None
    image_dtype: type = np.uint8
    usual_statistics: bool | None = None

    @property
    def measured(self) -> bool:
        """Whether the statistics of these images are measured, where no weights and no options state any."""
        usual = self.usual_statistics
        return not (self.channels == 3 and self.image_dtype == np.uint8 if usual is None else usual)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def in_memory(self) -> bool:
        """Whether all images are arrays of one size: a batch is one gather, and crops belong on device."""
        return isinstance(self.train, ArraySource)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """`(height, width)` when in memory, else None."""
        if not isinstance(self.train, ArraySource):
            return None
        _, height, width, _ = self.train.images.shape
        return height, width

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hash of the data set: of names and sizes of files, or of the values of arrays."""
        splits = [part.fingerprint for part in (self.train, self.test, self.validation) if part is not None]
        return fingerprint([*splits, *self.class_names, *(self.targets.names if self.targets else ())])


def fingerprint(parts: Iterable[str | np.ndarray]) -> str:
    """16 hexadecimal digits that tell these parts, in this order, from others."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        content = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else np.ascontiguousarray(part).data
        digest.update(content)
        digest.update(b"\0")
    return digest.hexdigest()


def strata(labels: np.ndarray) -> np.ndarray:
    """int32 `(N,)`, the classes within which records are drawn: one, -1, for labels float32 `(N, K)`."""
    return labels if labels.ndim == 1 else np.full(len(labels), -1, np.int32)


def split_positions(
    labels: np.ndarray, class_names: tuple[str, ...], seed: int, share: float = TEST_SHARE
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out a `share` of the records, class by class, at random: `(kept, held out)` positions, each sorted.

    Args:
        labels: int `(N,)`; unlabelled records, all -1, count as one class. So do those of float32 `(N, K)`.

    Raises:
        DataError: when a class has a single record, which cannot be both kept and held out.
    """
    labels = strata(labels)
    rng = np.random.default_rng(seed)
    train, test = [], []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            what = f"class {class_names[label]!r}" if label >= 0 else "the data set"
            raise DataError(f"{what} has a single image: a split into two parts needs at least two")
        cut = max(1, min(len(members) - 1, round(share * len(members))))
        test.append(members[:cut])
        train.append(members[cut:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def listed_classes(folder: str | os.PathLike) -> tuple[str, ...] | None:
    """The names in `classes.txt`, one a line, as they stand there; None if the folder has no such file.

    Some servers forbid what is not there, so at an address a file that is forbidden is none.

    Raises:
        DataError: if it is there and cannot be read.
    """
    path = os.path.join(folder, CLASS_LIST)
    if not is_address(path) and not os.path.isfile(path):
        return None
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        if is_address(path) and isinstance(error, FileNotFoundError | PermissionError):
            return None
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    return tuple(line.strip() for line in lines if line.strip())


def check_known_classes(found: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises DataError when a test part has classes that the training part lacks."""
    if unknown := sorted(set(found) - set(known)):
        more = ", ..." if len(unknown) > 3 else ""
        near = {spelling(name): name for name in known}
        alike = next((f"; it has {near[spelling(name)]}" for name in unknown if spelling(name) in near), "")
        raise DataError(f"{what} has classes that are not in train: {', '.join(unknown[:3])}{more}{alike}")


def spelling(name: str) -> str:
    """What names that people take for the same have in common: case and composition of letters set aside."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_spellings(class_names: Sequence[str], what: str) -> None:
    """Raises DataError when two classes have one `spelling`, such as `Cat` and `cat`."""
    seen: dict[str, str] = {}
    for name in class_names:
        other = seen.setdefault(spelling(name), name)
        if other != name:
            raise DataError(f"{what} has the classes {other} and {name}, which differ by case only; give them one name")


def check_labelled_alike(train: np.ndarray, test: np.ndarray, what: str) -> None:
    """Raises DataError when one of two splits' labels (see `Source.labels`) are all -1 and the other's are not."""
    train, test = unlabelled(train), unlabelled(test)
    if not train.all() and test.any():
        raise DataError(f"{what}: the test split has no labels while the training split has them")
    if train.all() and not test.all():
        raise DataError(f"{what}: the training split has no labels while the test split has them")
