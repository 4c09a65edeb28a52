"""A data set of one grey picture, again and again: for dry runs and timing without the real images."""

import dataclasses
import io

import numpy as np
from PIL import Image

from cvjax.data.dataset import Dataset, fingerprint
from cvjax.errors import DataError


@dataclasses.dataclass(frozen=True)
class BlankSource:
    """One JPEG of `side` x `side` pixels as every record, with the labels given."""

    labels: np.ndarray  # int32 (N,)
    side: int
    picture: bytes
    channels: int = 3

    @property
    def fingerprint(self) -> str:
        return fingerprint(["blank", str(self.side), self.labels])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.picture, "label": int(self.labels[index]), "index": int(index)}

    def name(self, index: int) -> str:
        return f"index {index}"

    def take(self, positions: np.ndarray) -> "BlankSource":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        return dataclasses.replace(self, labels=self.labels[positions])


def open_blank(sizes: str) -> Dataset:
    """`RECORDS,SIDE,CLASSES` pictures to train on, and a twenty-fifth of them, at least one, to test with.

    Raises:
        DataError: unless these are three numbers from 1 on.
    """
    words = sizes.split(",")
    if len(words) != 3 or not all(word.isdecimal() and int(word) for word in words):
        raise DataError(f"blank:{sizes}: it must be blank:RECORDS,SIDE,CLASSES, three numbers from 1 on")
    records, side, classes = map(int, words)
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (128, 128, 128)).save(buffer, "JPEG")

    def source(count: int) -> BlankSource:
        return BlankSource((np.arange(count) % classes).astype(np.int32), side, buffer.getvalue())

    names = tuple(f"class {i}" for i in range(classes))
    return Dataset(source(records), source(max(1, records // 25)), names, 3)
