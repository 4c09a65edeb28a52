"""Kept features as a Parquet file: what others read in it, and what is told of one that is none."""

import re
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from cvjax.errors import ConfigError
from cvjax.workflow.frozen import embedding
from cvjax.workflow.frozen.parquet import as_parquet, read_parquet

FEATURES = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
COLUMNS = {"part": ("train", "train", "test"), "file": ("a/한글.png", "a/\udcff,\n.png", "b/3.png"),
           "label": (0, -1, 1), "class": ("cat", "", "dog")}


def test_a_table_has_texts_numbers_and_lists_of_one_length(tmp_path):
    (tmp_path / "x.parquet").write_bytes(as_parquet(FEATURES, COLUMNS))
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert {name: str(table.schema.field(name).type) for name in table.column_names} == {
        "part": "string", "file": "string", "label": "int64", "class": "string",
        "features": "fixed_size_list<element: float>[5]"}
    assert table["file"].to_pylist() == ["a/한글.png", "a/\\xff,\n.png", "b/3.png"]
    assert table["label"].to_pylist() == [0, -1, 1]
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), np.float32), FEATURES)


def test_what_was_written_is_read(tmp_path):
    (tmp_path / embedding.PARQUET).write_bytes(as_parquet(FEATURES, COLUMNS))
    found = embedding.read_embedded(tmp_path)
    np.testing.assert_array_equal(found.features, FEATURES)
    assert found.features.dtype == np.float32
    assert found.parts.tolist() == ["train", "train", "test"] and found.labels.tolist() == [0, -1, 1]


@pytest.mark.parametrize("content", [b"", b"PAR1 cut off", "others", "lists of any length"])
def test_another_file_is_one_line(tmp_path, content):
    path = tmp_path / "x.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        lists = {"features": [[0.5], [0.5, 1.0], []]} if content != "others" else {}
        pyarrow.parquet.write_table(pyarrow.table({**COLUMNS, "file": ["a", "b", "c"], **lists}), path)
    with pytest.raises(ConfigError, match=f"{re.escape(str(path))} holds no features as experiments.embed") as raised:
        read_parquet(path, embedding.COLUMNS)
    assert "\n" not in str(raised.value)


def test_without_pyarrow_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "cvjax.workflow.frozen.parquet")
    with pytest.raises(ConfigError, match="features.parquet needs pyarrow, which is not installed: pip install pyarr"):
        embedding.parquet()
