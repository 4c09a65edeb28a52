"""Features of a data set, kept: `features.npy` with a row for each picture, and `rows.csv`, which says whose.

Or both in one file, `features.parquet`.
"""

import csv
import dataclasses
import importlib
import io
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
from tensorboardX import SummaryWriter

from cvjax.data.dataset import Dataset
from cvjax.durable import write_whole
from cvjax.errors import ConfigError
from cvjax.evaluate.features import extract_features
from cvjax.evaluate.probe import Extractor
from cvjax.text import name_as_text, printable, read_text
from cvjax.workflow.image_inputs import ImageInputs
from cvjax.workflow.run_files import PIECES

FEATURES, ROWS = "features.npy", "rows.csv"
PARQUET = "features.parquet"
FILES = {"npy": FEATURES, "parquet": PARQUET}  # format -> the file with the features
COLUMNS = ("part", "file", "label", "class")
PARTS = ("train", "validation", "test")

_PIECE = 4096  # about as many pictures are computed between two files


class Embedded(NamedTuple):
    """Kept features. features: float32 `(N, D)`. parts: `(N,)`, of `PARTS`. labels: int `(N,)`, -1 where a picture has
    none."""

    features: np.ndarray
    parts: np.ndarray
    labels: np.ndarray

    def batches(self, part: str, size: int = 1024) -> Iterator[dict[str, np.ndarray]]:
        """The rows of a part, as `cvjax.evaluate.probe.probe_features` takes batches; see `kept`."""
        rows = np.flatnonzero(self.parts == part)
        for start in range(0, len(rows), size):
            these = rows[start:start + size]
            yield {"features": self.features[these], "label": self.labels[these], "mask": np.ones(len(these), bool)}


def kept(knn_width: int | None) -> Extractor:
    """The extractor of features that are kept already, from `Embedded.batches`."""
    return Extractor(lambda batch: batch["features"], knn_width)


def embed(extractor: Extractor, inputs: ImageInputs, folder: Path, form: Literal["npy", "parquet"]) -> tuple[int, int]:
    """Write the features of all parts into a folder; how many pictures there are, and how many features of each.

    What an earlier call has finished is taken from its files, so that one that was killed goes on. Unreadable pictures
    have no row. The batches, and so the bits, are those of an evaluation of each part.
    """
    pieces = folder / PIECES
    pieces.mkdir(exist_ok=True)
    dataset, table = inputs.dataset, []
    found: list[np.ndarray] = []
    for part in PARTS:
        source = getattr(dataset, part)
        if source is None:
            continue
        size = inputs.batch_size * max(1, _PIECE // inputs.batch_size)
        for start in range(0, len(source), size):
            path = pieces / f"{part}-{start:09}.npz"
            positions = np.arange(start, min(start + size, len(source)))
            if not path.exists():
                some = dataclasses.replace(dataset, **{part: source.take(positions)})
                write_whole(path, _as_bytes(extractor, dataclasses.replace(inputs, dataset=some), part))
            with np.load(path) as piece:
                found.append(piece["features"])
                table += [(part, name_as_text(source.name(int(positions[index]))), *_said(dataset, label))
                          for index, label in zip(piece["index"], piece["label"], strict=True)]
    features = np.concatenate(found)
    if form == "parquet":
        write_whole(folder / PARQUET, parquet().as_parquet(features, dict(zip(COLUMNS, zip(*table)))))
    else:
        write_whole(folder / FEATURES, _npy(features))
        lines = io.StringIO()
        csv.writer(lines).writerows([("row", *COLUMNS), *((row, *said) for row, said in enumerate(table))])
        write_whole(folder / ROWS, lines.getvalue())
    shutil.rmtree(pieces)
    return features.shape


def parquet() -> ModuleType:
    """`cvjax.workflow.frozen.parquet`; ConfigError where pyarrow, which only this file needs, is not installed."""
    try:
        return importlib.import_module("cvjax.workflow.frozen.parquet")
    except ModuleNotFoundError as error:
        raise ConfigError(f"{PARQUET} needs {error.name}, which is not installed: pip install pyarrow") from None


def write_projector(folder: Path) -> Path:
    """Write kept features as TensorBoard's projector reads them; the folder to open."""
    features, columns = _read(folder)
    place = folder / "projector"
    shutil.rmtree(place, ignore_errors=True)
    with SummaryWriter(str(place)) as writer:
        writer.add_embedding(features, metadata=[[printable(str(value)) for value in row]
                                                 for row in zip(*columns.values())], metadata_header=list(columns))
    return place


def file_of(folder: Path) -> Path:
    """The file with the features that `embed` wrote into a folder; ConfigError for a folder without them."""
    if (folder / PARQUET).is_file():
        return folder / PARQUET
    if not (folder / FEATURES).is_file() or not (folder / ROWS).is_file():
        raise ConfigError(f"{folder} holds no {FEATURES} with {ROWS}, and no {PARQUET}: give the run folder of "
                          "experiments.embed")
    return folder / FEATURES


def read_embedded(folder: Path) -> Embedded:
    """The features that `embed` wrote; ConfigError for a folder without them."""
    features, columns = _read(folder)
    return Embedded(features, np.array(columns["part"]), np.array(columns["label"], np.int64))


def _read(folder: Path) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """The features in a folder, and the columns of `COLUMNS` with a value for each row."""
    path = file_of(folder)
    if path.name == PARQUET:
        return parquet().read_parquet(path, COLUMNS)
    features = np.load(path)
    rows = list(csv.DictReader(io.StringIO(read_text(folder / ROWS, names=True))))
    if features.ndim != 2 or len(features) != len(rows):
        raise ConfigError(f"{folder}: {FEATURES} has the shape {features.shape}, {ROWS} {len(rows)} rows")
    return features, {name: [row[name] for row in rows] for name in COLUMNS}


def _as_bytes(extractor: Extractor, inputs: ImageInputs, part: str) -> bytes:
    """The features of a part's readable pictures with their positions and labels, as a .npz file."""
    seen: list[np.ndarray] = []

    def noted() -> Iterator[Mapping[str, Any]]:
        for batch in inputs.eval_batches(part):
            seen.append(batch["index"][batch["mask"]])
            yield batch

    features, labels = extract_features(extractor.function, noted(), desc=f"{part} features")
    content = io.BytesIO()
    np.savez(content, features=features, label=labels, index=np.concatenate(seen))
    return content.getvalue()


def _npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def _said(dataset: Dataset, label: Any) -> tuple[int, str]:
    """A label as its number, -1 where it is none, and in words."""
    if dataset.targets is not None and dataset.targets.kind == "labels":
        return -1, ";".join(name for name, value in zip(dataset.targets.names, label, strict=True) if value)
    if dataset.targets is not None:
        return -1, ";".join(f"{value:g}" for value in label)
    return int(label), dataset.class_names[label] if label >= 0 else ""
