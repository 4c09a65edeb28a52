"""Images with labels from TensorFlow Datasets."""

from cvjax.data.dataset import Dataset
from cvjax.data.decode import DecodeError
from cvjax.data.parts import TEST, TRAIN, VALIDATION
from cvjax.data.tfds_records import channels, other_splits, prepared, split_names, tfds_source
from cvjax.errors import DataError


def open_tfds(name: str) -> Dataset:
    """Opens a data set that TFDS has prepared as ArrayRecord.

    `name` is a TFDS name, perhaps with configuration and version (`cifar10`, `imagenet_resized/64x64:0.1.0`),
    found in `$TFDS_DATA_DIR` or `~/tensorflow_datasets`; or the folder of one prepared version. It must have
    a split `train` and a feature `image`; `label` is optional. Splits may have the parts' other names, too (see
    `cvjax.data.parts`). The test part is `test`, and `validation` is then the validation part; where `test` is missing,
    or it alone has no labels, the test part is `validation`, else the last fifth of `train`. Other splits are named in
    `ignored`.

    Raises:
        DataError: for an unknown name, one that is not prepared, or one that cannot be read this way.
    """
    builder, features = prepared(name)
    splits = split_names(name, builder)
    names = _class_names(name, features["label"]) if "label" in features else ()
    parts = {part: tfds_source(builder, split, bool(names), channels(name, features))
             for part, split in splits.items()}
    if names and _label_of_first(parts[TEST]) < 0:  # as in ImageNet, whose validation split is then the test part
        if VALIDATION not in parts:
            raise DataError(f"tfds:{name}: the test split has no labels while the training split has them")
        parts[TEST] = parts.pop(VALIDATION)
        splits[TEST] = splits.pop(VALIDATION)
    return Dataset(parts[TRAIN], parts[TEST], names, parts[TRAIN].channels, other_splits(builder, splits.values()),
                   parts.get(VALIDATION))


def _class_names(name, label):
    if not getattr(label, "num_classes", None):
        raise DataError(f"tfds:{name}: the feature `label` is not a class label but {label}")
    return tuple(label.names or map(str, range(label.num_classes)))


def _label_of_first(source):
    try:
        return source[0]["label"]
    except DecodeError:  # counted and limited like any bad record, once batches are made
        return 0
