"""A first look at a small data set: its pictures are decoded before anything is compiled.

A run of few pictures ends by few bad ones. It must not compile for a minute first.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cvjax.data.bad_files import BadFiles
from cvjax.data.dataset import Source
from cvjax.data.decode import DecodeError, LazyImage

# About a second on two cores. A larger data set may have more bad files, and they are counted while it is read.
MOST_FILES, MOST_BYTES = 2_000, 2**26
MOST_PIXELS = 2**28  # which few bytes may hold

_UNKNOWN = 2**16  # bytes that a file counts for whose size is not known
_TOGETHER = 64  # pictures that are decoded before pixels are counted


def look_at_all(parts: Sequence[Source], bad: BadFiles) -> None:
    """Decodes all pictures of a data set's parts whole, if these are at most `MOST_FILES` of `MOST_BYTES` together.

    It ends early once they have had `MOST_PIXELS`. Sources without sizes are not looked at.

    Raises:
        DataError: when too many cannot be read; all that were seen are in the list then.
    """
    sizes = [getattr(part, "sizes", None) for part in parts]
    known = [np.where(each < 0, _UNKNOWN, each).sum() for each in sizes if each is not None]
    if len(known) < len(parts) or sum(known) > MOST_BYTES or sum(map(len, parts)) > MOST_FILES:
        return
    records = [(part, index) for part in parts for index in range(len(part))]
    faults: dict[str, str] = {}
    pixels = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(records), _TOGETHER):
            here = records[start:start + _TOGETHER]
            for (part, index), found in zip(here, pool.map(_pixels, here)):
                if isinstance(found, str):
                    faults[part.name(index)] = found
                else:
                    pixels += found
            if pixels > MOST_PIXELS:
                break
    bad.add_all(faults)


def _pixels(record: tuple[Source, int]) -> int | str:
    """How many pixels a record has, or why it cannot be read."""
    source, index = record
    try:
        with LazyImage(source[index]["image"], source.channels) as image:
            image.pixels()
            return image.height * image.width
    except (DecodeError, OSError) as error:
        return str(error) or type(error).__name__
