"""Data sets that are arrays in an .npz file."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from cvjax.data.copies import array_copies
from cvjax.data.dataset import MOST_CLASSES, ArraySource, Dataset, check_labelled_alike, split_positions
from cvjax.data.parts import TEST, TRAIN, VALIDATION, part_of
from cvjax.data.place_options import split_options
from cvjax.errors import DataError
from cvjax.storage import open_stream

_IMAGES, _LABELS, _RANGE = "images", "labels", "range"
_KINDS = {"images": _IMAGES, "image": _IMAGES, "imgs": _IMAGES, "x": _IMAGES, "data": _IMAGES, "": _IMAGES,
          "labels": _LABELS, "label": _LABELS, "y": _LABELS, "targets": _LABELS, "target": _LABELS}


def open_npz(path: str, *, seed: int = 0) -> Dataset:
    """A .npz file of `train_images`, `train_labels`, `test_images`, `test_labels`, `val_images`, `val_labels`.

    A key is a word for the part (see `cvjax.data.parts`) and one for what the array is, in any order and case:
    `images`, `x` or `data`, and `labels`, `y` or `targets`, such as Keras's `x_train` and `y_train`. Images are
    `(N, H, W, C)` or `(N, H, W)` with any number of channels. uint8 and uint16 have all their values as range. Other
    types need a stated one, and these two may have it: `FILE#range=LOW,HIGH`, or an array `range` of both numbers in
    the file. LOW becomes the level 0, HIGH 255. Labels are integers from 0, `(N,)` or `(N, 1)`, and may be absent. The
    test part is `test`, and `val` is then the validation part; without a `test` it is `val`. Without either a fifth of
    the training images is held out, class by class. Other arrays are named in `ignored`.

    Raises:
        DataError: for a file, a key, a shape, a type or a label that does not fit.
    """
    path, stated = _stated_range(path)
    arrays, others, own = _read(path)
    given = own if stated is None else stated
    limits = None if given is None else _checked_range(path, given)
    for key in [key for key in arrays if key[1] == _IMAGES]:
        arrays[key] = _as_levels(path, "_".join(key), arrays[key], limits)
    images = _images(path, arrays, (TRAIN, _IMAGES))
    labels = _labels(path, arrays, (TRAIN, _LABELS), len(images))
    class_names = tuple(str(label) for label in range(labels.max() + 1))
    train = ArraySource(images, labels)
    parts = {part: _judged(path, arrays, train, part) for part in (TEST, VALIDATION) if (part, _IMAGES) in arrays}
    if not parts:
        kept, held = split_positions(labels, class_names, seed)
        train, parts = ArraySource(images[kept], labels[kept]), {TEST: ArraySource(images[held], labels[held])}
    ignored = f"other arrays in {path}: {', '.join(others)}" if others else ""
    noticed = "; ".join(filter(None, (array_copies(train, part) for part in parts.values())))
    test = parts.pop(TEST, None)
    if test is None:
        test = parts.pop(VALIDATION)
    return Dataset(train, test, class_names, train.channels, ignored, parts.get(VALIDATION), noticed,
                   image_dtype=images.dtype.type)


def _stated_range(path: str) -> tuple[str, np.ndarray | None]:
    """A path and the range that is stated after it."""
    file, options = split_options(path, "npz", {_RANGE: "LOW,HIGH"})
    if _RANGE not in options:
        return file, None
    try:
        low, high = map(float, options[_RANGE].split(","))
    except ValueError:
        given = f"{_RANGE}={options[_RANGE]}"
        raise DataError(f"npz:{path}: after # there may be range=LOW,HIGH, got {given!r}") from None
    return file, np.array([low, high])


def _checked_range(path: str, limits: np.ndarray) -> tuple[float, float]:
    if limits.shape != (2,) or limits.dtype.kind not in "iuf" or not limits[0] < limits[1] < np.inf:
        raise DataError(f"{path}: range must be two numbers LOW < HIGH, got {limits.tolist()}")
    return float(limits[0]), float(limits[1])


def _as_levels(path: str, key: str, images: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    """Numbers of a range as float32 levels in [0, 255]; uint8 of its own range, and what is no number, as it is."""
    if not images.size or images.dtype.kind not in "iuf" or images.dtype == np.uint8 and limits in (None, (0, 255)):
        return images
    least, most = (float(f(images)) for f in (np.min, np.max))
    found = f"{path}: {key} is {images.dtype} from {least:g} to {most:g}"
    if limits is None and images.dtype == np.uint16:
        limits = 0, 65535
    if limits is None:
        raise DataError(f"{found}, whose range nothing states: give npz:{path}#range=LOW,HIGH, or an array `range` of "
                        "LOW and HIGH in the file")
    if not limits[0] <= least <= most <= limits[1]:  # not for NaN
        raise DataError(f"{found}, outside the stated range {limits[0]:g} to {limits[1]:g}")
    low, high = limits
    return np.clip((images.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low)), 0, 255)


def _read(path):
    """The arrays by part and kind, the names of the others, and the array `range`, None where there is none."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        with open_stream(path) as opened, np.load(opened, allow_pickle=False) as file:
            _check_memory(path, file)
            names = {name: key for name in file.files if (key := _part_and_kind(name)) is not None}
            keys = list(names.values())
            if twice := [name for name, key in names.items() if keys.count(key) > 1]:
                raise DataError(f"{path}: {' and '.join(twice)} both mean the same array; leave one of them")
            arrays = {key: file[name] for name, key in names.items()}
            own = file[_RANGE] if _RANGE in file.files else None
            alone = [name for name, (part, kind) in names.items() if kind == _LABELS and (part, _IMAGES) not in arrays]
            return arrays, sorted((set(file.files) - {*names, _RANGE}) | set(alone)), own
    except DataError:
        raise
    except Exception as error:  # zlib, zipfile and numpy have errors of their own for what is damaged
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is not a readable .npz file: {reason}") from error


