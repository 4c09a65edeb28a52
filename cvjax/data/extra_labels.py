"""More training images from a list of files with labels, such as `experiments.pseudo_label` writes."""

import csv
import dataclasses
import os
from pathlib import Path

import numpy as np

from cvjax.data.dataset import ArraySource, Dataset, Source, fingerprint
from cvjax.data.errors import DataError
from cvjax.data.folder import FileSource, decode_all


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
        known = self.first.labels, self.second.labels
        return None if known[0] is None or known[1] is None else np.concatenate(known)

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> dict:
        source, position = self._place(index)
        return {**source[position], "index": int(index)}

    def name(self, index: int) -> str:
        source, position = self._place(index)
        return source.name(position)

    def take(self, positions: np.ndarray) -> "JoinedSource":
        """The records at `positions`, int `(M,)`, rising, as a source of their own."""
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
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable list of files and labels: {error}") from None
    if not rows or not {"file", "label"} <= rows[0].keys():
        raise DataError(f"{path}: a list needs the columns file and label and at least one row")
    unknown = sorted({str(row["label"]) for row in rows} - set(dataset.class_names))
    if unknown:
        raise DataError(f"{path} has labels that the data set has not: {', '.join(unknown[:3])}")
    files = tuple(os.path.abspath(row["file"] or "") for row in rows)
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise DataError(f"{path} names {len(missing)} files that are not there, such as {missing[0]}")
    labels = np.array([dataset.class_names.index(row["label"]) for row in rows], np.int32)
    sizes = np.array([os.path.getsize(file) for file in files], np.int64)
    extra: Source = FileSource("", files, sizes, labels, channels=dataset.channels)
    if dataset.in_memory:
        extra = decode_all(extra)
        ours, theirs = dataset.train.images.shape[1:], extra.images.shape[1:]
        if ours != theirs:
            raise DataError(f"{path}: its images are {theirs}, the data set's are {ours}")
        joined: Source = ArraySource(np.concatenate([dataset.train.images, extra.images]),
                                     np.concatenate([dataset.train.labels, extra.labels]),
                                     (*dataset.train.dropped, *extra.dropped))
    else:
        joined = JoinedSource(dataset.train, extra)
    return dataclasses.replace(dataset, train=joined)
