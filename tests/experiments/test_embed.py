"""Features that are kept in a file: whose they are, after a stop, and as neighbours are found by them."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest

from cvjax.workflow.frozen import embedding
from tests.data.pictures import encode, write_folder

pytestmark = pytest.mark.slow

TINY = ("--image-size", 16, "--model", "mae_vit_tiny_patch16", "--patch-size", 4, "--width", 16, "--depth", 1,
        "--heads", 2, "--decoder-width", 16, "--decoder-depth", 1, "--decoder-heads", 2, "--batch-size", 8,
        "--steps", 1)


@pytest.fixture(scope="module")
def run(process, tmp_path_factory):
    """A run of mae_pretrain on 30 training and 10 test pictures in `pictures` beside it."""
    folder = tmp_path_factory.mktemp("embedded")
    write_folder(folder / "pictures", {"train/cat": 15, "train/dog": 15, "test/cat": 5, "test/dog": 5})
    done = process("mae_pretrain", "--data", f"folder:{folder}/pictures", *TINY, "--run-dir", folder / "run")
    assert done.status == 0, done.err
    return folder / "run"


def metrics(folder):
    return json.loads((folder / "summary.json").read_text())["metrics"]


def test_kept_features_find_the_same_neighbours(run, command, tmp_path):
    shutil.copytree(run.parent / "pictures", tmp_path / "pictures")
    (tmp_path / "pictures" / "train" / "cat" / "000.png").write_bytes(encode(np.zeros((9, 9, 3), np.uint8))[:40])
    source = ("--checkpoint", run, "--data", f"folder:{tmp_path}/pictures", "--batch-size", 4)
    done = command("embed", *source, "--run-dir", tmp_path / "kept", "--projector")
    assert done.status == 0, done.err
    features = np.load(tmp_path / "kept" / "features.npy")
    with (tmp_path / "kept" / "rows.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert features.dtype == np.float32 and len(features) == len(rows) == 39 == metrics(tmp_path / "kept")["images"]
    assert [int(row["row"]) for row in rows] == list(range(39))
    assert rows[0] == {"row": "0", "part": "train", "file": f"{tmp_path}/pictures/train/cat/001.png", "label": "0",
                       "class": "cat"}
    assert [row["part"] for row in rows] == ["train"] * 29 + ["test"] * 10
    assert (tmp_path / "kept" / "projector" / "projector_config.pbtxt").is_file()

    direct = command("knn", *source, "--run-dir", tmp_path / "direct")
    done = command("knn", "--features", tmp_path / "kept", "--run-dir", tmp_path / "from_file")
    assert direct.status == done.status == 0, direct.err + done.err
    found = metrics(tmp_path / "from_file")
    assert found == {name: value for name, value in metrics(tmp_path / "direct").items() if "/mae" in name} and found
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("direct", "from_file")]
    assert summaries[0]["protocol"]["knn"] == summaries[1]["protocol"]["knn"]
    assert summaries[0]["protocol"]["data"] == summaries[1]["protocol"]["data"]

    done = command("embed", *source, "--run-dir", tmp_path / "table", "--format", "parquet", "--projector")
    assert done.status == 0 and f"in {tmp_path}/table/features.parquet" in done.out, done.err
    table = pyarrow.parquet.read_table(tmp_path / "table" / "features.parquet").to_pylist()
    assert [[str(row[name]) for name in row if name != "features"] for row in table] == [
        [row[name] for name in row if name != "row"] for row in rows]
    np.testing.assert_array_equal(np.array([row["features"] for row in table], np.float32), features)
    assert (tmp_path / "table" / "projector" / "projector_config.pbtxt").is_file()
    assert not (tmp_path / "table" / "features.npy").exists()
    assert command("knn", "--features", tmp_path / "table", "--run-dir", tmp_path / "from_table").status == 0
    assert metrics(tmp_path / "from_table") == found


@pytest.mark.parametrize("form, names", [("npy", ("features.npy", "rows.csv")), ("parquet", ("features.parquet",))])
def test_one_that_was_stopped_goes_on_and_ends_the_same(run, command, tmp_path, monkeypatch, form, names):
    monkeypatch.setattr(embedding, "_PIECE", 8)
    arguments = ("embed", "--checkpoint", run, "--batch-size", 4, "--format", form)
    assert command(*arguments, "--run-dir", tmp_path / "whole").status == 0
    computed, extract = [], embedding.extract_features

    def failing(*given, **options):
        computed.append(1)
        if len(computed) == 3:
            raise KeyboardInterrupt
        return extract(*given, **options)

    monkeypatch.setattr(embedding, "extract_features", failing)
    with pytest.raises(KeyboardInterrupt):
        command(*arguments, "--run-dir", tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "summary.json").exists()
    assert command(*arguments, "--run-dir", tmp_path / "stopped").status == 0
    assert len(computed) == 3 + 4, "of six pieces two were there"
    for name in names:
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "stopped" / "pieces").exists()


def test_a_mistake_is_one_line(run, command, tmp_path):
    for arguments, message in (
            (("--features", run), "run holds no features.npy with rows.csv, and no features.parquet"),
            (("--features", run, "--data", "digits"), "--data digits: it must be left out with --features"),
            (("--features", run, "--pool", "avg"), "--pool avg: it must be left out with --features")):
        assert message in command("knn", *arguments, "--run-dir", tmp_path / "none").complaint
