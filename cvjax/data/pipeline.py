"""From records to batches, by Grain: shuffled without end for training, in order and complete for evaluation.

The whole position of a training stream is one integer, the number of batches drawn. Record order and random
crops depend on the seed and on that position alone, never on threads, workers or the number of processes.

With P processes, process p holds the p-th of P equal parts of each global training batch, so that the parts one
after the other are the batch of one process; of evaluation batches it holds rows p, p + P, p + 2P, ...
"""

import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import grain
import numpy as np

from cvjax.data.bad_files import BadFiles
from cvjax.data.dataset import ArraySource, Source, annotations_of
from cvjax.data.decode import DecodeError
from cvjax.data.errors import DataError

# crop(image, rng, **annotations) -> the image, or fields of an example. A record's annotations are what it holds beside
# image, label and index. Where a record is missing or bad, the crop gets a blank image and no annotations.
Crop = Callable[..., np.ndarray | dict[str, np.ndarray]]

# How many records after a bad one are tried in its place. A longer run of bad ones is no accident.
_TRIES = 100


def train_batches(
    source: Source,
    crop: Crop | None,
    *,
    batch_size: int,
    seed: int,
    start_batch: int = 0,
    workers: int = 0,
    threads: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    bad: BadFiles | None = None,
    only_index: bool = False,
    with_epoch: bool = False,
    repeats: int = 1,
) -> "TrainBatches":
    """An endless stream of shuffled batches, every epoch in another order.

    A batch is `image` uint8 `(B, H, W, C)`, `label` int32 `(B,)`, `index` int64 `(B,)`, with
    B = `batch_size / process_count`. The slot of a record that cannot be decoded is filled by the next one
    that can: `label` and `index` are those of the record that is there.

    Args:
        crop: makes all images one size; None for an `ArraySource`, whose batch is then a single gather.
        batch_size: global, over all processes. A batch may reach over the end of an epoch.
        seed: in [0, 2**32).
        start_batch: where to start; the stream goes on as if the batches before had been drawn.
        workers: worker processes; 0 loads with threads in this one. Each costs seconds to start.
        threads: loading threads in all; by default the machine's cores, at most 16.
        bad: where bad records are counted; by default a count with the usual limit and no file.
        only_index: batches of an `ArraySource` are `index` alone, the same ones, for images that are on the device.
        with_epoch: batches also have `epoch` int32 `(B,)`: how often the training set had been gone through before.
        repeats: each record comes so many times in a row (Hoffer et al. 2020, https://arxiv.org/abs/1901.09335), to be
            augmented otherwise each time. An epoch keeps its length, so it sees one in `repeats` of the records (as
            timm's does). Batches then also have `copy` int32 `(B,)`, from 0: which of the times it is.

    Raises:
        DataError: for an impossible combination; from the stream, when too many records are bad.
    """
    local = _local_batch(source, crop, batch_size, process_index, process_count)
    if not 0 <= seed < 2**32:
        raise DataError(f"seed must lie in [0, 2**32), got {seed}")
    if repeats < 1:
        raise DataError(f"repeats must be at least 1, got {repeats}")
    order = Order(len(source), seed, repeats)
    if crop is None:
        dataset = _PositionBatches(order, local, process_index, process_count)
        dataset = dataset.map(_only_index if only_index else _Gather(source))
    else:
        # The crop's randomness is keyed by position in the whole stream, hence before that is cut into shards.
        dataset = _Positions(order).seed(seed).random_map(_LoadOrNext(source, crop))
        # The endless stream's length is the greatest int: rounding its batches up would overflow.
        dataset = _ProcessRows(dataset, local, process_index, process_count).batch(local, drop_remainder=True)
    identity = {
        "order": Order.version,
        "seed": int(seed),
        "batch_size": int(batch_size),
        "records": len(source),
        "fingerprint": source.fingerprint,
    }
    if repeats > 1:
        identity["repeats"] = int(repeats)
    start = functools.partial(_iterate, dataset, workers=workers, threads=threads or _default_threads())
    fields = {"epoch": order.epochs} if with_epoch else {}
    fields |= {"copy": order.copies} if repeats > 1 else {}
    rows = process_index * local + np.arange(local)
    return TrainBatches(start, identity, start_batch, source, crop, _counted(source, bad), fields, rows)


