"""The common parts of folders, tar files and packs of images: names of files, a test part, and decoding all images."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from cvjax.data.copies import copies
from cvjax.data.dataset import (
    ArraySource,
    Dataset,
    Source,
    check_labelled_alike,
    spelling,
    split_positions,
    unlabelled,
)
from cvjax.data.decode import DecodeError, decode, is_levels
from cvjax.data.parts import TEST, TRAIN, VALIDATION
from cvjax.data.problems import Problems
from cvjax.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")  # of photos
PICTURES = (*EXTENSIONS, ".tif", ".tiff")
Part = TypeVar("Part", bound="EncodedSource")


class EncodedSource(Source, Protocol):
    """A source of encoded images in one place, whose labels are known before reading."""

    @property
    def root(self) -> str:
        """The folder that they are in."""
        ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each encoded image, int `(N,)`."""
        ...

    def take(self, positions: np.ndarray) -> "EncodedSource": ...


def arrange(parts: Mapping[str, Part], where: str, problems: Problems) -> dict[str, Part]:
    """The parts `train` and perhaps `test` and `val` of a data set, from those that were found under these names.

    The test part is `test`; `val` is then the validation part. Where there is no `test`, or it alone has no labels as
    in ImageNet, it is `val`.

    Raises:
        DataError: when one of two parts has labels and the other has not.
    """
    arranged = dict(parts)
    if VALIDATION in parts:
        if TEST in parts and not _labelled(parts[TEST]) and _labelled(parts[TRAIN]) and _labelled(parts[VALIDATION]):
            problems.add("test pictures without labels, which cannot be judged", TEST, len(arranged.pop(TEST)))
        if TEST not in arranged:
            arranged[TEST] = arranged.pop(VALIDATION)
    for part in arranged.values():
        check_labelled_alike(parts[TRAIN].labels, part.labels, where)
    return arranged


def hold_test(parts: Mapping[str, EncodedSource], class_names: tuple[str, ...], ignored: str, noticed: str = "", *,
              seed: int, cache: bool) -> Dataset:
    """The data set of colour images, with a test part held out of `train` if there is none; see `open_folder`.

    Test and validation pictures that are copies of training pictures are counted in `noticed`.
    """
    parts = dict(parts)
    if TEST not in parts:
        kept, held = split_positions(parts[TRAIN].labels, class_names, seed)
        parts[TRAIN], parts[TEST] = parts[TRAIN].take(kept), parts[TRAIN].take(held)
    found = [copies(parts[TRAIN], parts[part], (parts[TRAIN].sizes, parts[part].sizes), words)
             for part, words in ((TEST, "test"), (VALIDATION, "validation")) if part in parts]
    noticed = "; ".join(filter(None, [noticed, *found]))
    dataset = Dataset(parts[TRAIN], parts[TEST], class_names, channels=3, ignored=ignored,
                      validation=parts.get(VALIDATION), noticed=noticed)
    return cached(dataset) if cache else dataset


def cached(dataset: Dataset) -> Dataset:
    """The data set of files with all images decoded into memory; DataError unless they have one size."""
    parts = {part: source for part, source in ((TRAIN, dataset.train), (TEST, dataset.test),
                                               (VALIDATION, dataset.validation)) if source is not None}
    decoded = {part: decode_all(source) for part, source in parts.items()}
    if len({source.images.shape[1:] for source in decoded.values()}) > 1:
        shapes = ", ".join(f"{part} images are {source.images.shape[1:]}" for part, source in decoded.items())
        raise DataError(f"cache: {shapes}; they must have one size")
    return dataclasses.replace(dataset, train=decoded[TRAIN], test=decoded.get(TEST),
                               validation=decoded.get(VALIDATION))


def _labelled(source: EncodedSource) -> bool:
    return not unlabelled(source.labels).all()


def alike_names(files: Iterable[str]) -> str:
    """What to say of files whose names differ by case only, in words; empty if there are none.

    Where upper and lower case are one, as on Windows, only one of them would be left of a copy.
    """
    seen: dict[str, str] = {}
    alike = [(other, name) for name in files if (other := seen.setdefault(spelling(name), name)) != name]
    return f"{len(alike):,} names that differ by case only, such as {' and '.join(alike[0])}" if alike else ""


def no_images(where: str | os.PathLike, found: str = "") -> DataError:
    """The error for a place without image files; `found`: the files that are there instead."""
    return DataError(f"no images ({', '.join(PICTURES)}) in {where}{f'; found {found}' * bool(found)}")


def decode_all(source: Source) -> ArraySource:
    """Decodes every record into one array, leaving out those that cannot be decoded; their labels must be known."""
    assert source.labels is not None
    images: np.ndarray | None = None
    dropped: list[tuple[str, str]] = []
    kept: list[int] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda i: _try_decode(source, i), range(len(source)))
        for i, result in enumerate(
            tqdm(results, total=len(source), desc="decode", leave=False)
        ):
            if isinstance(result, str):
                dropped.append((source.name(i), result))
                continue
            if images is None:
                images = np.empty((len(source), *result.shape), result.dtype)
            if result.shape != images.shape[1:]:
                pool.shutdown(wait=False, cancel_futures=True)
                raise DataError(
                    f"cache: images must have one size, got {images.shape[1:]} in {source.name(kept[0])} "
                    f"and {result.shape} in {source.name(i)}"
                )
            images[len(kept)] = result
            kept.append(i)
    if images is None:
        raise DataError(
            f"cache: none of the {len(source)} images can be decoded, such as {dropped[0][0]}: {dropped[0][1]}"
        )
    return ArraySource(images[: len(kept)], source.labels[kept], tuple(dropped))


def _try_decode(source: Source, index: int) -> np.ndarray | str:
    """The pixels, or the reason why there are none."""
    try:
        image = source[index]["image"]
        return image if isinstance(image, np.ndarray) and is_levels(image) else decode(image, source.channels)
    except (DecodeError, OSError) as error:
        return str(error)
