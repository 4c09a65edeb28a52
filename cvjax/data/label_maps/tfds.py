"""Images with label maps from TensorFlow Datasets."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cvjax.data.dataset import Dataset, fingerprint
from cvjax.data.label_maps.labels import IGNORE, Labels, check_named, count_classes
from cvjax.data.parts import TEST, TRAIN
from cvjax.data.tfds_records import TfdsSource, channels, prepared, split_names, tfds_source
from cvjax.errors import DataError

_FEATURES = ("segmentation_mask", "segmentation_label", "label")  # names of features that may be label maps


@dataclasses.dataclass(frozen=True)
class WithLabelMaps:
    """Records whose label map is still a PNG's bytes, as TFDS has them; the fields are those of `LabelledPhotos`."""

    source: Any
    meaning: Labels = Labels()
    labels: None = None

    @property
    def channels(self) -> int:
        return self.source.channels

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.source.fingerprint, self.meaning.words()])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        record = self.source[index]
        return record | {"label_map": self.meaning.read(record["label_map"], record["image"])}

    def name(self, index: int) -> str:
        return self.source.name(index)

    def take(self, positions: np.ndarray) -> "WithLabelMaps":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        return dataclasses.replace(self, source=self.source.take(positions))


def open_tfds_label_maps(name: str, *, ignore_label: int | None = None, mask_values: tuple[int, ...] = ()) -> Dataset:
    """Opens a data set of TFDS with features `image` and `segmentation_mask`, `segmentation_label` or `label`.

    Parts and names are as in `cvjax.data.sources.tfds.open_tfds`. There are as many classes as the training label maps
    have, called by their numbers; or as `mask_values` says.

    Raises:
        DataError: as there, and if no feature is a label map.
    """
    meaning = Labels(IGNORE, ignore_label, mask_values)
    train, test = (WithLabelMaps(part, meaning) for part in _parts(name))
    classes = len(mask_values) or count_classes(train, f"tfds:{name}")
    names = tuple(map(str, mask_values or range(classes)))
    train, test = (dataclasses.replace(part, meaning=dataclasses.replace(meaning, classes=classes))
                   for part in (train, test))
    check_named(train, names, f"tfds:{name}", known=True)
    return Dataset(train, test, names, train.channels)


def _parts(name: str) -> tuple[TfdsSource, TfdsSource]:
    """The training and the test part of a data set whose records have a `label_map`, a PNG's bytes; see `open_tfds`.

    Raises:
        DataError: as there, and if no feature is a label map.
    """
    builder, features = prepared(name)
    maps = [each for each in _FEATURES if each in features and isinstance(features[each], tfds.features.Image)]
    if not maps:
        raise DataError(f"tfds:{name} has no label maps: one of the features {', '.join(_FEATURES)} must be an "
                        f"image; it has {', '.join(features)}")
    parts = split_names(name, builder)
    train, test = (tfds_source(builder, parts[part], False, channels(name, features), maps[0])
                   for part in (TRAIN, TEST))
    return train, test
