"""Writes a folder of images as a pack; `cvjax.data.sources.packed` reads it, and describes its contents."""

import functools
import hashlib
import io
import json
import os
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tqdm import tqdm

from cvjax.data.bad_files import BadFiles
from cvjax.data.dataset import Source, fingerprint
from cvjax.data.decode import DecodeError, LazyImage, guarded, is_tiff, open_image
from cvjax.data.sources.folder import list_folder
from cvjax.data.sources.packed import HEAD, MANIFEST, VERSION, whole_fingerprint
from cvjax.durable import delete_folder, sync, sync_tree
from cvjax.errors import DataError
from cvjax.text import write_text

_WINDOW = 256  # images that are prepared ahead of the writer


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

    Every image is decoded once; those that cannot be decoded are left out and named in `bad_files.txt`. All is written
    into `output`.partial, which is renamed when it is complete; the next run deletes what a killed run left there.

    Args:
        image_size: images whose shorter side is longer become JPEGs of this shorter side (upright, bicubic,
            antialiased); by default, and for all others, bytes stay as they are.
        quality: of those JPEGs, 1 to 95.
        shard_bytes: a file of this size is full, and another one is begun.
        limit_fraction: greatest share of unreadable files.
        overwrite: replace an existing pack.

    Raises:
        DataError: when there is nothing to pack, too much is unreadable, or `output` is there and may not be replaced.
    """
    output = Path(output).expanduser()
    if output.exists() and not overwrite:
        raise DataError(f"{output} is there already; --overwrite replaces a pack")
    if output.exists() and not (output / MANIFEST).is_file():
        raise DataError(f"{output} is no pack: it has no {MANIFEST}, so --overwrite will not delete it")
    listing = list_folder(folder)
    partial = output.with_name(output.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        manifest = _write(partial, listing, image_size, quality, shard_bytes, limit_fraction)
        sync_tree(partial)  # a pack of this name is whole, after a power cut too
        if output.exists():
            delete_folder(output, output.with_name(output.name + ".deleted"))
        partial.replace(output)
        sync(output.parent)
    except OSError as error:
        raise DataError(f"cannot write {output}: {error}") from None
    return manifest


def _write(root, listing, image_size, quality, shard_bytes, limit_fraction) -> dict:
    splits, class_names = listing.parts, listing.class_names
    bad = BadFiles(sum(map(len, splits.values())), limit_fraction, root / "bad_files.txt")
    prepare = functools.partial(_prepare, image_size=image_size, quality=quality)
    facts = {split: _write_split(root, split, source, prepare, shard_bytes, bad) for split, source in splits.items()}
    manifest = {
        "version": VERSION,
        "fingerprint": whole_fingerprint([each["content"] for each in facts.values()], class_names),
        "class_names": list(class_names),
        "splits": facts,
        "unreadable": bad.count,
        "ignored": listing.ignored,
        "options": {"image_size": image_size, "quality": quality if image_size else None},
    }
    write_text(root / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _write_split(root, split, source, prepare, shard_bytes, bad) -> dict:
    shards, labels, content = _Shards(root, split, shard_bytes), [], hashlib.blake2b(digest_size=8)
    sizes: list[int] = []
    checksums: list[int] = []
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
                record = HEAD.pack(label, len(name)) + name + image
                shards.write(record)
                labels.append(label)
                sizes.append(len(image))
                checksums.append(zlib.crc32(record))
                content.update(len(record).to_bytes(8) + record)
    if not labels:
        raise DataError(f"none of the {len(source)} images of {source.root} can be read; see {bad.path}")
    arrays = {"labels": np.array(labels, np.int32), "sizes": np.array(sizes, np.int64),
              "checksums": np.array(checksums, np.uint32)}
    for name, values in arrays.items():
        np.save(root / f"{split}-{name}.npy", values)
    return {"records": len(labels), "content": content.hexdigest(), "shards": shards.close(),
            **{name: fingerprint([values]) for name, values in arrays.items()}}


class _Shards:
    """Writes records into one file after another."""

    def __init__(self, root: Path, split: str, limit: int):
        self._root, self._split, self._limit = root, split, limit
        self._writer: Any = None
        self._done: list[dict] = []
        self._records, self._bytes = 0, 0

    def write(self, record: bytes) -> None:
        """Adds a record to the file that is open, or to a new one."""
        if self._writer is None:
            # Encoded images do not compress further, and groups of one record are fast to read at random.
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

    def _finish(self) -> None:
        self._writer.close()
        if not self._path.is_file() or self._path.stat().st_size < self._bytes:  # the writer itself reports nothing
            raise DataError(f"{self._path} could not be written in full: is the disk full?")
        self._done.append({"file": self._path.name, "records": self._records, "bytes": self._path.stat().st_size})
        self._writer, self._records, self._bytes = None, 0, 0


def _prepare(source: Source, index: int, *, image_size: int | None, quality: int) -> tuple[bytes, str]:
    """The bytes that a record keeps of an image, and the reason why it cannot be kept: one of the two is empty."""
    try:
        encoded = source[index]["image"]
        if image_size is None and is_tiff(encoded):  # its pages may be channels, see `cvjax.data.stored`
            with guarded(open_image, encoded) as image:
                guarded(image.load)
            return encoded, ""
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
