"""A folder of images packed into a few large files, `packed:DIR`, for storage that is slow with many small files.

DIR holds, for each split, ArrayRecord files of about one size (`train-00000.array_record`, ...), the labels
(`train-labels.npy`, int32 `(N,)`), the images' bytes (`train-sizes.npy`, int64), the records' checksums
(`train-checksums.npy`, uint32), and `manifest.json`, which is written last. A record is the label (int32) and the
length of the file's name (uint32), both little-endian, the name in UTF-8, and the encoded image.

Any record can be read by itself, and is compared with its checksum then (CRC-32, 1 % of the time that decoding takes).
ArrayRecord keeps a hash of each, too; but a record that was exchanged for another one has the right hash. The manifest
has a hash of the arrays and of all contents with the classes in their order.
"""

import dataclasses
import functools
import json
import os
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader

from cvjax.data.dataset import Dataset, fingerprint
from cvjax.data.decode import DecodeError
from cvjax.data.parts import TEST, TRAIN, VALIDATION
from cvjax.data.sources.image_files import hold_test
from cvjax.errors import DataError
from cvjax.storage import open_file
from cvjax.text import read_text

VERSION = 2
WITHOUT_CHECKSUMS = 1  # this version's packs are read, too
MANIFEST = "manifest.json"
HEAD = struct.Struct("<iI")

_SHARD = re.compile(r"[A-Za-z]+-[0-9]+\.array_record")
_ANEW = "python -m experiments.pack makes it anew"


@dataclasses.dataclass(frozen=True)
class PackedSource:
    """One split of a pack, read when asked for; always three channels.

    Attributes:
        root: the pack.
        split: `train`, `test` or `val`.
        shards: names and numbers of records of its files.
        content: a hash of all records of the split.
        labels: int32 `(M,)`, -1 where unlabelled.
        sizes: bytes of each encoded image, int64 `(M,)`; -1 if the pack, an older one, does not say.
        checksums: CRC-32 of each record, uint32 `(M,)`; None if the pack, an older one, has none.
        positions: int `(M,)`, the records of the split that belong to this source; None for all.
    """

    root: str
    split: str
    shards: tuple[tuple[str, int], ...]
    content: str
    labels: np.ndarray
    sizes: np.ndarray
    checksums: np.ndarray | None = None
    positions: np.ndarray | None = None
    channels: int = 3

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.content, *([] if self.positions is None else [self.positions])])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        label, _, image = self._read(index)
        return {"image": image, "label": label, "index": int(index)}

    def name(self, index: int) -> str:
        try:
            return f"{self.root}: {self._read(index)[1]}"
        except DecodeError:  # then its number must do
            return f"{self.root}: {self.split} record {self._record(index)}"

    def take(self, positions: np.ndarray) -> "PackedSource":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        chosen = positions if self.positions is None else self.positions[positions]
        checksums = None if self.checksums is None else self.checksums[positions]
        return dataclasses.replace(self, labels=self.labels[positions], sizes=self.sizes[positions],
                                   checksums=checksums, positions=chosen)

    def _record(self, index: int) -> int:
        return int(index if self.positions is None else self.positions[index])

    def _read(self, index: int) -> tuple[int, str, bytes]:
        """Label, file name, encoded image."""
        try:
            record = self._records[self._record(index)]
        except RuntimeError as error:  # ArrayRecord's error for damage
            raise DecodeError(f"damaged record: {' '.join(str(error).split())[:300]}; {_ANEW}") from error
        if self.checksums is not None and zlib.crc32(record) != self.checksums[index]:
            raise DecodeError(f"damaged record: it has another checksum than when it was packed; {_ANEW}")
        if len(record) < HEAD.size or (head := HEAD.unpack_from(record))[0] != self.labels[index]:
            raise DecodeError(f"damaged record: it has another label than the pack's list; {_ANEW}")
        start = HEAD.size + head[1]
        return head[0], record[HEAD.size:start].decode("utf-8", "surrogateescape"), record[start:]

    @functools.cached_property
    def _records(self) -> Any:
        """The records' bytes by number. It pickles, and opens files when they are first read."""
        return ArrayRecordDataSource([f"{os.path.join(self.root, name)}[0:{count}]" for name, count in self.shards])


