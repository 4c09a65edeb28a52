"""Takes parts of the training part: a share of it, or a validation part, which is a share or a fold."""

import dataclasses

import numpy as np

from cvjax.data.dataset import Dataset, split_positions, strata
from cvjax.errors import DataError


def hold_out(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The data set with a random `share` of its training part, class by class, as its validation part.

    If labels are not known before reading (tfds:), records are drawn regardless of class.

    Raises:
        DataError: when a class has too few records to be in both parts, or the data set brings such a part.
    """
    return _with_validation(dataset, *split_positions(_labels(dataset), dataset.class_names, seed, share))


def take_share(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The data set with a random `share` of its training part, class by class; a larger share contains a smaller one.

    Raises:
        DataError: when nothing would be left.
    """
    labels, rng, kept = _labels(dataset), np.random.default_rng(seed), []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        kept.append(members[:round(share * len(members))])
    kept = np.sort(np.concatenate(kept))
    if not len(kept):
        raise DataError(f"a share of {share} of {len(labels)} training images is none at all")
    return dataclasses.replace(dataset, train=dataset.train.take(kept))


def fold_out(dataset: Dataset, folds: int, fold: int, seed: int) -> Dataset:
    """The data set with fold number `fold` of `folds` as its validation part and the others for training.

    The folds of one seed share no record, cover all, and have each class as evenly as its count allows.

    Raises:
        DataError: when there are more folds than records of a class, or the data set brings a validation part.
    """
    labels, rng = _labels(dataset), np.random.default_rng(seed)
    numbers, dealt = np.empty(len(labels), int), 0
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < folds:
            what = f"class {dataset.class_names[label]!r}" if dataset.class_names else "the data set"
            raise DataError(f"{folds} folds need as many images of each class, {what} has {len(members)}")
        # Dealing goes on where the last class ended, so that the folds have equal sizes.
        numbers[members] = (dealt + np.arange(len(members))) % folds
        dealt += len(members)
    return _with_validation(dataset, np.flatnonzero(numbers != fold), np.flatnonzero(numbers == fold))


def _labels(dataset):
    labels = dataset.train.labels
    return np.zeros(len(dataset.train), np.int32) if labels is None else strata(labels)


def _with_validation(dataset, kept, held):
    if dataset.validation is not None:
        raise DataError(f"the data set brings a validation part of {len(dataset.validation)} images; leave out "
                        "--validation and --folds")
    train, validation = dataset.train.take(kept), dataset.train.take(held)
    return dataclasses.replace(dataset, train=train, validation=validation)
