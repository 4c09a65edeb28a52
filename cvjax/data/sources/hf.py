"""Images with labels from Hugging Face's `datasets`: `hf:OWNER/NAME`, or a folder that `save_to_disk` wrote.

Pictures stay encoded in Arrow's files and pass through the same decoder as files. Any record can be read by itself.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.compute

from cvjax.data.dataset import MOST_CLASSES, Dataset, fingerprint
from cvjax.data.decode import DecodeError
from cvjax.data.parts import TEST, TRAIN, VALIDATION, names_of_parts
from cvjax.data.place_options import split_options
from cvjax.data.problems import Problems
from cvjax.data.sources.image_files import arrange, hold_test
from cvjax.errors import DataError
from cvjax.storage import check_repository, check_within, read_bytes

_OPTIONS = {"image": "COLUMN", "label": "COLUMN", "config": "NAME"}
_WHOLE = ""
_AT_ONCE = 1000  # records whose sizes are looked at together


@dataclasses.dataclass(frozen=True)
class HfSource:
    """Encoded images of one split, read when asked for; always three channels.

    Attributes:
        root: the data set and the split, for messages.
        records: of `datasets`, with one column, of undecoded images.
        column: its name.
        labels: int32 `(M,)`, -1 where unlabelled.
        sizes: bytes of each image, int64 `(M,)`; -1 where they lie in a file, or there is none.
        positions: int `(M,)`, the records that belong to this source; None for all.
    """

    root: str
    records: Any
    column: str
    labels: np.ndarray
    sizes: np.ndarray
    positions: np.ndarray | None = None
    channels: int = 3

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.column, self.sizes, self.labels,
                            *([] if self.positions is None else [self.positions])])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        try:
            found = self.records[self._record(index)][self.column] or {}
        except pyarrow.ArrowException as error:
            raise DecodeError(" ".join(str(error).split())[:300]) from error
        image = found.get("bytes")
        if image is None:
            if not found.get("path"):
                raise DecodeError("the record has no picture")
            image = read_bytes(found["path"])
        return {"image": image, "label": int(self.labels[index]), "index": int(index)}

    def _record(self, index: int) -> int:
        return int(index if self.positions is None else self.positions[index])

    def name(self, index: int) -> str:
        return f"{self.root} index {self._record(index)}"

    def take(self, positions: np.ndarray) -> "HfSource":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        chosen = positions if self.positions is None else self.positions[positions]
        return dataclasses.replace(self, labels=self.labels[positions], sizes=self.sizes[positions], positions=chosen)


def open_hf(place: str, *, seed: int = 0, cache: bool = False) -> Dataset:
    """Opens a data set of the Hugging Face Hub, or a folder that `save_to_disk` wrote, which needs no network.

    The images are the column of the feature `Image`, the labels that of the feature `ClassLabel`. Splits are parts by
    their names (see `cvjax.data.parts`); `test`, `val` and what is held out are as for `open_folder`. Other splits and
    columns are named in `ignored`.

    Args:
        place: OWNER/NAME or the folder, or with one split named, `OWNER/NAME:SPLIT`, of which a test part is held out.
            After `#`: `image=COLUMN` and `label=COLUMN` name the columns; this label may be a whole number from 0, too,
            and `label=` is for none. `config=NAME` is one of a data set's configurations. `&` joins them.
        seed, cache: as for `open_folder`.

    Raises:
        DataError: for a data set that cannot be opened, parts that cannot be told, or a column that is not the only
            one of its kind; the message names those that there are.
    """
    named, options = split_options(place, "hf", _OPTIONS)
    splits = _open(named, options.get("config"))
    parts = {TRAIN: _WHOLE} if _WHOLE in splits else names_of_parts([*splits], f"hf:{place}")
    if TRAIN not in parts:
        raise DataError(f"hf:{place} has no split for training; it has {', '.join(splits)}; to train on one, name it: "
                        f"hf:{named}:{next(iter(splits))}")
    problems = Problems()
    for name in splits:
        if name not in parts.values():
            problems.add("splits that are no parts", f"{name} with {len(splits[name]):,} records")
    image, label = _columns(f"hf:{place}", splits[parts[TRAIN]].features, options, problems)
    sources, classes = {}, {}
    for part in (TRAIN, TEST, VALIDATION):
        if part in parts:
            records = splits[parts[part]]
            sources[part], classes[part] = _source(f"hf:{named} {parts[part]}".rstrip(), records, image, label)
    names = classes[TRAIN]
    if label and not isinstance(splits[parts[TRAIN]].features[label], datasets.ClassLabel):
        names = max(classes.values(), key=len)
    elif other := next((part for part in classes if classes[part] != names), None):
        raise DataError(f"hf:{place}: the classes of {parts[other]} are not those of {parts[TRAIN]}")
    return hold_test(arrange(sources, f"hf:{place}", problems), names, problems.words(), seed=seed, cache=cache)


def _open(place: str, config: str | None) -> dict[str, Any]:
    """Split -> its records; `_WHOLE` for a data set without splits, or of which one was named."""
    name, split = place, ""
    folder = os.path.expanduser(place)
    if not os.path.isdir(folder) and ":" in place:
        name, _, split = place.rpartition(":")
        if not os.path.isdir(os.path.expanduser(name)):  # of the Hub, whose splits may be `train[:10%]`
            name, _, split = place.partition(":")
        folder = os.path.expanduser(name)
    try:
        if os.path.isdir(folder):
            found = datasets.load_from_disk(folder)
        elif os.path.isabs(folder) or name.count("/") > 1:
            raise DataError(f"no such folder: {name}")
        else:
            check_repository(name)
            if config is not None:
                check_within(config)
            found = datasets.load_dataset(name, config, split=split or None)
            split = ""
    except DataError:
        raise
    except Exception as error:  # of many kinds: of the Hub, of Arrow, of files
        raise DataError(f"hf:{place} cannot be opened: {' '.join(str(error).split())[:300]}") from error
    splits = {str(part): found[part] for part in found} if isinstance(found, datasets.DatasetDict) else {_WHOLE: found}
    if not split:
        return splits
    if split not in splits:
        raise DataError(f"hf:{place} has no split {split}; it has {', '.join(splits) or 'none by name'}")
    return {_WHOLE: splits[split]}


def _columns(where: str, features: Mapping[str, Any], options: Mapping[str, str], problems: Problems
             ) -> tuple[str, str]:
    """The names of the columns of images and of labels, "" for no labels."""
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    numbers = [name for name, kind in features.items()
               if isinstance(kind, datasets.Value) and kind.dtype.startswith(("int", "uint"))]
    there = f"its columns are {', '.join(features)}"
    image = options.get("image", images[0] if len(images) == 1 else "")
    if image not in images:
        found = f"{len(images)} columns of images, {' and '.join(images)}" if images else "no column of images"
        wrong = f"has no column of images {image!r}" if image else f"has {found}"
        raise DataError(f"{where} {wrong}; {there}; one is named by #image=COLUMN")
    if "label" in options:
        label = options["label"]
        if label and label not in classes + numbers:
            raise DataError(f"{where} has no column {label!r} of class labels or whole numbers; {there}")
    elif len(classes) > 1 or not classes and "label" in numbers:
        found = f"the class labels {' and '.join(classes)}" if classes else "a column label of numbers"
        raise DataError(f"{where} has {found}; {there}; one is named by #label=COLUMN, and none by #label=")
    else:
        label = classes[0] if classes else ""
    for name in features:
        if name not in (image, label):
            problems.add("columns that are not read", name)
    return image, label


def _source(where: str, records: Any, image: str, label: str) -> tuple[HfSource, tuple[str, ...]]:
    """A split's records and their class names."""
    if missing := {image, label} - {"", *records.column_names}:
        raise DataError(f"{where} has no column {' and '.join(sorted(missing))}; it has "
                        f"{', '.join(records.column_names)}")
    if not len(records):
        raise DataError(f"{where} has no records")
    pictures = records.select_columns([image]).cast_column(image, datasets.Image(decode=False)).with_format(None)
    labels, names = np.full(len(records), -1, np.int32), ()
    if label:
        column = records.select_columns([label]).with_format("arrow")[:][label]
        labels = column.fill_null(-1).to_numpy().astype(np.int64)
        bare = int((labels == -1).sum())
        if 0 < bare < len(labels):
            raise DataError(f"{where}: {bare:,} of {len(labels):,} records have no label, such as index "
                            f"{int(np.argmax(labels == -1))}")
        kind = records.features[label]
        if labels.max() >= MOST_CLASSES and not isinstance(kind, datasets.ClassLabel):
            raise DataError(f"{where}: labels must be numbers below {MOST_CLASSES:,}, got {labels.max()}")
        names = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else tuple(map(str, range(labels.max() + 1)))
        if labels.min() < -1 or labels.max() >= len(names):
            raise DataError(f"{where}: labels must be numbers from 0 on, below the number of classes, got "
                            f"{labels.min()} to {labels.max()}")
    return HfSource(where, pictures, image, labels.astype(np.int32), _sizes(pictures, image)), names


def _sizes(pictures: Any, image: str) -> np.ndarray:
    """Bytes of each picture, int64 `(N,)`; -1 where the record does not hold them."""
    columns = [table[image] for table in pictures.with_format("arrow").iter(_AT_ONCE)]
    contents = [column.flatten()[column.type.get_field_index("bytes")] for column in columns]
    lengths = [pyarrow.compute.call_function("binary_length", [each]).fill_null(-1) for each in contents]
    return np.concatenate([each.to_numpy() for each in lengths]).astype(np.int64)
