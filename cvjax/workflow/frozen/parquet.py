"""Kept features as one Parquet file, for pandas, Polars, DuckDB and the like; needs pyarrow, so it is imported late."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from cvjax.errors import ConfigError

COLUMN = "features"

_GROUP = 4096  # rows that a reader takes in at once


def as_parquet(features: np.ndarray, columns: Mapping[str, Sequence[int] | Sequence[str]]) -> bytes:
    """The content of a file with these columns, and the features as a last one, lists of one length.

    features: float32 `(N, D)`. columns: N whole numbers or texts under each name. Parquet's texts are UTF-8: bytes of
    a file's name that are none (see `cvjax.text`) are written as `\\xff`.
    """
    told = {name: pyarrow.array([_utf8(value) if isinstance(value, str) else value for value in values])
            for name, values in columns.items()}
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(features.reshape(-1)), features.shape[1])
    content = io.BytesIO()
    # No dictionary: features do not repeat themselves.
    pyarrow.parquet.write_table(pyarrow.table(told | {COLUMN: vectors}), content, row_group_size=_GROUP,
                                use_dictionary=False)
    return content.getvalue()


def read_parquet(path: Path, columns: Sequence[str]) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """The features and these columns of such a file; ConfigError for any other."""
    try:
        table = pyarrow.parquet.read_table(path, columns=[*columns, COLUMN])
        vectors = table[COLUMN].combine_chunks()
        features = np.asarray(vectors.flatten(), np.float32).reshape(len(table), vectors.type.list_size)
        return features, {name: table[name].to_pylist() for name in columns}
    except (pyarrow.ArrowException, KeyError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path} holds no features as experiments.embed writes them ({str(error).splitlines()[0]})"
                          ) from None


def _utf8(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
