"""The order of training: which record stands at which position of an endless stream."""

import dataclasses
import functools
from typing import ClassVar

import numpy as np


@dataclasses.dataclass(frozen=True)
class Order:
    """The order of training: position in the endless stream -> record, another permutation in every epoch.

    Attributes:
        records: how many there are.
        seed: decides the permutations.
        repeats: how often a record comes in a row; see `Stream`.
    """

    version: ClassVar[int] = 2  # 1 was Grain's own, which takes 5 microseconds a record
    records: int
    seed: int
    repeats: int = 1

    def __call__(self, positions: np.ndarray | int) -> np.ndarray:
        """Records int64, in the shape of `positions`."""
        positions = np.asarray(positions, np.int64)
        epochs, places = np.divmod(positions, self.records)
        chosen = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = self.of_epoch(int(epoch))[places[here] // self.repeats]
        return chosen

    def record(self, position: int) -> int:
        """The record at one position, without the arrays that several take."""
        epoch, place = divmod(position, self.records)
        return int(self.of_epoch(epoch)[place // self.repeats])

    def epochs(self, positions: np.ndarray) -> np.ndarray:
        """How many epochs ended before."""
        return positions // self.records

    def copies(self, positions: np.ndarray) -> np.ndarray:
        """How many copies of the record came just before, in [0, repeats)."""
        return positions % self.records % self.repeats

    def of_epoch(self, epoch: int) -> np.ndarray:
        """All records in the order of one epoch, counted from 0: int64 `(records,)`."""
        return _permutation(self.records, self.seed, epoch)


@functools.lru_cache(maxsize=4)  # this epoch, and the next one for threads that load ahead
def _permutation(records: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(records)