def _check_memory(path: Path, file: Any) -> None:
    """DataError if the arrays are larger than this machine's memory: a few kilobytes can say that they are."""
    if not hasattr(os, "sysconf"):
        return
    needed = sum(member.file_size for member in file.zip.infolist())
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise DataError(f"{path} holds {needed / 2**30:,.1f} GiB of arrays, this machine has {there / 2**30:,.1f} GiB")


def _part_and_kind(name: str) -> tuple[str, str] | None:
    """What an array's name means; None for any other name."""
    words = re.findall(r"[A-Za-z]+", name)
    parts = [part for word in words if (part := part_of(word)) is not None]
    others = "".join(word.lower() for word in words if part_of(word) is None)
    return (parts[0], _KINDS[others]) if len(parts) == 1 and others in _KINDS else None


def _images(path, arrays, key):
    if key not in arrays:
        found = ", ".join(map("_".join, arrays)) or "none of them"
        raise DataError(f"{path} has no {'_'.join(key)}; expected train_images, train_labels, test_images and "
                        f"test_labels, found {found}")
    images = arrays[key]
    key = "_".join(key)
    if images.dtype not in (np.uint8, np.float32) or images.ndim not in (3, 4) or not images.size:
        raise DataError(
            f"{path}: {key} must be numbers (N, H, W, C) or (N, H, W) and not empty, "
            f"got {images.dtype} {images.shape}"
        )
    return images[..., None] if images.ndim == 3 else images


def _labels(path, arrays, key, count):
    if key not in arrays:
        return np.full(count, -1, np.int32)
    labels = arrays[key]
    key = "_".join(key)
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)):
        raise DataError(f"{path}: {key} must be integers ({count},), got {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() >= MOST_CLASSES:
        raise DataError(f"{path}: {key} must count from 0, below {MOST_CLASSES:,}, got labels from {labels.min()} "
                        f"to {labels.max()}")
    return labels.reshape(count).astype(np.int32)


def _judged(path, arrays, train, part):
    """The test or the validation part, which must fit the training part."""
    images = _images(path, arrays, (part, _IMAGES))
    labels = _labels(path, arrays, (part, _LABELS), len(images))
    if images.shape[1:] != train.images.shape[1:]:
        raise DataError(
            f"{path}: {part} images are {images.shape[1:]}, training images {train.images.shape[1:]}"
        )
    check_labelled_alike(train.labels, labels, path)
    if labels.max() > train.labels.max():
        raise DataError(
            f"{path}: {part} label {labels.max()} is above the training labels' {train.labels.max()}"
        )
    return ArraySource(images, labels)
