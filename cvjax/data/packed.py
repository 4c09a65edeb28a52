"""A folder of images packed into a few large files, `packed:DIR`, for storage that is slow at many small ones.

DIR holds, for each split, ArrayRecord files of about one size (`train-00000.array_record`, ...) and the labels
(`train-labels.npy`, int32 `(N,)`), and `manifest.json`, which is written last. A record is the label (int32) and the
length of the file's name (uint32), both little-endian, the name in UTF-8, and the encoded image. Any record can be read
by itself; ArrayRecord keeps a hash of each, and so notices damage.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import shutil
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from cvjax.data.bad_files import BadFiles
from cvjax.data.dataset import Dataset, Source, fingerprint
from cvjax.data.decode import DecodeError, LazyImage
from cvjax.data.errors import DataError
from cvjax.data.folder import hold_test, list_folder

VERSION = 1
MANIFEST = "manifest.json"
_HEAD = struct.Struct("<iI")
_WINDOW = 256  # images that are prepared ahead of the writer


@dataclasses.dataclass(frozen=True)
class PackedSource:
    """One split of a pack, read when asked for; always three channels.

    Attributes:
        root: the pack.
        split: `train` or `test`.
        shards: names and numbers of records of its files.
        content: a hash of all records of the split.
        labels: int32 `(M,)`, -1 where unlabelled.
        positions: int `(M,)`, the records of the split that are meant; None for all.
    """

    root: str
    split: str
    shards: tuple[tuple[str, int], ...]
    content: str
    labels: np.ndarray
    positions: np.ndarray | None = None
    channels: int = 3

    @functools.cached_property
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
        except DecodeError:  # then its number has to do
            return f"{self.root}: {self.split} record {self._record(index)}"

    def take(self, positions: np.ndarray) -> "PackedSource":
        """The records at `positions`, int `(M,)`, as a source of their own."""
        chosen = positions if self.positions is None else self.positions[positions]
        return dataclasses.replace(self, labels=self.labels[positions], positions=chosen)

    def _record(self, index: int) -> int:
        return int(index if self.positions is None else self.positions[index])

    def _read(self, index: int) -> tuple[int, str, bytes]:
        """Label, file name, encoded image."""
        try:
            record = self._records[self._record(index)]
        except RuntimeError as error:  # what ArrayRecord says of damage
            raise DecodeError(" ".join(str(error).split())[:300]) from error
        label, length = _HEAD.unpack_from(record)
        start = _HEAD.size + length
        return label, record[_HEAD.size:start].decode("utf-8", "surrogateescape"), record[start:]

    @functools.cached_property
    def _records(self) -> Sequence[bytes]:
        """It pickles, and opens files when they are first read."""
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource([f"{os.path.join(self.root, name)}[0:{count}]" for name, count in self.shards])


def open_packed(path: str, *, seed: int = 0, cache: bool = False) -> Dataset:
    """Opens what `write_pack` wrote. Parts, order and labels are those that `open_folder` gives of the folder.

    Args:
        seed, cache: as for `open_folder`.

    Raises:
        DataError: when it is no pack, of another version, or has files missing, cut short or exchanged.
    """
    root = Path(path).expanduser()
    try:
        manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no pack in {path}: it has no {MANIFEST}; python -m experiments.pack makes packs") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{root / MANIFEST} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        raise DataError(f"{root / MANIFEST} is not of a pack of version {VERSION}")
    try:
        splits = manifest["splits"]
        train = _open_split(root, "train", splits["train"])
        test = _open_split(root, "test", splits["test"]) if "test" in splits else None
        class_names, ignored = tuple(manifest["class_names"]), manifest["ignored"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{root / MANIFEST} is damaged: {type(error).__name__} {error}") from None
    return hold_test(train, test, class_names, ignored, seed=seed, cache=cache)


def _open_split(root, split, facts) -> PackedSource:
    for shard in facts["shards"]:
        path = root / shard["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise DataError(f"{path} {found}; the pack was written with {shard['bytes']} bytes of it")
    path = root / f"{split}-labels.npy"
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if fingerprint([labels]) != facts["labels"]:
        raise DataError(f"{path} is damaged: its values are not those that the pack was written with")
    shards = tuple((shard["file"], shard["records"]) for shard in facts["shards"])
    return PackedSource(str(root), split, shards, facts["content"], labels)


def write_pack(
    folder: str,
    output: str | os.PathLike,
    *,
    image_size: int | None = None,
    quality: int = 90,
    shard_bytes: int = 2**28,
    limit_fraction: float = 0.01,
    overwrite: bool = False,
) -> dict:
    """Packs a folder (see `open_folder`) into `output`, and returns the manifest.

    Every image is decoded once; those that cannot be are left out and named in `bad_files.txt`. All is written into
    `output`.partial, which is renamed when it is whole; what a killed run left there is deleted by the next.

    Args:
        image_size: images whose shorter side is longer become JPEGs of this shorter side (upright, bicubic,
            antialiased); by default, and for all others, bytes stay as they are.
        quality: of those JPEGs, 1 to 95.
        shard_bytes: size from which another file is begun.
        limit_fraction: greatest share of unreadable files.
        overwrite: replace a pack that is there.

    Raises:
        DataError: when there is nothing to pack, too much is unreadable, or `output` is there and may not be replaced.
    """
    output = Path(output).expanduser()
    if output.exists() and not overwrite:
        raise DataError(f"{output} is there already; --overwrite replaces a pack")
    if output.exists() and not (output / MANIFEST).is_file():
        raise DataError(f"{output} is no pack: it has no {MANIFEST}, so --overwrite will not delete it")
    folder_parts = list_folder(folder)
    partial = output.with_name(output.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        manifest = _write(partial, folder_parts, image_size, quality, shard_bytes, limit_fraction)
        if output.exists():
            shutil.rmtree(output)
        partial.replace(output)
    except OSError as error:
        raise DataError(f"cannot write {output}: {error}") from None
    return manifest


def _write(root, folder_parts, image_size, quality, shard_bytes, limit_fraction) -> dict:
    train, test, class_names, ignored = folder_parts
    splits = {"train": train} if test is None else {"train": train, "test": test}
    bad = BadFiles(sum(map(len, splits.values())), limit_fraction, root / "bad_files.txt")
    prepare = functools.partial(_prepare, image_size=image_size, quality=quality)
    facts = {split: _write_split(root, split, source, prepare, shard_bytes, bad) for split, source in splits.items()}
    manifest = {
        "version": VERSION,
        "fingerprint": fingerprint([*(each["content"] for each in facts.values()), *class_names]),
        "class_names": list(class_names),
        "splits": facts,
        "unreadable": bad.count,
        "ignored": ignored,
        "options": {"image_size": image_size, "quality": quality if image_size else None},
    }
    (root / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _write_split(root, split, source, prepare, shard_bytes, bad) -> dict:
    from tqdm import tqdm

    shards, labels, content = _Shards(root, split, shard_bytes), [], hashlib.blake2b(digest_size=8)
    bar = tqdm(total=len(source), desc=f"pack {split}", leave=False)
    with bar, ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(source), _WINDOW):
            indices = range(start, min(start + _WINDOW, len(source)))
            for index, (image, reason) in zip(indices, pool.map(functools.partial(prepare, source), indices)):
                bar.update()
                if reason:
                    bad.add(source.name(index), reason)
                    continue
                label, name = int(source.labels[index]), source.files[index].encode("utf-8", "surrogateescape")
                record = _HEAD.pack(label, len(name)) + name + image
                shards.write(record)
                labels.append(label)
                content.update(len(record).to_bytes(8) + record)
    if not labels:
        raise DataError(f"none of the {len(source)} images of {source.root} can be read; see {bad.path}")
    values = np.array(labels, np.int32)
    np.save(root / f"{split}-labels.npy", values)
    return {"records": len(labels), "content": content.hexdigest(), "labels": fingerprint([values]),
            "shards": shards.close()}


class _Shards:
    """Writes records into one file after another."""

    def __init__(self, root: Path, split: str, limit: int):
        self._root, self._split, self._limit = root, split, limit
        self._writer, self._done, self._records, self._bytes = None, [], 0, 0

    def write(self, record: bytes) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        if self._writer is None:
            # Encoded images do not shrink any further, and groups of one are what is read at random.
            self._writer = ArrayRecordWriter(str(self._path), "group_size:1,uncompressed")
        self._writer.write(record)
        self._records, self._bytes = self._records + 1, self._bytes + len(record)
        if self._bytes >= self._limit:
            self._finish()

    def close(self) -> list[dict]:
        """Names, sizes and numbers of records of all files."""
        if self._writer:
            self._finish()
        return self._done

    @property
    def _path(self) -> Path:
        return self._root / f"{self._split}-{len(self._done):05}.array_record"

    def _finish(self):
        self._writer.close()
        if not self._path.is_file() or self._path.stat().st_size < self._bytes:  # the writer itself says nothing
            raise DataError(f"{self._path} could not be written in full: is the disk full?")
        self._done.append({"file": self._path.name, "records": self._records, "bytes": self._path.stat().st_size})
        self._writer, self._records, self._bytes = None, 0, 0


def _prepare(source: Source, index: int, *, image_size: int | None, quality: int) -> tuple[bytes, str]:
    """What a record keeps of an image, and why it cannot be kept: one of them is empty."""
    try:
        encoded = source[index]["image"]
        with LazyImage(encoded, source.channels) as lazy:
            short = min(lazy.height, lazy.width)
            if image_size is None or short <= image_size:
                lazy.pixels()
                return encoded, ""
            size = [round(side * image_size / short) for side in (lazy.width, lazy.height)]
            smaller = lazy.load().resize(size, Image.Resampling.BICUBIC)
    except (DecodeError, OSError) as error:
        return b"", str(error)
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue(), ""
