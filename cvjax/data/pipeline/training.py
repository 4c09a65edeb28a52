"""Training batches: an endless shuffled stream that can be resumed exactly."""

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cvjax.data.bad_files import BadFiles
from cvjax.data.dataset import ArraySource, Source
from cvjax.data.pipeline.order import Order
from cvjax.data.pipeline.reading import Crop, Gather, LoadOrNext, count_dropped, only_index, reason, rows_here
from cvjax.data.pipeline.workers import PositionBatches, Positions, ProcessRows, iterate
from cvjax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Stream:
    """The description of a stream of training batches, and of its loading.

    Attributes:
        batch_size: global, over all processes. A batch may reach over the end of an epoch.
        seed: of the order and of random crops, in [0, 2**32).
        start_batch: where to start; the stream goes on as if the batches before had been drawn.
        repeats: how many times each record comes in a row (Hoffer et al. 2020, https://arxiv.org/abs/1901.09335), to be
            augmented differently each time. An epoch keeps its length, so it sees one in `repeats` of the records (as
            in timm). With 2 or more, batches also have `copy` int32 `(B,)`: the number of the copy, from 0.
        with_epoch: batches also have `epoch` int32 `(B,)`: how many epochs ended before.
        only_index: batches of an `ArraySource` have only `index`, for images that are on the device.
        share: `(p, P)`: this process holds the p-th of P equal parts of each batch.
        workers: worker processes; 0 loads with threads in this process. Each takes seconds to start.
        threads: loading threads in all; None: the machine's cores, at most 16.
    """

    batch_size: int
    seed: int
    start_batch: int = 0
    repeats: int = 1
    with_epoch: bool = False
    only_index: bool = False
    share: tuple[int, int] = (0, 1)
    workers: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise DataError(f"seed must lie in [0, 2**32), got {self.seed}")
        if self.repeats < 1:
            raise DataError(f"repeats must be at least 1, got {self.repeats}")


class TrainBatches:
    """An endless stream of shuffled batches, every epoch in another order. `close()` stops its threads and processes.

    A batch is `image` uint8 `(B, H, W, C)`, `label` int32 `(B,)` or float32 `(B, K)`, and `index` int64 `(B,)`, with
    B = `batch_size / P` where there are P processes. A record that cannot be decoded is replaced by the next one that
    can; `label` and `index` are those of the replacement.

    Args:
        source: the records.
        crop: makes all images one size; None for an `ArraySource`, whose batch is then a single gather.
        stream: see `Stream`.
        bad: where bad records are counted; by default a count with the usual limit and no file.

    Raises:
        DataError: for an impossible combination; from the stream, when too many records are bad.
    """

    def __init__(self, source: Source, crop: Crop | None, stream: Stream, bad: BadFiles | None = None):
        rows = rows_here(source, crop, stream.batch_size, stream.share)
        order = Order(len(source), stream.seed, stream.repeats)
        self._source, self._crop, self._stream = source, crop, stream
        self._batches = _batches(source, crop, stream, order, rows)
        self._identity = _identity(source, stream)
        self._fields: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
            **({"epoch": order.epochs} if stream.with_epoch else {}),
            **({"copy": order.copies} if stream.repeats > 1 else {})}
        self._rows = stream.share[0] * rows + np.arange(rows)  # of a global batch, those of this process
        self.bad = count_dropped(source, bad)
        self._open(stream.start_batch)

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._running:
            raise StopIteration
        batch = next(self._running[0])
        positions = self._next_batch * self._stream.batch_size + self._rows
        batch |= {name: field(positions).astype(np.int32) for name, field in self._fields.items()}
        self._next_batch += 1
        for index in batch.pop("bad", ()):
            if index >= 0:
                self.bad.add(self._source.name(index), reason(self._source, self._crop, index))
        return batch

    def state(self) -> dict[str, Any]:
        """The position, and the identity of its stream, as JSON."""
        return {"next_batch": self._next_batch, **self._identity}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to the position of `state`, exactly, whatever the number of workers or processes was.

        Raises:
            DataError: when the state is of another seed, batch size or data set.
        """
        for key, mine in self._identity.items():
            if state.get(key) != mine:
                raise DataError(f"cannot resume the data stream: {key} was {state.get(key)}, now it is {mine}")
        self.close()
        self._open(state["next_batch"])

    def close(self) -> None:
        """Stops loading; the stream is then at its end, but can be restored."""
        self._stop()

    def _open(self, next_batch: int) -> None:
        if next_batch < 0:
            raise DataError(f"the first batch must be at least 0, got {next_batch}")
        self._next_batch = int(next_batch)
        self._running = [iterate(self._batches, self._next_batch, workers=self._stream.workers,
                                 threads=self._stream.threads)]
        # Loading also stops at exit and when the stream is garbage: Grain's own clean-up comes too late in a closing
        # interpreter.
        self._stop = weakref.finalize(self, _stop, self._running)


def _batches(source: Source, crop: Crop | None, stream: Stream, order: Order, rows: int) -> Any:
    """Grain's data set of the batches of this process."""
    if crop is None:
        assert isinstance(source, ArraySource)  # `rows_here` has checked it
        positions = PositionBatches(order, rows, stream.share)
        return positions.map(only_index if stream.only_index else Gather(source))
    # The crop's randomness is keyed by the position in the whole stream, so it comes before the cut into shares.
    examples = Positions(order).seed(stream.seed).random_map(LoadOrNext(source, crop))
    # The endless stream's length is the greatest int: rounding its batches up would overflow.
    return ProcessRows(examples, rows, stream.share).batch(rows, drop_remainder=True)


def _identity(source: Source, stream: Stream) -> dict[str, Any]:
    """The facts that must be equal for a position to mean the same."""
    identity = {
        "order": Order.version,
        "seed": int(stream.seed),
        "batch_size": int(stream.batch_size),
        "records": len(source),
        "fingerprint": source.fingerprint,
    }
    return identity | ({"repeats": int(stream.repeats)} if stream.repeats > 1 else {})


def _stop(running: list) -> None:
    # Taken out of the list, so that this was the last reference and the iterator is gone at once.
    running.pop().close()