class TrainBatches:
    """The iterator that `train_batches` returns. `close()` stops its threads and worker processes."""

    def __init__(self, start: Callable, identity: dict, next_batch: int, source: Source, crop: Crop | None,
                 bad: BadFiles, fields: Mapping[str, Callable[[np.ndarray], np.ndarray]], rows: np.ndarray):
        self._start, self._identity, self._source, self._crop, self.bad = start, identity, source, crop, bad
        self._fields = fields  # name -> function of positions in the stream, for what is known without a record
        self._rows = rows  # of a global batch, those of this process
        self._open(next_batch)

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._running:
            raise StopIteration
        batch = next(self._running[0])
        positions = self._next_batch * self._identity["batch_size"] + self._rows
        batch |= {name: field(positions).astype(np.int32) for name, field in self._fields.items()}
        self._next_batch += 1
        for index in batch.pop("bad", ()):
            if index >= 0:
                self.bad.add(self._source.name(index), _reason(self._source, self._crop, index))
        return batch

    def state(self) -> dict:
        """The position, and what it is a position in: JSON-able."""
        return {"next_batch": self._next_batch, **self._identity}

    def restore(self, state: dict) -> None:
        """Goes to the position of `state`, exactly, whatever the number of workers or processes was.

        Raises:
            DataError: when the state is of another seed, batch size or data set.
        """
        for key, mine in self._identity.items():
            if state.get(key) != mine:
                raise DataError(
                    f"cannot resume the data stream: {key} was {state.get(key)}, now it is {mine}"
                )
        self.close()
        self._open(state["next_batch"])

    def close(self) -> None:
        """Stops loading; the stream is then at its end, but can be restored."""
        self._stop()

    def _open(self, next_batch):
        if next_batch < 0:
            raise DataError(f"the first batch must be at least 0, got {next_batch}")
        self._next_batch = int(next_batch)
        self._running = [self._start(self._next_batch)]
        # Also at exit and when forgotten, for Grain's own clean-up comes too late in a closing interpreter.
        self._stop = weakref.finalize(self, _stop, self._running)


