"""Listings of large data sets, kept so that the next run need not look at each file again.

A listing lies in the cache folder, beside others, under a hash of its place. It is used only while each folder that it
came from has the time of change that it had, and while a thousand of its files, evenly spaced, have their sizes. Files
that were changed in place and missed by this are found when they are read: a `FileSource` compares sizes. The listing
of one file at an address, a tar file, is kept whatever its length, while the file's stamp is the same.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvjax.data.cache import cache_folder
from cvjax.durable import write_whole
from cvjax.errors import CvjaxError
from cvjax.storage import facts, is_address
from cvjax.text import read_text

FEWEST = 10_000  # files from which on a listing is kept; shorter ones are made in no time
_LOOKED_AT = 1000
_VERSION = 2
_SETTLED = 2_000_000_000  # ns: a later change within the clock's tick would not change the time of change


def kept_listing(place: str) -> dict[str, Any] | None:
    """The content that was kept for a place, if the place is as it was then."""
    try:
        kept = json.loads(read_text(_file(place)))
        if kept["version"] != _VERSION or kept["place"] != _whole(place):
            return None
        if any(facts(folder).stamp != changed for folder, changed in kept["changed"].items()):
            return None
        if any(os.stat(name).st_size != size for name, size in kept["looked_at"]):
            return None
        return kept["content"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CvjaxError):
        return None


def keep_listing(place: str, content: Mapping[str, Any], folders: Sequence[str | os.PathLike],
                 files: Sequence[tuple[str, int]]) -> None:
    """Keeps a listing, if it is long or of an address; nothing is kept where the cache folder cannot be written.

    Args:
        content: JSON.
        folders: all that were looked into, or files whose time of change tells whether they are the same.
        files: `(path, bytes)` of all files.
    """
    far = is_address(place)
    if len(files) < FEWEST and not far:
        return
    with contextlib.suppress(OSError):
        changed = {str(folder): facts(folder).stamp for folder in folders}
        if not far and max(map(int, changed.values())) > time.time_ns() - _SETTLED:
            return
        looked_at = [] if far else files[::max(1, len(files) // _LOOKED_AT)]
        path = _file(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"version": _VERSION, "place": _whole(place), "changed": changed,
                                      "looked_at": looked_at, "content": content}), synced=False)


def _file(place: str) -> Path:
    digest = hashlib.blake2b(os.fsencode(_whole(place)), digest_size=16).hexdigest()
    return cache_folder() / "listings" / f"{digest}.json"


def _whole(place: str) -> str:
    return place if is_address(place) else os.path.abspath(place)
