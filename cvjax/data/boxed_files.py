"""Image files with boxes: what data sets for detection have in common once their annotations are read."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cvjax.data.box_annotations import OTHER_SIZE, BoxAnnotations, Problems
from cvjax.data.dataset import fingerprint
from cvjax.data.decode import DecodeError, LazyImage
from cvjax.data.folder import FileSource

LOOKED_AT = 5000  # pictures of a part whose headers are compared with what their annotations say of their size


@dataclasses.dataclass(frozen=True)
class BoxedFiles:
    """Image files, read when asked for, and the boxes in them; always three channels.

    Attributes:
        files: the images.
        annotations: one picture's for each file.
    """

    files: FileSource
    annotations: BoxAnnotations

    @property
    def channels(self) -> int:
        return self.files.channels

    @property
    def labels(self) -> np.ndarray:
        return self.files.labels

    @functools.cached_property
    def fingerprint(self) -> str:
        a = self.annotations
        return fingerprint([self.files.fingerprint, a.boxes, a.labels, a.difficult, a.starts])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        return self.files[index] | self.annotations[index]

    def name(self, index: int) -> str:
        return self.files.name(index)

    def take(self, positions: np.ndarray) -> "BoxedFiles":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        return BoxedFiles(self.files.take(positions), self.annotations.take(positions))

    def ground_truth(self) -> BoxAnnotations:
        """The annotations of all records, by position; no picture is read."""
        return self.annotations


def unlabelled_files(root: Path, names: Sequence[str]) -> FileSource:
    """These files below `root`. One that is not there has -1 bytes, and is a bad file when it is read."""
    sizes = [_size(root / name) for name in names]
    return FileSource(str(root), tuple(names), np.array(sizes, np.int64), np.full(len(names), -1, np.int32))


def _size(path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def true_extents(files: FileSource, said: np.ndarray, problems: Problems,
                 name: Callable[[int], str]) -> np.ndarray:
    """Height and width of each picture, int `(N, 2)`: what annotations say, unless the picture's header says otherwise.

    Of large data sets `LOOKED_AT` pictures, evenly spaced, are looked at. Those that cannot be read are left to whoever
    loads them.

    Args:
        said: int `(N, 2)`; 0 where an annotation says nothing.
    """
    extents = np.array(said, np.int64).reshape(-1, 2)
    if not len(files):
        return extents
    chosen = np.unique(np.linspace(0, len(files) - 1, min(len(files), LOOKED_AT)).astype(int))
    chosen = np.union1d(chosen, np.flatnonzero((extents < 1).any(1)))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(lambda i: _extent(files, int(i)), chosen))
    for i, extent in zip(chosen, found):
        if extent is None or (extents[i] == extent).all():
            continue
        if (extents[i] > 0).all():
            problems.add(OTHER_SIZE, name(int(i)))
        extents[i] = extent
    return extents


def _extent(files, index) -> tuple[int, int] | None:
    try:
        with LazyImage(files[index]["image"], files.channels) as lazy:
            return lazy.height, lazy.width
    except (DecodeError, OSError):
        return None