def open_packed(path: str, *, seed: int = 0, cache: bool = False) -> Dataset:
    """Opens a pack that `write_pack` wrote. Parts, order and labels are those that `open_folder` gives for the folder.

    Args:
        seed, cache: as for `open_folder`.

    Raises:
        DataError: when it is no pack, of another version, or has files missing, cut short, exchanged or damaged where
            all records need them. A single damaged record is a bad file.
    """
    root = Path(path).expanduser()
    try:
        manifest = json.loads(read_text(root / MANIFEST))
    except FileNotFoundError:
        raise DataError(f"no pack in {path}: it has no {MANIFEST}; python -m experiments.pack makes packs") from None
    except (OSError, ValueError, RecursionError, DataError) as error:
        raise DataError(f"{root / MANIFEST} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("version") not in (VERSION, WITHOUT_CHECKSUMS):
        raise DataError(f"{root / MANIFEST} is not of a pack of version {VERSION}; {_ANEW}")
    try:
        class_names, splits = tuple(manifest["class_names"]), manifest["splits"]
        contents = [facts["content"] for facts in splits.values()]
        if manifest["fingerprint"] != whole_fingerprint(contents, class_names):
            raise ValueError("its classes or contents are not those that the pack was written with")
        parts = {part: _open_split(root, part, splits[part], len(class_names)) for part in (TRAIN, TEST, VALIDATION)
                 if part in splits}
        ignored = str(manifest["ignored"])
        if TRAIN not in parts:
            raise ValueError("it has no training part")
    except DataError:
        raise
    except Exception as error:  # whatever a manifest of another form leads to
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise DataError(f"{root / MANIFEST} is damaged: {' '.join(reason.split())[:200]}; {_ANEW}") from None
    noticed = "" if manifest["version"] == VERSION else (
        f"{path} is a pack without checksums, in which an exchanged record is not noticed; {_ANEW}")
    return hold_test(parts, class_names, ignored, noticed, seed=seed, cache=cache)


def whole_fingerprint(contents: Sequence[str], class_names: Sequence[str]) -> str:
    """The hash of a pack: of the hashes of its splits' contents, and of the names of its classes."""
    return fingerprint([*contents, *class_names])


def _open_split(root: Path, split: str, facts: Mapping[str, Any], classes: int) -> PackedSource:
    shards = tuple((_checked(root, shard), int(shard["records"])) for shard in facts["shards"])
    labels = _array(root / f"{split}-labels.npy", facts["labels"], np.int32)
    count = sum(count for _, count in shards)
    if not count == len(labels) == facts["records"] > 0:
        raise ValueError(f"its {split} part has {count:,} records and {len(labels):,} labels")
    if labels.min() < -1 or labels.max() >= classes:
        raise ValueError(f"its {split} part has labels from {labels.min()} to {labels.max()} of {classes} classes")
    sizes = _array(root / f"{split}-sizes.npy", facts["sizes"], np.int64, len(labels)) if "sizes" in facts else (
        np.full(len(labels), -1))
    checksums = _array(root / f"{split}-checksums.npy", facts["checksums"], np.uint32, len(labels)) if (
        "checksums" in facts) else None
    return PackedSource(str(root), split, shards, facts["content"], labels, sizes, checksums)


def _checked(root: Path, shard: Mapping[str, Any]) -> str:
    """The name of a file of records that is there, of its size, and can be opened."""
    if _SHARD.fullmatch(shard["file"]) is None:  # before it is looked for: it may lead out of the pack
        raise ValueError(f"it names a file {shard['file']!r}, which no pack has")
    path = root / shard["file"]
    size = path.stat().st_size if path.is_file() else None
    if size != shard["bytes"]:
        found = "is missing" if size is None else f"has {size} bytes"
        raise DataError(f"{path} {found}; the pack was written with {shard['bytes']} bytes of it")
    try:
        reader = ArrayRecordReader(str(path))
        count = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {' '.join(str(error).split())[:200]}; {_ANEW}") from None
    if count != shard["records"]:
        raise DataError(f"{path} is damaged: it has {count:,} records, and was written with {shard['records']:,}; "
                        f"{_ANEW}")
    return shard["file"]


def _array(path: Path, expected: str, dtype: type, length: int | None = None) -> np.ndarray:
    """An array `(length,)` of the pack, whose fingerprint must be the one `expected`."""
    try:
        with open_file(path) as file:
            values = np.load(file, allow_pickle=False)
    except Exception as error:  # numpy's are of many kinds
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if fingerprint([values]) != expected or values.dtype != dtype or values.ndim != 1 or (
            length not in (None, len(values))):
        raise DataError(f"{path} is damaged: its values are not those that the pack was written with; {_ANEW}")
    return values
