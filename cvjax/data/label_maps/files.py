"""Image files and PNG files of label maps: the common part of data sets for segmentation, once files are paired."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cvjax.data.dataset import CLASS_LIST, Dataset, fingerprint, listed_classes, split_positions
from cvjax.data.decode import MAX_BYTES
from cvjax.data.label_maps.labels import IGNORE, Labels, check_named, count_classes
from cvjax.data.orientation import TURNED, UNTOLD, read_headers, turn_of
from cvjax.data.problems import Problems
from cvjax.errors import DataError
from cvjax.storage import read_bytes, size_of


@dataclasses.dataclass(frozen=True)
class LabelledPhotos:
    """Image files and PNG files of label maps, read when asked for.

    Attributes:
        root: the folder that the names are relative to.
        files: names of `(image, label map)`.
        sizes: bytes of both, int64 `(N, 2)`.
        meaning: what the numbers in label maps mean.
    """

    root: str
    files: tuple[tuple[str, str], ...]
    sizes: np.ndarray
    meaning: Labels = Labels()
    channels: int = 3
    labels: None = None  # of whole images: there are none

    @property
    def fingerprint(self) -> str:
        return fingerprint(["\n".join(map("\t".join, self.files)), self.sizes, self.meaning.words()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        image, label_map = (read_bytes(os.path.join(self.root, name), most=MAX_BYTES) for name in self.files[index])
        return {"image": image, "label": -1, "index": int(index),
                "label_map": self.meaning.read(label_map, image)}

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.files[index][0])

    def take(self, positions: np.ndarray) -> "LabelledPhotos":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        return dataclasses.replace(self, files=tuple(self.files[i] for i in positions), sizes=self.sizes[positions])


def photos_dataset(root: Path, pairs: Mapping[str, Sequence[tuple[str, str]]], names: tuple[str, ...] | None, *,
                   seed: int, meaning: Labels, ignored: Sequence[str], known: bool = False,
                   lost: Sequence[tuple[str, str]] = ()) -> Dataset:
    """The data set of image files and their label maps.

    The test part is `test`, and `val` is then the validation part. Without a `test` it is `val`; without either a fifth
    of `train` is held out.

    Args:
        root: the folder that names of files are relative to.
        pairs: names of `(image, label map)` of the parts `train`, `val` and `test`; the last two may be missing.
        names: of the classes; None: as many as the training label maps have, called by their numbers.
        seed: decides the part that is held out.
        meaning: of the numbers, as far as it is given.
        ignored: what was left out, in words.
        known: whether the data set is one in which 255 is known to mean pixels that do not count.
        lost: see `Dataset`.

    Raises:
        DataError: when there is no training pair, or fewer than two classes; and as `check_named`.
    """
    if not pairs["train"]:
        raise DataError(f"{root} has no training picture with a label map{'; ' if ignored else ''}{', '.join(ignored)}")
    given = meaning.ignore_label
    if names is not None and not meaning.values and given == len(names) - 1:
        if len(names) < 3:
            raise DataError(f"{root}: with --ignore-label {given} one class is left, {' '.join(names[:1])}; "
                            "there must be two")
        names = names[:-1]  # the last class is no class then
    if names is not None and meaning.values and len(names) != len(meaning.values):
        raise DataError(f"{root}: there are {len(names)} classes, and {len(meaning.values)} numbers stand for classes: "
                        f"{', '.join(map(str, meaning.values))}")
    parts = {part: LabelledPhotos(str(root), tuple(found), _bytes(root, found), meaning)
             for part, found in pairs.items() if found}
    if names is None:
        count = len(meaning.values) or count_classes(parts["train"], str(root))
        names = tuple(map(str, meaning.values or range(count)))
    parts = {part: dataclasses.replace(source, meaning=dataclasses.replace(meaning, classes=len(names)))
             for part, source in parts.items()}
    check_named(parts["train"], names, str(root), known=known or given is not None)
    train, test, validation = parts["train"], parts.get("test"), parts.get("val")
    if test is None:
        test, validation = validation, None
    if test is None:
        kept, held = split_positions(np.zeros(len(train), int), ("of pictures",), seed)
        train, test = train.take(kept), train.take(held)
    said = [*ignored, *filter(None, [_turned(root, [pair for found in pairs.values() for pair in found])])]
    return Dataset(train, test, names, channels=3, ignored="; ".join(said), validation=validation, lost=tuple(lost))


def _turned(root: Path, pairs: Sequence[tuple[str, str]]) -> str:
    """In words, the pictures with an EXIF orientation, and what that means for their label maps; see `turn_of`."""
    problems = Problems()
    headers = read_headers([root / image for image, _ in pairs])
    turned = [i for i, header in enumerate(headers) if header is not None and header.orientation != 1]
    for i, theirs in zip(turned, read_headers([root / pairs[i][1] for i in turned])):
        header = headers[i]
        if header is None or theirs is None:
            continue
        turn = turn_of(header, (theirs.height, theirs.width))
        if not turn.told or turn.orientation != 1:
            problems.add(TURNED if turn.told else UNTOLD, pairs[i][0])
    return problems.words()


def existing_folder(place: str) -> Path:
    """The path of a folder; DataError if there is none."""
    root = Path(place).expanduser()
    if not root.is_dir():
        raise DataError(f"no such folder: {place}")
    return root


def named_classes(root: Path) -> tuple[str, ...] | None:
    """The lines of `classes.txt`; None if there is no such file. DataError unless these are 2 to 255 names."""
    names = listed_classes(root)
    if names is not None and (not 2 <= len(names) <= IGNORE or len(set(names)) < len(names)):
        raise DataError(f"{root / CLASS_LIST} must name 2 to {IGNORE} classes, one a line and each once; it has "
                        f"{len(names)}, {len(set(names))} different")
    return names


def _bytes(root: Path, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Sizes of both files of each pair, int64 `(N, 2)`; -1 for one that is not there."""
    return np.array([[size_of(root / name) for name in pair] for pair in pairs], np.int64).reshape(-1, 2)