def eval_batches(
    source: Source,
    crop: Crop | None,
    *,
    batch_size: int,
    threads: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    bad: BadFiles | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Every record once, in order, in batches of one size; the same number of batches in every process.

    A batch is that of `train_batches` and `mask` bool `(B,)`: False on the rows that pad the last batch (zero
    image, label 0, index -1) and on records that cannot be decoded (the same, with their index).

    Raises:
        DataError: for an impossible combination; while iterating, when too many records are bad.
    """
    local = _local_batch(source, crop, batch_size, process_index, process_count)
    rows = -(-len(source) // batch_size) * batch_size
    dataset = grain.MapDataset.range(rows)[process_index::process_count].batch(local)
    dataset = dataset.map(_GatherOrMask(source) if crop is None else _LoadOrMask(source, crop))
    threads = threads or _default_threads()
    return _evaluate(dataset, source, crop, threads, _counted(source, bad))


def _evaluate(dataset, source, crop, threads, bad):
    iterator = _iterate(dataset, 0, workers=0, threads=threads)
    try:
        for batch in iterator:
            for index in batch["index"][~batch["mask"]]:
                if index >= 0:
                    bad.add(source.name(index), _reason(source, crop, index))
            yield batch
    finally:
        iterator.close()


def _iterate(dataset, start, *, workers, threads):
    """Grain's iterator from element `start` on, loading ahead by a few batches."""
    in_each = max(1, threads // max(workers, 1))
    options = grain.ReadOptions(num_threads=in_each, prefetch_buffer_size=in_each + 1)
    stream = dataset[start:].to_iter_dataset(options)
    if workers:
        from absl import flags

        # Grain's workers read a flag, which fails in a program that does not use absl's own `app.run`.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        # Copied, for arrays in a worker's shared memory are complained of if they are still held at exit.
        options = grain.MultiprocessingOptions(num_workers=workers)
        stream = stream.mp_prefetch(options, _follow_parent).map(_copy)
    iterator = iter(stream)
    iterator.start_prefetch()
    return iterator


@dataclasses.dataclass(frozen=True)
class Order:
    """The order of training: position in the endless stream -> record, another permutation in every epoch.

    repeats: see `train_batches`.
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
        """How often the record was there just before, in [0, repeats)."""
        return positions % self.records % self.repeats

    def of_epoch(self, epoch: int) -> np.ndarray:
        """All records in the order of one epoch, counted from 0: int64 `(records,)`."""
        return _permutation(self.records, self.seed, epoch)


@functools.lru_cache(maxsize=4)  # an epoch, and for those who load ahead the next
def _permutation(records, seed, epoch):
    return np.random.default_rng((seed, epoch)).permutation(records)


class _Positions(grain.MapDataset):
    """The records of the endless stream, one by one."""

    def __init__(self, order):
        super().__init__()
        self._order = order

    def __len__(self):
        return sys.maxsize

    def __getitem__(self, position):
        return self._order.record(position)


class _PositionBatches(grain.MapDataset):
    """The records of a process's part of each batch of the endless stream: int64 `(local,)`."""

    def __init__(self, order, local, index, count):
        super().__init__()
        self._order, self._local, self._index, self._count = order, local, index, count

    def __len__(self):
        return sys.maxsize

    def __getitem__(self, batch):
        first = (batch * self._count + self._index) * self._local
        return self._order(np.arange(first, first + self._local))


class _ProcessRows(grain.MapDataset):
    """Rows `[index * local, (index + 1) * local)` of each batch of a stream; its batches have `local * count` rows."""

    def __init__(self, parent, local, index, count):
        super().__init__(parent)
        self._local, self._index, self._count = local, index, count

    def __len__(self):
        return len(self._parent) // (self._local * self._count) * self._local

    def __getitem__(self, position):
        batch, row = divmod(position, self._local)
        return self._parent[(batch * self._count + self._index) * self._local + row]


def _follow_parent(worker, workers):
    """In a worker process: leave signals to the run, and end when the run ends, be it by SIGKILL."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _copy(batch):
    return {key: np.array(value) for key, value in batch.items()}


def _stop(running):
    # Taken out of the list, so that this was the last reference and the iterator is gone at once.
    running.pop().close()


@dataclasses.dataclass(frozen=True)
class _Gather:
    """Positions `(B,)` -> a batch of images that are in memory."""

    source: ArraySource

    def __call__(self, positions):
        return {
            "image": self.source.images[positions],
            "label": self.source.labels[positions],
            "index": positions,
        }


def _only_index(positions):
    return {"index": positions}


@dataclasses.dataclass(frozen=True)
class _GatherOrMask:
    """Positions `(B,)` -> a batch of images that are in memory, masked where there is no record."""

    source: ArraySource

    def __call__(self, positions):
        mask = positions < len(self.source)
        batch = _Gather(self.source)(np.where(mask, positions, 0))
        batch["image"][~mask] = 0
        batch["label"][~mask] = 0
        batch["index"][~mask] = -1
        return {**batch, "mask": mask}


@dataclasses.dataclass(frozen=True)
class _LoadOrNext:
    """Position -> example; in the place of a bad record, the next good one."""

    source: Source
    crop: Crop

    def __call__(self, position, rng):
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
            f"{_reason(self.source, self.crop, position)}"
        )


@dataclasses.dataclass(frozen=True)
class _LoadOrMask:
    """Positions `(B,)` -> a batch, masked where there is no record or a bad one."""

    source: Source
    crop: Crop

    def __call__(self, positions):
        examples = [self._example(int(position)) for position in positions]
        return {key: np.stack([example[key] for example in examples]) for key in examples[0]}

    def _example(self, index):
        if index >= len(self.source):
            return {
                **self._blank,
                "label": np.int32(0),
                "index": np.int64(-1),
                "mask": np.bool_(False),
            }
        try:
            example = _load(self.source, self.crop, index, np.random.default_rng(index))
        except (DecodeError, OSError):
            return {
                **self._blank,
                "label": np.int32(0),
                "index": np.int64(index),
                "mask": np.bool_(False),
            }
        return {**example, "mask": np.bool_(True)}

    @functools.cached_property
    def _blank(self):
        return _cropped(self.crop, {"image": np.zeros((1, 1, 1), np.uint8)}, np.random.default_rng(0))


def _load(source, crop, index, rng):
    record = source[index]
    return {**_cropped(crop, record, rng), "label": np.int32(record["label"]),
            "index": np.int64(record["index"])}


def _cropped(crop, record, rng):
    """Fields of an example: what a crop gives is an image, or is fields."""
    made = crop(record["image"], rng, **annotations_of(record))
    return made if isinstance(made, dict) else {"image": made}


def _reason(source, crop, index):
    """Why a record is bad: it is read again, for a batch of arrays has no room for words."""
    try:
        _load(source, crop, index, np.random.default_rng(0))
    except (DecodeError, OSError) as error:
        return str(error)
    return "cannot be read"


def _counted(source, bad):
    bad = BadFiles(len(source)) if bad is None else bad
    for name, reason in getattr(source, "dropped", ()):
        bad.add(name, reason)
    return bad


def _local_batch(source, crop, batch_size, process_index, process_count):
    if not len(source):
        raise DataError("the data set has no records")
    if crop is None and not isinstance(source, ArraySource):
        raise DataError("images that are not in memory need a crop to make them one size, got None")
    if not 0 <= process_index < process_count:
        raise DataError(f"process_index must lie in [0, {process_count}), got {process_index}")
    if batch_size < 1 or batch_size % process_count:
        raise DataError(
            f"batch_size must be a positive multiple of the {process_count} processes, got {batch_size}"
        )
    return batch_size // process_count


def _default_threads():
    return min(16, os.cpu_count() or 1)
