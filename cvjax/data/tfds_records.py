"""TensorFlow Datasets, read from ArrayRecord files without TensorFlow."""

import dataclasses
import difflib
import importlib.util
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvjax.data.dataset import Dataset, fingerprint
from cvjax.data.decode import DecodeError
from cvjax.data.errors import DataError

_TEST_SPLITS = ("test", "validation")
_LABEL_MAPS = ("segmentation_mask", "segmentation_label", "label")  # names of features that are label maps


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """One split of a prepared data set. Images stay encoded, and pass through the same decoder as files.

    Attributes:
        records: TFDS's random-access source.
        title: full name and split.
        labelled: whether records have a label.
        channels: 1 or 3.
        positions: int `(M,)`, the records of the split that are meant; None for all.
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
        except RuntimeError as error:  # what ArrayRecord says of a damaged chunk
            raise DecodeError(str(error)) from error

    def _record(self, index: int) -> int:
        return int(index if self.positions is None else self.positions[index])

    def name(self, index: int) -> str:
        return f"{self.title} index {self._record(index)}"

    def take(self, positions: np.ndarray) -> "TfdsSource":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        chosen = positions if self.positions is None else self.positions[positions]
        return dataclasses.replace(self, positions=chosen)


def open_tfds(name: str) -> Dataset:
    """Opens a data set that TFDS has prepared as ArrayRecord.

    `name` is a TFDS name, perhaps with configuration and version (`cifar10`, `imagenet_resized/64x64:0.1.0`),
    found in `$TFDS_DATA_DIR` or `~/tensorflow_datasets`; or the folder of one prepared version. It must have
    a split `train` and a feature `image`; `label` is optional. The test part is `test` unless it alone is
    unlabelled, else `validation`, else the last fifth of `train`.

    Raises:
        DataError: for an unknown name, one that is not prepared, or one that cannot be read this way.
    """
    builder, features = _prepared(name)
    train, test = _split_names(name, builder)
    names = _class_names(name, features["label"]) if "label" in features else ()
    train, test = (tfds_source(builder, split, bool(names), _channels(name, features)) for split in (train, test))
    if names and _label_of_first(test) < 0:  # as ImageNet's; what it is tested on is then its validation split
        if "validation" not in builder.info.splits:
            raise DataError(f"tfds:{name}: the test split has no labels while the training split has them")
        test = tfds_source(builder, "validation", True, test.channels)
    return Dataset(train, test, names, train.channels)


def open_tfds_label_maps(name: str) -> tuple[TfdsSource, TfdsSource]:
    """The training and the test part of a data set whose records have a `label_map`, a PNG's bytes; see `open_tfds`.

    Raises:
        DataError: as there, and where no feature is a label map.
    """
    builder, features = _prepared(name)
    import tensorflow_datasets as tfds

    maps = [each for each in _LABEL_MAPS if each in features and isinstance(features[each], tfds.features.Image)]
    if not maps:
        raise DataError(f"tfds:{name} has no label maps: one of the features {', '.join(_LABEL_MAPS)} must be an "
                        f"image; it has {', '.join(features)}")
    train, test = (tfds_source(builder, split, False, _channels(name, features), maps[0])
                   for split in _split_names(name, builder))
    return train, test


def open_builder(name: str) -> Any:
    """TFDS's builder of a data set that is prepared as ArrayRecord (see `open_tfds`); DataError for any other."""
    builder = _builder(name)
    _check_prepared(name, builder)
    return builder


def _prepared(name):
    """The builder of a data set that can be read, and its features, `image` among them."""
    builder = open_builder(name)
    features = builder.info.features or {}
    if "image" not in features:
        raise DataError(f"tfds:{name} has no feature `image`; it has {', '.join(features)}")
    return builder, features


def _builder(name):
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError("tfds:NAME needs TensorFlow Datasets: pip install tensorflow-datasets") from error
    # TFDS logs a warning about each data set that is not there, which the errors below say better.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        if (Path(name).expanduser() / "dataset_info.json").is_file():
            return tfds.builder_from_directory(Path(name).expanduser())
        return tfds.builder(name)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(re.split("[/:]", name)[0], known, n=3)
        hint = (
            f"; did you mean {', '.join(near)}?"
            if near
            else f"; TFDS knows {len(known)}, none of a similar name"
        )
        raise DataError(f"unknown TFDS data set {name!r}{hint}") from error
    except (AssertionError, ValueError, OSError, TypeError) as error:
        raise DataError(f"tfds:{name}: {' '.join(str(error).split())[:300]}") from error


def _check_prepared(name, builder):
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


def _split_names(name, builder):
    splits = builder.info.splits
    if "train" not in splits:
        raise DataError(f"tfds:{name} has no split `train`; it has {', '.join(splits)}")
    test = next((split for split in _TEST_SPLITS if split in splits), None)
    return ("train", test) if test else ("train[:80%]", "train[80%:]")


def _class_names(name, label):
    if not getattr(label, "num_classes", None):
        raise DataError(f"tfds:{name}: the feature `label` is not a class label but {label}")
    return tuple(label.names or map(str, range(label.num_classes)))


def _label_of_first(source):
    try:
        return source[0]["label"]
    except DecodeError:  # counted and limited like any bad record, once batches are made
        return 0


def _channels(name, features):
    shape = features["image"].shape or ()
    if len(shape) != 3:
        raise DataError(f"tfds:{name}: the feature `image` has shape {shape}, not (height, width, channels)")
    return 1 if shape[-1] == 1 else 3


def tfds_source(builder: Any, split: str, labelled: bool, channels: int, label_map: str = "") -> TfdsSource:
    """The records of one of TFDS's splits (`train`, `train[:80%]`, `train+validation`); see `TfdsSource`."""
    import tensorflow_datasets as tfds

    encoded = {feature: tfds.decode.SkipDecoding() for feature in ("image", label_map) if feature}
    try:
        records = builder.as_data_source(split=split, decoders=encoded)
    except (NotImplementedError, OSError, ValueError, ImportError) as error:
        raise DataError(f"tfds:{builder.info.full_name}: {' '.join(str(error).split())[:300]}") from error
    return TfdsSource(records, f"{builder.info.full_name}/{split}", labelled, channels, label_map=label_map)
