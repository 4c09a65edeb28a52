"""Image files with boxes: the common part of data sets for detection, once their annotations are read."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cvjax.data.boxes.annotations import OTHER_SIZE, BoxAnnotations, Objects, gather, mend
from cvjax.data.dataset import fingerprint
from cvjax.data.orientation import TURNED, UNTOLD, read_headers, turn_of, upright_boxes
from cvjax.data.problems import Problems
from cvjax.data.sources.folder import FileSource
from cvjax.storage import size_of


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

    @property
    def fingerprint(self) -> str:
        a = self.annotations
        return fingerprint([self.files.fingerprint, a.boxes, a.labels, a.difficult, a.starts])

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each picture, int64 `(N,)`; -1 where it is not there."""
        return self.files.sizes

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


def joined(sources: Sequence[BoxedFiles]) -> BoxedFiles:
    """The records of several sources, one source after the other."""
    if len(sources) == 1:
        return sources[0]
    files = [source.files for source in sources]
    root = os.path.commonpath([os.path.abspath(each.root) for each in files])
    names = (os.path.relpath(each.name(i), root) for each in files for i in range(len(each)))
    pictures = [source.annotations[i] for source in sources for i in range(len(source))]
    return BoxedFiles(
        FileSource(root, tuple(names), np.concatenate([each.sizes for each in files]),
                   np.concatenate([each.labels for each in files])),
        gather(pictures, np.concatenate([source.annotations.extents for source in sources])))


def unlabelled_files(root: Path, names: Sequence[str]) -> FileSource:
    """These files below `root`. One that is not there has -1 bytes, and is a bad file when it is read."""
    sizes = [size_of(root / name) for name in names]
    return FileSource(str(root), tuple(names), np.array(sizes, np.int64), np.full(len(names), -1, np.int32))


def boxed_files(files: FileSource, objects: Objects, said: np.ndarray, name: Callable[[int], str],
                problems: Problems, *, inclusive: bool = False) -> BoxedFiles:
    """The files with the objects in them, mended, in pixels of the upright pictures.

    An annotation's size is believed unless the picture's header says otherwise. It also tells whether the annotation of
    a turned picture was made on the stored pixels, see `cvjax.data.orientation`. Pictures that cannot be read are
    counted later, when they are loaded.

    Args:
        said: int `(N, 2)`, height and width that the annotations state; 0 where they state nothing.
        name, inclusive: as in `mend`.
    """
    extents, orientation = np.array(said, np.int64).reshape(-1, 2), np.ones(len(files), np.int64)
    for i, header in enumerate(read_headers([files.name(i) for i in range(len(files))])):
        if header is None:
            continue
        stated, size = (int(extents[i, 0]), int(extents[i, 1])), (header.height, header.width)
        turn = turn_of(header, stated)
        if not turn.told:
            problems.add(UNTOLD, name(i))
        if turn.orientation != 1:
            problems.add(TURNED, name(i))
            orientation[i] = turn.orientation
        elif stated != size:
            if min(stated) > 0:
                problems.add(OTHER_SIZE, name(i))
            extents[i] = size
    found = mend(objects, extents, name, problems, inclusive=inclusive)
    if (orientation == 1).all():
        return BoxedFiles(files, found)
    of_box = np.repeat(np.arange(len(files)), found.counts)
    return BoxedFiles(files, dataclasses.replace(
        found, boxes=upright_boxes(found.boxes, orientation[of_box], extents[of_box]),
        extents=np.where((orientation >= 5)[:, None], found.extents[:, ::-1], found.extents)))
