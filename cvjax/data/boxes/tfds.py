"""TensorFlow Datasets with objects (`voc/2007`, `coco/2017`), read from ArrayRecord files without TensorFlow."""

import dataclasses
import functools

import numpy as np

from cvjax.data.boxes.annotations import BoxAnnotations, Objects, gather, mend
from cvjax.data.dataset import Dataset, fingerprint
from cvjax.data.decode import LazyImage
from cvjax.data.problems import Problems
from cvjax.data.tfds_records import TfdsSource, open_builder, tfds_source
from cvjax.errors import DataError

# The flags that make an object difficult: VOC's and COCO's.
_DIFFICULT = ("is_difficult", "is_crowd")


@dataclasses.dataclass(frozen=True)
class TfdsBoxes:
    """One split with its objects; their boxes become pixels when a record is read.

    Attributes:
        records: the images.
        difficult: the flag whose 1 makes an object difficult; None if objects have none.
        inclusive: boxes count pixels from 1, as VOC's do; TFDS divides VOC's numbers by the picture's sides without
            changing them.
    """

    records: TfdsSource
    difficult: str | None
    inclusive: bool
    labels: None = None

    @property
    def channels(self) -> int:
        return self.records.channels

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.records.fingerprint, "objects"])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        features = self.records.features(index)
        return {"image": features["image"], "label": -1, "index": int(index)} | self._annotations(features)[0]

    def _annotations(self, features) -> BoxAnnotations:
        objects = features["objects"]
        with LazyImage(features["image"], self.channels) as lazy:
            extent = lazy.height, lazy.width
        count = len(objects["label"])
        y1, x1, y2, x2 = np.asarray(objects["bbox"], np.float64).reshape(-1, 4).T * np.tile(extent, 2)[:, None]
        boxes = np.stack([x1, y1, x2, y2], 1)
        difficult = np.asarray(objects[self.difficult]) == 1 if self.difficult else np.zeros(count, bool)
        areas = np.asarray(objects["area"], np.float64).reshape(-1) if "area" in objects else None
        return mend(Objects(boxes, np.asarray(objects["label"], int).reshape(-1), difficult.reshape(-1),
                            np.zeros(count, int), areas), np.array([extent]), self.records.name, Problems(),
                    inclusive=self.inclusive)

    def name(self, index: int) -> str:
        return self.records.name(index)

    def take(self, positions: np.ndarray) -> "TfdsBoxes":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        return dataclasses.replace(self, records=self.records.take(positions))

    def ground_truth(self) -> BoxAnnotations:
        """The annotations of all records, by position; every record is read, once, and no picture decoded."""
        return self._ground_truth

    @functools.cached_property
    def _ground_truth(self) -> BoxAnnotations:
        pictures = [self._annotations(self.records.features(i)) for i in range(len(self))]
        areas = [picture.areas for picture in pictures if picture.areas is not None]
        return gather([picture[0] for picture in pictures], np.array([picture.extents[0] for picture in pictures]),
                      areas if pictures and len(areas) == len(pictures) else None)


def open_tfds_boxes(name: str) -> Dataset:
    """Opens a data set that TFDS has prepared as ArrayRecord, with `image` and `objects` of `bbox` and `label`.

    Parts and names are as in `cvjax.data.sources.tfds.open_tfds`, except that VOC's split `validation` is trained on,
    too, if there is a `test` with objects. TFDS checks boxes when it prepares a data set: they lie in the picture.
    One without area is left out when it is read. They are relative to a size that is not stated, so those of a picture
    with an EXIF orientation are taken as drawn on the upright picture.

    Raises:
        DataError: for an unknown name, one that is not prepared, or one without objects.
    """
    builder = open_builder(name)
    features = builder.info.features or {}
    objects = getattr(features["objects"], "feature", {}) if "image" in features and "objects" in features else {}
    if "bbox" not in objects or "label" not in objects:
        raise DataError(f"tfds:{name} has no feature `image`, or no `objects` with `bbox` and `label`; it has "
                        f"{', '.join(features)}")
    if not getattr(objects["label"], "num_classes", None):
        raise DataError(f"tfds:{name}: the label of its objects is not a class label but {objects['label']}")
    inclusive = builder.info.name == "voc"
    splits = set(builder.info.splits)
    if "train" not in splits:
        raise DataError(f"tfds:{name} has no split `train`; it has {', '.join(splits)}")
    if inclusive and {"validation", "test"} <= splits:
        train, test = "train+validation", "test"
    elif "validation" in splits:  # COCO's test split has no objects
        train, test = "train", "validation"
    else:
        train, test = ("train", "test") if "test" in splits else ("train[:80%]", "train[80%:]")
    difficult = next((flag for flag in _DIFFICULT if flag in objects), None)
    if difficult and np.dtype(objects[difficult].np_dtype).kind not in "biu":
        raise DataError(f"tfds:{name}: the flag {difficult} of its objects must be bool or 0 and 1, it is "
                        f"{objects[difficult]}")
    train, test = (TfdsBoxes(tfds_source(builder, split, False, 3), difficult, inclusive) for split in (train, test))
    label = objects["label"]
    return Dataset(train, test, tuple(label.names or map(str, range(label.num_classes))), 3,
                   "boxes without area, where records have any")
