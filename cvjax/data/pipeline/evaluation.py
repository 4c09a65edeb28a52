"""Evaluation batches: every record once, in order, none dropped."""

from collections.abc import Iterator

import grain
import numpy as np

from cvjax.data.bad_files import BadFiles
from cvjax.data.dataset import ArraySource, Source
from cvjax.data.pipeline.reading import Crop, GatherOrMask, LoadOrMask, count_dropped, reason, rows_here
from cvjax.data.pipeline.workers import iterate


def eval_batches(source: Source, crop: Crop | None, *, batch_size: int, share: tuple[int, int] = (0, 1),
                 threads: int | None = None, bad: BadFiles | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Every record once, in order, in batches of one size; the same number of batches in every process.

    A batch has the fields of `TrainBatches` and `mask` bool `(B,)`: False on the rows that pad the last batch (zero
    image, label 0, index -1) and on records that cannot be decoded (the same, with their index).

    Args:
        source, crop, bad: as for `TrainBatches`.
        batch_size, share, threads: as in `Stream`; but process p of P holds rows p, p + P, p + 2P, ... of a batch.

    Raises:
        DataError: for an impossible combination; while iterating, when too many records are bad.
    """
    rows, (index, count) = rows_here(source, crop, batch_size, share), share
    padded = -(-len(source) // batch_size) * batch_size
    positions = grain.MapDataset.range(padded)[index::count].batch(rows)
    if crop is None:
        assert isinstance(source, ArraySource)  # `rows_here` has checked it
        batches = positions.map(GatherOrMask(source))
    else:
        batches = positions.map(LoadOrMask(source, crop))
    return _evaluate(batches, source, crop, threads, count_dropped(source, bad))


def _evaluate(batches: grain.MapDataset, source: Source, crop: Crop | None, threads: int | None,
              bad: BadFiles) -> Iterator[dict[str, np.ndarray]]:
    iterator = iterate(batches, 0, workers=0, threads=threads)
    try:
        for batch in iterator:
            for index in batch["index"][~batch["mask"]]:
                if index >= 0:
                    bad.add(source.name(index), reason(source, crop, index))
            yield batch
    finally:
        iterator.close()
