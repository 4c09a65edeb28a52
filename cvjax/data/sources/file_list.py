"""More training images from a list of files with labels, such as `experiments.pseudo_label` writes."""

import csv
import dataclasses
import io
import os

import numpy as np

from cvjax.data.dataset import ArraySource, Dataset, Source, fingerprint
from cvjax.data.sources.folder import FileSource
from cvjax.data.sources.image_files import decode_all
from cvjax.data.sources.stored_channels import StoredChannels
from cvjax.errors import DataError
from cvjax.text import read_text, text_as_name


@dataclasses.dataclass(frozen=True)
class JoinedSource:
    """Two sources, one after the other."""

    first: Source
    second: Source

    @property
    def channels(self) -> int:
        return self.first.channels

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.first.fingerprint, self.second.fingerprint])

    @property
    def labels(self) -> np.ndarray | None:
        first, second = self.first.labels, self.second.labels
        return None if first is None or second is None else np.concatenate([first, second])

    @property
    def sizes(self) -> np.ndarray | None:
        """Bytes of each file, int64 `(N,)`; None where they are not known before reading."""
        first, second = (getattr(source, "sizes", None) for source in (self.first, self.second))
        return None if first is None or second is None else np.concatenate([first, second])

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> dict:
        source, position = self._place(index)
        return {**source[position], "index": int(index)}

    def name(self, index: int) -> str:
        source, position = self._place(index)
        return source.name(position)

    def take(self, positions: np.ndarray) -> "JoinedSource":
        """The records at `positions`, int `(M,)`, ascending, as a source of their own."""
        later = positions >= len(self.first)
        return JoinedSource(self.first.take(positions[~later]), self.second.take(positions[later] - len(self.first)))

    def _place(self, index: int) -> tuple[Source, int]:
        count = len(self.first)
        return (self.first, int(index)) if index < count else (self.second, int(index) - count)


def add_labelled_files(dataset: Dataset, path: str) -> Dataset:
    """The data set with the files of a CSV list (columns `file` and `label`) added to its training part.

    Labels are names of the data set's classes. A data set held in memory gets the files decoded, and they must have
    its images' size.

    Raises:
        DataError: for a list that cannot be read, is empty, or names unknown classes or files.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path, names=True), newline="")))
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} is not a readable list of files and labels: {error}") from None
    if not rows or not {"file", "label"} <= rows[0].keys():
        raise DataError(f"{path}: a list needs the columns file and label and at least one row")
    unknown = sorted({str(row["label"]) for row in rows} - set(dataset.class_names))
    if unknown:
        raise DataError(f"{path} has labels that the data set does not know: {', '.join(unknown[:3])}")
    files = tuple(os.path.abspath(text_as_name(row["file"] or "")) for row in rows)
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise DataError(f"{path} names {len(missing)} files that are not there, such as {missing[0]}")
    labels = np.array([dataset.class_names.index(row["label"]) for row in rows], np.int32)
    sizes = np.array([os.path.getsize(file) for file in files], np.int64)
    extra: Source = FileSource("", files, sizes, labels, channels=dataset.channels)
    if dataset.image_dtype != np.uint8 or dataset.channels not in (1, 3):
        extra = StoredChannels(extra, dataset.channels)
    train = dataset.train
    if not isinstance(train, ArraySource):
        return dataclasses.replace(dataset, train=JoinedSource(train, extra))
    decoded = decode_all(extra)
    ours, theirs = train.images.shape[1:], decoded.images.shape[1:]
    if ours != theirs:
        raise DataError(f"{path}: its images are {theirs}, the data set's are {ours}")
    joined = ArraySource(np.concatenate([train.images, decoded.images]), np.concatenate([train.labels, decoded.labels]),
                         (*train.dropped, *decoded.dropped))
    return dataclasses.replace(dataset, train=joined)
