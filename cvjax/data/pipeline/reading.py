"""From the position of a record to an example, and the replacement of a record that cannot be read.

These are small objects that pickle, because Grain sends them to worker processes.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from cvjax.data.bad_files import BadFiles
from cvjax.data.dataset import ArraySource, Source, annotations_of
from cvjax.data.decode import DecodeError
from cvjax.errors import DataError

# crop(image, rng, **annotations) -> the image, or fields of an example. A record's annotations are its fields besides
# image, label and index. For a missing or bad record, the crop gets a blank image and no annotations.
Crop = Callable[..., np.ndarray | dict[str, np.ndarray]]

# How many records after a bad one are tried in its place. A longer run of bad ones is no accident.
_TRIES = 100


@dataclasses.dataclass(frozen=True)
class Gather:
    """Positions int `(B,)` -> a batch of images that are in memory."""

    source: ArraySource

    def __call__(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": self.source.images[positions], "label": self.source.labels[positions], "index": positions}


def only_index(positions: np.ndarray) -> dict[str, np.ndarray]:
    """Positions int `(B,)` -> a batch with nothing but the records' positions."""
    return {"index": positions}


@dataclasses.dataclass(frozen=True)
class GatherOrMask:
    """Positions int `(B,)` -> a batch of images that are in memory, masked where there is no record."""

    source: ArraySource

    def __call__(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        mask = positions < len(self.source)
        batch = Gather(self.source)(np.where(mask, positions, 0))
        batch["image"][~mask] = 0
        batch["label"][~mask] = 0
        batch["index"][~mask] = -1
        return {**batch, "mask": mask}


@dataclasses.dataclass(frozen=True)
class LoadOrNext:
    """Position -> example; in the place of a bad record, the next good one.

    The example's field `bad` is the position of a record that another one replaces, else -1.
    """

    source: Source
    crop: Crop

    def __call__(self, position: int, rng: np.random.Generator) -> dict[str, Any]:
        count = len(self.source)
        for tried in range(min(_TRIES, count)):
            index = (position + tried) % count
            try:
                example = _load(self.source, self.crop, index, rng)
            except (DecodeError, OSError):
                continue
            return {**example, "bad": np.int64(position if tried else -1)}
        raise DataError(
            f"{min(_TRIES, count)} files in a row cannot be read, from {self.source.name(position)} on: "
            f"{reason(self.source, self.crop, position)}"
        )


@dataclasses.dataclass(frozen=True)
class LoadOrMask:
    """Positions int `(B,)` -> a batch, masked where there is no record or a bad one."""

    source: Source
    crop: Crop

    def __call__(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        examples = [self._example(int(position)) for position in positions]
        return {key: np.stack([example[key] for example in examples]) for key in examples[0]}

    def _example(self, index: int) -> dict[str, Any]:
        if index >= len(self.source):
            return self._masked(-1)
        try:
            example = _load(self.source, self.crop, index, np.random.default_rng(index))
        except (DecodeError, OSError):
            return self._masked(index)
        return {**example, "mask": np.bool_(True)}

    def _masked(self, index: int) -> dict[str, Any]:
        return {**self._blank, "index": np.int64(index), "mask": np.bool_(False)}

    @functools.cached_property
    def _blank(self) -> dict[str, np.ndarray]:
        labels = self.source.labels
        label = np.zeros(() if labels is None else labels.shape[1:])
        record = {"image": np.zeros((1, 1, self.source.channels), np.uint8), "label": label, "index": -1}
        return _to_example(self.crop, record, np.random.default_rng(0))


def reason(source: Source, crop: Crop | None, index: int) -> str:
    """Why a record is bad. It is read again, because a batch of arrays has no room for words."""
    try:
        if crop is not None:
            _load(source, crop, index, np.random.default_rng(0))
    except (DecodeError, OSError) as error:
        return str(error)
    return "cannot be read"


def rows_here(source: Source, crop: Crop | None, batch_size: int, share: tuple[int, int]) -> int:
    """How many rows of a batch this process holds.

    Raises:
        DataError: for a source, a batch size and a share from which no batch can be made.
    """
    index, count = share
    if not len(source):
        raise DataError("the data set has no records")
    if crop is None and not isinstance(source, ArraySource):
        raise DataError("images that are not in memory need a crop to make them one size, got None")
    if not 0 <= index < count:
        raise DataError(f"share: the index of a process must lie in [0, {count}), got {index}")
    if batch_size < 1 or batch_size % count:
        raise DataError(f"batch_size must be a positive multiple of the {count} processes, got {batch_size}")
    return batch_size // count


def count_dropped(source: Source, bad: BadFiles | None) -> BadFiles:
    """The account of bad records, with those that were dropped when the source was made; a new one for None."""
    bad = BadFiles(len(source)) if bad is None else bad
    if isinstance(source, ArraySource):
        for name, why in source.dropped:
            bad.add(name, why)
    return bad


def _load(source: Source, crop: Crop, index: int, rng: np.random.Generator) -> dict[str, Any]:
    return _to_example(crop, source[index], rng)


def _to_example(crop: Crop, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Fields of an example: a crop gives an image, or the fields besides label and index."""
    made = crop(record["image"], rng, **annotations_of(record))
    label = record["label"]
    return {**(made if isinstance(made, dict) else {"image": made}),
            "label": np.asarray(label, np.int32 if np.ndim(label) == 0 else np.float32),
            "index": np.int64(record["index"])}
