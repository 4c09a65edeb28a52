"""Finds test pictures that are copies of training pictures, byte for byte."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from cvjax.data.dataset import ArraySource, Source
from cvjax.data.decode import DecodeError

# What may be read to compare pictures, in bytes; opening a file counts as much as reading 64 KiB. A small data set is
# compared as a whole, of a larger one those test pictures for which the least must be read.
BUDGET, _OPENING = 2**29, 2**16


def copies(train: Source, test: Source, sizes: tuple[np.ndarray, np.ndarray], part: str = "test") -> str:
    """What to say of a test part with copies of training pictures, in words; empty if it has none.

    Pictures of one size in bytes are candidates, and only these are read and hashed.

    Args:
        sizes: of both sources' pictures, in bytes, int `(N,)` and `(M,)`; where it is -1, it is not known, and the
            picture is not compared.
        part: its name in the words.
    """
    ours, theirs = sizes
    common = np.intersect1d(ours, theirs)
    common = common[common >= 0]
    counts = [np.bincount(np.searchsorted(common, side[np.isin(side, common)]), minlength=len(common))
              for side in (ours, theirs)]
    cost = (counts[0] + counts[1]) * (common + _OPENING)
    cheapest = np.argsort(cost / np.maximum(counts[1], 1), kind="stable")
    compared = common[cheapest[np.cumsum(cost[cheapest]) <= BUDGET]]
    known = _digests(train, np.flatnonzero(np.isin(ours, compared)))
    hashed = _digests(test, np.flatnonzero(np.isin(theirs, compared)))
    original = {digest: i for i, digest in reversed(known.items())}
    found = [(i, original[digest]) for i, digest in hashed.items() if digest in original]
    if not found:
        return ""
    skipped = int(np.isin(theirs, common).sum() - np.isin(theirs, compared).sum())
    looked_at = f" that were looked at, of {len(test):,}," if skipped else ""
    first, its_original = found[0]
    return (f"{len(found):,} of {len(test) - skipped:,} {part} pictures{looked_at} are copies of training pictures, "
            f"such as {test.name(first)} of {train.name(its_original)}")


def array_copies(train: ArraySource, test: ArraySource, part: str = "test") -> str:
    """`copies` of images that are in memory, all of which are compared."""
    if train.images.shape[1:] != test.images.shape[1:]:
        return ""
    original = {image.tobytes(): i for i, image in reversed([*enumerate(train.images)])}
    found = [(i, original[pixels]) for i, image in enumerate(test.images) if (pixels := image.tobytes()) in original]
    if not found:
        return ""
    return (f"{len(found):,} of {len(test):,} {part} pictures are copies of training pictures, such as {part} "
            f"{test.name(found[0][0])} of training {train.name(found[0][1])}")


def _digests(source: Source, positions: np.ndarray) -> dict[int, bytes]:
    """Position -> hash of the encoded picture, where it can be read; the others are counted when they are loaded."""
    def digest(i: int) -> bytes | None:
        try:
            return hashlib.blake2b(source[i]["image"], digest_size=16).digest()
        except (OSError, DecodeError):
            return None

    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        found = list(tqdm(pool.map(digest, positions.tolist()), total=len(positions), desc="compare pictures", delay=2,
                          leave=False))
    return {int(i): each for i, each in zip(positions, found) if each is not None}
