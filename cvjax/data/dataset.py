"""What a data set is: records reached by position, a training and a test part, and their class names."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from cvjax.data.errors import DataError

TEST_SHARE = 0.2
CLASS_LIST = "classes.txt"


class Source(Protocol):
    """Random access to records. Pickles, because Grain sends it to worker processes.

    A record is a dict: `image`, uint8 `(H, W, C)` or encoded bytes; `label`, int, -1 when unlabelled;
    `index`, int; and annotations of the image: `label_map`, uint8 `(H, W)` or encoded bytes; or `boxes` float32
    `(N, 4)`, corners x1 y1 x2 y2 in pixels, `box_label` int32 `(N,)` and `box_difficult` bool `(N,)`.
    """

    channels: int
    fingerprint: str
    labels: np.ndarray | None  # int32 (N,), or None where they are not known before reading

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...

    def name(self, index: int) -> str:
        """What to call the record in a message: its file, or `index i`."""

    def take(self, positions: np.ndarray) -> "Source":
        """The records at `positions`, int `(M,)`, as a source of their own."""


def annotations_of(record: dict) -> dict:
    """What a record holds of its image beside the image itself, its label and its index."""
    return {name: value for name, value in record.items() if name not in ("image", "label", "index")}


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Images of one size, held in memory.

    Attributes:
        images: uint8 `(N, H, W, C)`.
        labels: int32 `(N,)`, -1 where unlabelled.
        dropped: `(name, reason)` of the files that could not be decoded when the array was made.
    """

    images: np.ndarray
    labels: np.ndarray
    dropped: tuple[tuple[str, str], ...] = ()

    @property
    def channels(self) -> int:
        return self.images.shape[-1]

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint([str(self.images.shape), self.images, self.labels])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "label": int(self.labels[index]), "index": int(index)}

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
        class_names: names by label; empty when unlabelled.
        channels: 1 or 3 (arrays may have any).
        ignored: what was found and left out, in words; empty when nothing was.
        validation: records held out of the training part to choose by, or None (see `cvjax.data.held_out`).
    """

    train: Source
    test: Source | None
    class_names: tuple[str, ...]
    channels: int
    ignored: str = ""
    validation: Source | None = None

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
        return self.train.images.shape[1:3] if self.in_memory else None

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hash of what the data set is: names and sizes of files, or the values of arrays."""
        splits = [part.fingerprint for part in (self.train, self.test, self.validation) if part is not None]
        return fingerprint([*splits, *self.class_names])


def fingerprint(parts: Iterable[str | np.ndarray]) -> str:
    """16 hexadecimal digits that tell these parts, in this order, from others."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        content = (
            part.encode("utf-8", "surrogateescape") if isinstance(part, str) else np.ascontiguousarray(part)
        )
        digest.update(content)
        digest.update(b"\0")
    return digest.hexdigest()


def split_positions(
    labels: np.ndarray, class_names: tuple[str, ...], seed: int, share: float = TEST_SHARE
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out a `share` of the records, class by class, at random: `(kept, held out)` positions, each sorted.

    Args:
        labels: int `(N,)`; unlabelled records, all -1, count as one class.

    Raises:
        DataError: when a class has a single record, for then it cannot be both kept and held out.
    """
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


def listed_classes(folder: Path) -> tuple[str, ...] | None:
    """The names in `classes.txt`, one a line, as they stand there; None where the folder has no such file."""
    path = folder / CLASS_LIST
    if not path.is_file():
        return None
    return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def check_known_classes(found: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises DataError when a test part has classes that the training part has not."""
    if unknown := sorted(set(found) - set(known)):
        more = ", ..." if len(unknown) > 3 else ""
        raise DataError(f"{what} has classes that train has not: {', '.join(unknown[:3])}{more}")


def check_labelled_alike(train: np.ndarray, test: np.ndarray, what: str) -> None:
    """Raises DataError when one of two splits' labels (int `(N,)`) are all -1 and the other's are not."""
    if (train >= 0).any() and (test < 0).any():
        raise DataError(f"{what}: the test split has no labels while the training split has them")
    if (train < 0).all() and (test >= 0).any():
        raise DataError(f"{what}: the training split has no labels while the test split has them")
