"""Label maps from any source: the labels that they may have, and the label maps of a whole source.

A record's `label_map` is uint8 `(H, W)` of the image's size: classes from 0, and 255 where a pixel does not count.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from cvjax.data.dataset import Source
from cvjax.data.decode import DecodeError, LazyImage, decode_label_map, decode_numbers
from cvjax.data.orientation import header_of, turn_of, upright_map
from cvjax.errors import DataError

IGNORE = 255  # the label of pixels that do not count

_SAMPLE = 200  # label maps that are looked at for their classes
_COMMON = 0.01  # share of the pixels from which on 255 is common


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the numbers in label maps mean.

    Attributes:
        classes: how many there are; labels are below this, or 255.
        ignore_label: the number of pixels that do not count, besides 255; None for none.
        values: the numbers that stand for classes 0, 1, ...; empty where each stands for itself. 255 may be one.
    """

    classes: int = IGNORE
    ignore_label: int | None = None
    values: tuple[int, ...] = ()

    def words(self) -> str:
        """For a fingerprint."""
        return str((self.classes, self.ignore_label, *([self.values] if self.values else [])))

    def read(self, encoded: bytes | np.ndarray, image: bytes | np.ndarray) -> np.ndarray:
        """A label map uint8 `(H, W)`, with labels below `classes` and 255, upright as its image is.

        Raises:
            DecodeError: for other numbers, and for anything that is no label map, or no image.
        """
        labels = self._meant(encoded)
        header = header_of(image)
        if header.orientation == 1:
            return labels
        height, width = labels.shape
        return np.ascontiguousarray(upright_map(labels, turn_of(header, (height, width)).orientation))

    def _meant(self, encoded) -> np.ndarray:
        if not self.values:
            labels = decode_label_map(encoded)
            if self.ignore_label is not None:
                labels = np.where(labels == self.ignore_label, np.uint8(IGNORE), labels)
            beyond = labels[(labels >= self.classes) & (labels != IGNORE)]
            if beyond.size:
                raise DecodeError(f"label {beyond.max()} in a label map of {self.classes} classes, 0 to "
                                  f"{self.classes - 1} and {IGNORE}")
            return labels
        numbers = decode_numbers(encoded)
        labels = np.full(numbers.shape, IGNORE, np.uint8)
        beyond = numbers != IGNORE if self.ignore_label is None else ~np.isin(numbers, (IGNORE, self.ignore_label))
        for label, value in enumerate(self.values):
            here = numbers == value
            labels[here] = label
            beyond &= ~here
        if beyond.any():
            raise DecodeError(f"number {numbers[beyond].max()} in a label map, where only "
                              f"{', '.join(map(str, self.values))} stand for classes")
        return labels


def check_values(values: Sequence[int], ignore_label: int | None) -> None:
    """DataError unless these are no numbers, or 2 to 255 different ones that stand for classes, without `ignore_label`.
    """
    if values and (not 2 <= len(values) <= IGNORE or len(set(values)) < len(values) or ignore_label in values
                   or not 0 <= min(values) <= max(values) < 2**16):
        raise DataError(f"the numbers that stand for classes must be 2 to {IGNORE} different ones in [0, {2**16}), "
                        f"without the label to ignore; got {', '.join(map(str, values))}")


def image_sizes(source: Source) -> np.ndarray:
    """Height and width of each image, from its header: int64 `(N, 2)`; 1 x 1 if it cannot be read."""
    def size(index: int) -> tuple[int, int]:
        try:
            with LazyImage(source[index]["image"], source.channels) as image:
                return image.height, image.width
        except (DecodeError, OSError):
            return 1, 1

    return np.array(_for_each(range(len(source)), size, "sizes"), np.int64).reshape(-1, 2)


def label_maps(source: Source) -> Iterator[np.ndarray]:
    """The label maps of a source in order, uint8 `(H, W)`, without those that cannot be read."""
    for i in range(len(source)):
        try:
            yield source[i]["label_map"]
        except (DecodeError, OSError):
            continue  # counted once batches are made


def count_classes(source: Source, what: str) -> int:
    """One more than the greatest label of a source; DataError if this is less than two, or nothing can be read."""
    pixels = _pixels(source, np.arange(len(source)), what)
    classes = int(np.flatnonzero(pixels[:IGNORE]).max(initial=-1)) + 1
    if classes < 2:
        raise DataError(f"{what}: its training label maps have {classes} classes, there must be at least two"
                        f"{_likely(pixels)}")
    return classes


def check_named(source: Source, names: Sequence[str], what: str, *, known: bool) -> None:
    """DataError when fewer than two classes occur in a source, or when one of them never does and 255 is common.

    Then 255 probably stands for that class, as in masks of 0 and 255. Unless a sample leaves a doubt, no more label
    maps are read.

    known: whether it is certain that 255 means pixels that do not count; then one class is enough.
    """
    every = np.arange(len(source))
    sample = np.unique(np.linspace(0, len(source) - 1, min(len(source), _SAMPLE)).astype(int))
    pixels = _pixels(source, sample, what)
    if _fine(pixels, len(names), known):
        return
    if len(sample) < len(every):
        pixels = _pixels(source, every, what)
        if _fine(pixels, len(names), known):
            return
    seen, absent = ([name for name, count in zip(names, pixels) if bool(count) is there] for there in (True, False))
    few = f"; they have only {seen[0]}" if len(seen) == 1 else ""
    confirm = f"; if its pixels do not count, say so by --ignore-label {IGNORE}" if pixels[IGNORE] and not known else ""
    raise DataError(f"{what}: no training label map has {', '.join(absent[:3])}{', ...' * (len(absent) > 3)}{few}"
                    f"{_likely(pixels)}{confirm}")


def _fine(pixels, classes, known) -> bool:
    seen = int((pixels[:classes] > 0).sum())
    return seen >= 1 if known else seen >= 2 and (seen == classes or pixels[IGNORE] < _COMMON * pixels.sum())


def _likely(pixels) -> str:
    """What 255 probably means where it occurs; pixels: int `(256,)`, how many have each label."""
    if not pixels[IGNORE]:
        return ""
    values = " ".join(map(str, [*np.flatnonzero(pixels[:IGNORE]), IGNORE]))
    return (f", but {pixels[IGNORE] / pixels.sum():.1%} of the pixels are {IGNORE}, which do not count: if {IGNORE} "
            f"stands for a class, as in masks of 0 and 255, use --mask-values {values}")


def _pixels(source, positions, what) -> np.ndarray:
    """How many pixels have each label in the label maps at `positions`, int64 `(256,)`; DataError if none is readable.
    """
    def count(index: int) -> np.ndarray | str:
        try:
            return np.bincount(source[int(index)]["label_map"].ravel(), minlength=IGNORE + 1)
        except (DecodeError, OSError) as error:
            return f"{source.name(int(index))}: {error}"

    found = _for_each(positions, count, "classes")
    counts = [each for each in found if not isinstance(each, str)]
    if not counts:
        raise DataError(f"{what}: none of {len(found)} training label maps can be used, such as {found[0]}")
    return np.sum(counts, 0)


def _for_each(positions: Sequence[int] | np.ndarray, function: Callable[[int], Any], what) -> list:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(function, positions)
        return list(tqdm(found, total=len(positions), desc=what, leave=False, disable=len(positions) < 1000))
