"""Bad pictures of a small data set are known before the first batch."""

import numpy as np
import pytest

from cvjax.data import first_look
from cvjax.data.bad_files import BadFiles
from cvjax.data.crops import ResizeCenterCrop
from cvjax.data.first_look import look_at_all
from cvjax.data.pipeline import eval_batches
from cvjax.data.sources import open_dataset
from cvjax.data.sources.packing import write_pack
from cvjax.errors import DataError
from tests.data.pictures import encode, gradient, write_folder


@pytest.fixture
def photos(tmp_path):
    """20 files of which two cannot be decoded and one is gone."""
    write_folder(tmp_path, {"train/a": 10, "train/b": 8, "test/a": 2})
    data = open_dataset(f"folder:{tmp_path}")
    whole = encode(gradient(40, 60), "JPEG")
    size = (tmp_path / "train/a/003.png").stat().st_size
    (tmp_path / "train/a/003.png").write_bytes(whole[:size])  # a whole header
    (tmp_path / "train/b/001.png").write_bytes(b"x" * (tmp_path / "train/b/001.png").stat().st_size)
    (tmp_path / "test/a/001.png").unlink()
    return data


def test_it_finds_what_reading_finds(photos):
    look_at_all([photos.train, photos.test], seen := BadFiles(20, 0.5))
    read = BadFiles(20, 0.5)
    for part in (photos.train, photos.test):
        list(eval_batches(part, ResizeCenterCrop(8), batch_size=4, bad=read))
    assert seen.reasons == read.reasons and seen.count == 3
    with pytest.raises(DataError, match=r"^3 of 20 .*: .*a/003.png \(.*\), .*b/001.png \(.*\), .*test/a/001.png \("):
        look_at_all([photos.train, photos.test], BadFiles(20, 0))


@pytest.mark.parametrize("limit, value", [("MOST_FILES", 19), ("MOST_BYTES", 200)])
def test_a_large_data_set_is_not_looked_at(photos, monkeypatch, limit, value):
    monkeypatch.setattr(first_look, limit, value)
    look_at_all([photos.train, photos.test], bad := BadFiles(20, 0))
    assert not bad.count


def test_it_ends_once_it_has_seen_many_pixels(tmp_path, monkeypatch):
    write_folder(tmp_path, {"train": 140, "test": 2})
    for number in (10, 70, 130):
        (tmp_path / f"train/{number:03}.png").write_bytes(b"")
    source = open_dataset(f"folder:{tmp_path}").train
    for most, count in ((2**28, 3), (80 * 144, 2), (1, 1)):  # 144 pixels each, looked at 64 at a time
        monkeypatch.setattr(first_look, "MOST_PIXELS", most)
        look_at_all([source], bad := BadFiles(140, 0.5))
        assert [name[-7:] for name in bad.reasons] == ["010.png", "070.png", "130.png"][:count]


def test_packs_and_stored_channels_are_looked_at_and_arrays_are_not(tmp_path):
    write_folder(tmp_path / "photos", {"a": 8, "b": 8})
    write_pack(str(tmp_path / "photos"), tmp_path / "pack")
    shard = tmp_path / "pack/train-00000.array_record"
    content = bytearray(shard.read_bytes())
    content[content.index(b"a/000.png") + 60] ^= 1
    shard.write_bytes(content)
    data = open_dataset(f"packed:{tmp_path}/pack")
    look_at_all([data.train, data.test], bad := BadFiles(16, 0.5))
    assert bad.count == 1
    (tmp_path / "photos/a/001.png").write_bytes(encode(np.zeros((9, 9), np.uint8)))
    data = open_dataset(f"folder:{tmp_path}/photos", channels=3)
    look_at_all([data.train, data.test], bad := BadFiles(16, 0.5))
    assert [reason for reason in bad.reasons.values()] == ["the file stores 1 channels, not 3"]
    digits = open_dataset("digits")
    look_at_all([digits.train], bad := BadFiles(16, 0))
    assert not bad.count


def test_a_run_that_goes_on_counts_as_many_as_at_its_start(photos, tmp_path):
    accounts = [BadFiles(20, 0.5, tmp_path / "bad_files.txt") for _ in range(2)]
    lists = []
    for bad in accounts:
        look_at_all([photos.train, photos.test], bad)
        lists.append((tmp_path / "bad_files.txt").read_text())
    assert accounts[0].reasons == accounts[1].reasons and lists[0] == lists[1] and lists[0].count("\n") == 3
