"""Data sets that are arrays: the embedded digits, and .npz files."""

import importlib.metadata
import os
import zipfile
from pathlib import Path

import numpy as np

from cvjax.data.cache import cache_folder
from cvjax.data.dataset import ArraySource, Dataset, check_labelled_alike, split_positions
from cvjax.data.errors import DataError

_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def open_digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 x 1, in a fixed stratified split of 1,437 and 360.

    They are kept in the user's cache folder, for scikit-learn takes a second to import.
    """
    kept = cache_folder() / f"digits-{importlib.metadata.version('scikit-learn')}.npz"
    try:
        arrays = dict(np.load(kept, allow_pickle=False))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        arrays = _digits()
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_name(f"{kept.stem}.{os.getpid()}.partial.npz")  # others may start at the same time
            np.savez(partial, **arrays)
            partial.replace(kept)
        except OSError:  # no home to write to: the next start takes the second again
            pass
    train, test = (ArraySource(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))
    return Dataset(train, test, tuple("0123456789"), 1)


def _digits() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    return {"train_images": images[train], "train_labels": labels[train], "test_images": images[test],
            "test_labels": labels[test]}


def open_npz(path: str, *, seed: int = 0) -> Dataset:
    """A .npz file of `train_images`, `train_labels`, `test_images`, `test_labels`.

    Images are uint8 `(N, H, W, C)` or `(N, H, W)`; labels are integers from 0, `(N,)` or `(N, 1)`, and may be
    absent. Without `test_images` a fifth of the training images is held out, class by class.

    Raises:
        DataError: for a file, a key, a shape, a type or a label that does not fit.
    """
    arrays, others = _read(path)
    images = _images(path, arrays, "train_images")
    labels = _labels(path, arrays, "train_labels", len(images))
    class_names = tuple(str(label) for label in range(labels.max() + 1))
    train = ArraySource(images, labels)
    if "test_images" in arrays:
        test = _test(path, arrays, train)
    else:
        kept, held = split_positions(labels, class_names, seed)
        train, test = ArraySource(images[kept], labels[kept]), ArraySource(images[held], labels[held])
    ignored = f"other arrays in {path}: {', '.join(others)}" if others else ""
    return Dataset(train, test, class_names, train.channels, ignored)


def _read(path):
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in _KEYS if key in file.files}
            return arrays, sorted(set(file.files) - set(_KEYS))
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable .npz file: {' '.join(str(error).split())}") from error


def _images(path, arrays, key):
    if key not in arrays:
        found = ", ".join(arrays) or "none of them"
        raise DataError(f"{path} has no {key}; expected {', '.join(_KEYS)}, found {found}")
    images = arrays[key]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise DataError(
            f"{path}: {key} must be uint8 (N, H, W, C) or (N, H, W) and not empty, "
            f"got {images.dtype} {images.shape}"
        )
    return images[..., None] if images.ndim == 3 else images


def _labels(path, arrays, key, count):
    if key not in arrays:
        return np.full(count, -1, np.int32)
    labels = arrays[key]
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape not in ((count,), (count, 1)):
        raise DataError(f"{path}: {key} must be integers ({count},), got {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() >= 2**31:
        raise DataError(f"{path}: {key} must count from 0, got labels from {labels.min()} to {labels.max()}")
    return labels.reshape(count).astype(np.int32)


def _test(path, arrays, train):
    images = _images(path, arrays, "test_images")
    labels = _labels(path, arrays, "test_labels", len(images))
    if images.shape[1:] != train.images.shape[1:]:
        raise DataError(
            f"{path}: test images are {images.shape[1:]}, training images {train.images.shape[1:]}"
        )
    check_labelled_alike(train.labels, labels, path)
    if labels.max() > train.labels.max():
        raise DataError(
            f"{path}: test label {labels.max()} is above the training labels' {train.labels.max()}"
        )
    return ArraySource(images, labels)
