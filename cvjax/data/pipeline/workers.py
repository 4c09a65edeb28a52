"""Grain's part: positions of an endless stream, and the threads and worker processes that load ahead."""

import os
import sys
from typing import Any

import grain
import numpy as np
from absl import flags

from cvjax.data.pipeline.order import Order
from cvjax.data.pipeline.watch import WatchedWorkers


class Positions(grain.MapDataset[int]):
    """The records of the endless stream, one by one."""

    def __init__(self, order: Order):
        super().__init__()
        self._order = order

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: Any) -> Any:
        return self._order.record(position)


class PositionBatches(grain.MapDataset[np.ndarray]):
    """The records of one process's part of each batch of the endless stream: int64 `(rows,)`."""

    def __init__(self, order: Order, rows: int, share: tuple[int, int]):
        super().__init__()
        self._order, self._rows, (self._index, self._count) = order, rows, share

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, batch: Any) -> Any:
        first = (batch * self._count + self._index) * self._rows
        return self._order(np.arange(first, first + self._rows))


class ProcessRows(grain.MapDataset[Any]):
    """Rows `[index * rows, (index + 1) * rows)` of each batch of a stream; its batches have `rows * count` rows."""

    def __init__(self, parent: grain.MapDataset, rows: int, share: tuple[int, int]):
        super().__init__(parent)
        self._rows, (self._index, self._count) = rows, share

    def __len__(self) -> int:
        return len(self._parent) // (self._rows * self._count) * self._rows

    def __getitem__(self, position: Any) -> Any:
        batch, row = divmod(position, self._rows)
        return self._parent[(batch * self._count + self._index) * self._rows + row]


def iterate(dataset: grain.MapDataset, start: int, *, workers: int, threads: int | None) -> Any:
    """An iterator from element `start` on, with `close()`, loading ahead by a few batches.

    Args:
        workers: worker processes; 0 loads with threads in this process.
        threads: loading threads in all; None: the machine's cores, at most 16.

    Raises:
        ProcessError: from the iteration, see `WatchedWorkers`.
    """
    in_each = max(1, (threads or min(16, os.cpu_count() or 1)) // max(workers, 1))
    options = grain.ReadOptions(num_threads=in_each, prefetch_buffer_size=in_each + 1)
    stream = dataset[start:].to_iter_dataset(options)
    if not workers:
        return _started(stream)
    # Grain's workers read a flag, which fails in a program that does not use absl's own `app.run`.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    processes = grain.MultiprocessingOptions(num_workers=workers)
    # Copied, because Python complains about arrays in a worker's shared memory that are still held at exit.
    return WatchedWorkers(lambda begin: _started(stream.mp_prefetch(processes, begin).map(_copy)))


def _started(stream: grain.IterDataset) -> grain.DatasetIterator:
    iterator = iter(stream)
    iterator.start_prefetch()
    return iterator


def _copy(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: np.array(value) for key, value in batch.items()}
