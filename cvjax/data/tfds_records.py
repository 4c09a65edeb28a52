"""TensorFlow Datasets, read from ArrayRecord files without TensorFlow."""

import dataclasses
import importlib.util
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cvjax.data.dataset import fingerprint
from cvjax.data.decode import DecodeError
from cvjax.data.parts import TEST, TRAIN, VALIDATION, names_of_parts
from cvjax.errors import DataError
from cvjax.spelling import did_you_mean


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """One split of a prepared data set. Images stay encoded, and pass through the same decoder as files.

    Attributes:
        records: TFDS's random-access source.
        title: full name and split.
        labelled: whether records have a label.
        channels: 1 or 3.
        positions: int `(M,)`, the records of the split that belong to this source; None for all.
        label_map: the feature that is a label map, which stays encoded too; "" for none.
    """

    records: Sequence
    title: str
    labelled: bool
    channels: int
    positions: np.ndarray | None = None
    label_map: str = ""
    labels: None = None  # known only once a record is read

    @property
    def fingerprint(self) -> str:
        chosen = [] if self.positions is None else [self.positions]
        return fingerprint([self.title, str(len(self)), *chosen])

    def __len__(self) -> int:
        return len(self.records if self.positions is None else self.positions)

    def __getitem__(self, index: int) -> dict:
        record = self.features(index)
        label = int(record["label"]) if self.labelled else -1
        annotations = {"label_map": record[self.label_map]} if self.label_map else {}
        return {"image": record["image"], "label": label, "index": int(index)} | annotations

    def features(self, index: int) -> dict:
        """All that TFDS has of the record."""
        try:
            return self.records[self._record(index)]
        except RuntimeError as error:  # ArrayRecord's error for a damaged chunk
            raise DecodeError(str(error)) from error

    def _record(self, index: int) -> int:
        return int(index if self.positions is None else self.positions[index])

    def name(self, index: int) -> str:
        return f"{self.title} index {self._record(index)}"

    def take(self, positions: np.ndarray) -> "TfdsSource":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        chosen = positions if self.positions is None else self.positions[positions]
        return dataclasses.replace(self, positions=chosen)


def open_builder(name: str) -> Any:
    """TFDS's builder of a data set that is prepared as ArrayRecord (see `open_tfds`); DataError for any other."""
    builder = _builder(name)
    _check_prepared(name, builder)
    return builder


def prepared(name: str) -> tuple[Any, Mapping[str, Any]]:
    """TFDS's builder of a data set, and its features; DataError unless `image` is among them."""
    builder = open_builder(name)
    features = builder.info.features or {}
    if "image" not in features:
        raise DataError(f"tfds:{name} has no feature `image`; it has {', '.join(features)}")
    return builder, features


def _builder(name: str) -> Any:
    # TFDS logs a warning about each data set that is not there, which the errors below say better.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        if (Path(name).expanduser() / "dataset_info.json").is_file():
            return tfds.builder_from_directory(Path(name).expanduser())
        return tfds.builder(name)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        hint = did_you_mean(re.split("[/:]", name)[0], known, f"TFDS knows {len(known)}, none of a similar name")
        raise DataError(f"unknown TFDS data set {name!r}; {hint}") from error
    except (AssertionError, ValueError, OSError, TypeError) as error:
        raise DataError(f"tfds:{name}: {' '.join(str(error).split())[:300]}") from error


def _check_prepared(name: str, builder: Any) -> None:
    if builder.info.splits and builder.info.file_format and builder.info.file_format.value == "array_record":
        return
    prepare = (
        f"""python -c "import tensorflow_datasets as tfds; """
        f"""tfds.builder('{name}', file_format='array_record').download_and_prepare()\""""
    )
    install = (
        "" if importlib.util.find_spec("tensorflow") else "pip install tensorflow (only to prepare), and "
    )
    if builder.info.splits:
        form = builder.info.file_format.value.upper()
        found = f"is prepared as {form}, and only ARRAY_RECORD can be read by position,"
    else:
        found = "is not prepared"
    raise DataError(f"tfds:{name} {found} in {builder.data_dir}; {install}run: {prepare}")


def split_names(name: str, builder: Any) -> dict[str, str]:
    """Part -> TFDS's name for it: `train` and `test`, and perhaps `val`; see `cvjax.data.parts`.

    Without a test part it is the validation part, and without either the last fifth of training.
    """
    splits = list(builder.info.splits)
    parts = names_of_parts(splits, f"tfds:{name}")
    if TRAIN not in parts:
        raise DataError(f"tfds:{name} has no split `train`; it has {', '.join(splits)}")
    if TEST in parts:
        return parts
    train = parts[TRAIN]
    if VALIDATION in parts:
        return {TRAIN: train, TEST: parts[VALIDATION]}
    return {TRAIN: f"{train}[:80%]", TEST: f"{train}[80%:]"}


def other_splits(builder: Any, used: Iterable[str]) -> str:
    """What to say of the splits that are not used, in words; empty if there are none."""
    names = {re.sub(r"\[.*", "", split) for split in used}
    others = [f"{split} with {builder.info.splits[split].num_examples:,} records" for split in builder.info.splits
              if split not in names]
    return f"splits {', '.join(others)}" if others else ""


def channels(name: str, features: Mapping[str, Any]) -> int:
    """1 or 3, from the shape of the feature `image`."""
    shape = features["image"].shape or ()
    if len(shape) != 3:
        raise DataError(f"tfds:{name}: the feature `image` has shape {shape}, not (height, width, channels)")
    return 1 if shape[-1] == 1 else 3


def tfds_source(builder: Any, split: str, labelled: bool, channels: int, label_map: str = "") -> TfdsSource:
    """The records of one of TFDS's splits (`train`, `train[:80%]`, `train+validation`); see `TfdsSource`."""
    encoded = {feature: tfds.decode.SkipDecoding() for feature in ("image", label_map) if feature}
    try:
        records = builder.as_data_source(split=split, decoders=encoded)
    except (NotImplementedError, OSError, ValueError, ImportError) as error:
        raise DataError(f"tfds:{builder.info.full_name}: {' '.join(str(error).split())[:300]}") from error
    return TfdsSource(records, f"{builder.info.full_name}/{split}", labelled, channels, label_map=label_map)
