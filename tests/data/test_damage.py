"""Folders that change under a run, names that are nearly the same, and pictures that are in two parts."""

import os
import tarfile

import numpy as np
import pytest

from cvjax.data import copies, listings
from cvjax.data.bad_files import BadFiles
from cvjax.data.crops import RandomResizedCrop
from cvjax.data.pipeline import Stream, TrainBatches
from cvjax.data.sources import folder as folder_reader
from cvjax.data.sources import open_dataset
from cvjax.data.sources.packing import write_pack
from cvjax.errors import DataError
from tests.data.pictures import write_folder
from tests.data.test_tar import webdataset, write_tar


def test_files_that_appear_vanish_or_change_during_a_run(tmp_path):
    write_folder(tmp_path, {"train/cat": 20, "test/cat": 2})
    source = open_dataset(f"folder:{tmp_path}").train
    os.remove(source.name(3))
    with open(source.name(5), "ab") as file:
        file.write(b"more")
    write_folder(tmp_path, {"train/owl": 3})
    (tmp_path / "train" / "cat" / "000a.png").write_bytes(b"new")
    stream = TrainBatches(source, RandomResizedCrop(20), Stream(len(source), seed=0), BadFiles(22, 0.2))
    batch = next(stream)
    stream.close()
    assert not {3, 5} & set(batch["index"].tolist()) and batch["index"].max() < 20  # what appeared is not in this run
    found = {os.path.basename(name): reason for name, reason in stream.bad.reasons.items()}
    assert found.keys() == {"003.png", "005.png"} and "No such file" in found["003.png"]
    size = source.sizes[5]
    assert found["005.png"] == f"has {size + 4} bytes, and had {size} when the data set was listed"


def test_files_and_folders_that_vanish_while_they_are_listed(tmp_path, monkeypatch):
    write_folder(tmp_path, {"cat": 4, "dog": 3, "owl": 2})
    listed = os.scandir

    def scandir(folder):
        entries = list(listed(folder))
        name = os.path.basename(os.fspath(folder))
        if name == "cat":
            os.remove(tmp_path / "cat" / "001.png")
        if os.fspath(folder) == str(tmp_path) and (tmp_path / "owl").is_dir():
            for file in (tmp_path / "owl").iterdir():
                file.unlink()
            (tmp_path / "owl").rmdir()
        return entries

    monkeypatch.setattr(folder_reader.os, "scandir", scandir)
    data = open_dataset(f"folder:{tmp_path}")
    assert data.class_names == ("cat", "dog") and len(data.train) + len(data.test) == 6
    assert "1 files that vanished while they were listed (001.png)" in data.ignored


def test_a_class_folder_without_pictures_is_named(tmp_path):
    write_folder(tmp_path, {"train/cat": 3, "train/dog": 3, "train/fox": 0, "train/owl": 0, "test/cat": 2})
    data = open_dataset(f"folder:{tmp_path}")
    assert data.class_names == ("cat", "dog") and data.ignored == "2 folders without images (fox, owl)"


def test_names_that_differ_by_case(tmp_path):
    write_folder(tmp_path / "photos", {"cat": 4, "dog": 4})
    (tmp_path / "photos/cat/001.png").rename(tmp_path / "photos/cat/A.png")
    (tmp_path / "photos/cat/002.png").rename(tmp_path / "photos/cat/a.PNG")
    data = open_dataset(f"folder:{tmp_path / 'photos'}")
    assert len(data.train) + len(data.test) == 8
    assert data.noticed == (f"1 names that differ by case only, such as {tmp_path}/photos/cat/A.png and "
                            f"{tmp_path}/photos/cat/a.PNG")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "photos", "photos")
    assert "1 names that differ by case only, such as" in open_dataset(f"tar:{tmp_path / 'a.tar'}").noticed
    write_folder(tmp_path / "photos", {"Cat": 2})
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(tmp_path / "photos", "photos")
    for spec in (f"folder:{tmp_path / 'photos'}", f"tar:{tmp_path / 'b.tar'}"):
        with pytest.raises(DataError, match="has the classes Cat and cat, which differ by case only; give"):
            open_dataset(spec)
    write_folder(tmp_path / "parts", {"train/cat": 2, "train/dog": 2, "test/Cat": 2})
    with pytest.raises(DataError, match="classes that are not in train: Cat; it has cat$"):
        open_dataset(f"folder:{tmp_path / 'parts'}")


def test_copies_of_training_pictures_in_the_test_part_are_counted(tmp_path):
    write_folder(tmp_path / "photos", {"train/cat": 6, "train/dog": 6, "test/cat": 4, "test/dog": 4}, size=9)
    for file in (tmp_path / "photos" / "test").glob("*/*.png"):
        file.write_bytes(file.read_bytes() + b"!")
    assert open_dataset(f"folder:{tmp_path / 'photos'}").noticed == ""
    for name in ("000", "002"):
        copy = tmp_path / "photos" / "test" / "dog" / f"{name}.png"
        copy.write_bytes((tmp_path / "photos" / "train" / "cat" / f"{name}.png").read_bytes())
    write_pack(str(tmp_path / "photos"), tmp_path / "pack")
    for part in ("train", "test"):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as archive:
            archive.add(tmp_path / "photos" / part, part)
    for spec in (f"folder:{tmp_path / 'photos'}", f"tar:{tmp_path}", f"packed:{tmp_path / 'pack'}"):
        said = open_dataset(spec).noticed
        assert said.startswith("2 of 8 test pictures are copies of training pictures, such as "), said
        assert "dog/000.png of " in said and said.endswith("cat/000.png")
    assert open_dataset(f"folder:{tmp_path / 'photos'}", cache=True).noticed == said.replace(
        f"{tmp_path}/pack: ", f"{tmp_path}/photos/X/").replace("X/dog", "test/dog").replace("X/cat", "train/cat")


def test_copies_across_a_part_that_is_held_out_and_in_arrays(tmp_path):
    write_folder(tmp_path / "photos", {"cat": 5, "dog": 5})
    for file in (tmp_path / "photos" / "cat").iterdir():
        file.write_bytes((tmp_path / "photos/dog/000.png").read_bytes())
    assert open_dataset(f"folder:{tmp_path / 'photos'}").noticed.startswith("1 of 2 test pictures are copies of ")
    images = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)
    np.savez(tmp_path / "a.npz", train_images=images, test_images=np.concatenate([images[2:4], 255 - images]))
    assert open_dataset(f"npz:{tmp_path / 'a.npz'}").noticed == (
        "2 of 8 test pictures are copies of training pictures, such as test index 0 of training index 2")


def test_of_a_large_data_set_as_many_pictures_are_compared_as_can_be_afforded(tmp_path, monkeypatch):
    write_folder(tmp_path, {"train/cat": 4, "test/cat": 3})
    for part in ("train", "test"):  # pictures 0 and 1 are copies, of 100 and 5000 bytes
        for i, size in enumerate((100, 5000, 60, 70)[:4 if part == "train" else 3]):
            (tmp_path / part / "cat" / f"{i:03}.png").write_bytes(bytes([i if i < 2 else ord(part[1])]) * size)
    said = open_dataset(f"folder:{tmp_path}").noticed
    assert said.startswith("2 of 3 test pictures are copies of training pictures, such as ")
    monkeypatch.setattr(copies, "BUDGET", 4 * (copies._OPENING + 100))
    said = open_dataset(f"folder:{tmp_path}").noticed
    assert said.startswith("1 of 2 test pictures that were looked at, of 3, are copies of training pictures, such as ")


def age(root):
    """Gives all folders and files below a folder, and itself, a time of change that has passed."""
    for folder, _, names in os.walk(root):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            os.utime(path, (1e9, 1e9))


@pytest.fixture
def few(tmp_path, monkeypatch):
    """Short listings are kept, too, in a cache folder of the test's own."""
    monkeypatch.setattr(listings, "FEWEST", 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_kept_listing_is_the_listing_and_is_made_anew_after_changes(tmp_path, few, monkeypatch):
    photos = tmp_path / "photos"
    write_folder(photos, {"train/猫": 6, "train/dog": 6, "train/empty": 0, "valid/dog": 3})
    (photos / "train" / "dog" / "A.txt").write_text("")
    spec = f"folder:{photos}"
    first = open_dataset(spec)
    assert not (tmp_path / "cache").exists()  # folders of just now may change again within the clock's tick
    age(photos)
    assert open_dataset(spec).fingerprint == first.fingerprint
    with monkeypatch.context() as without:
        without.setattr(folder_reader, "_list", None)  # it is not needed
        kept = open_dataset(spec)
    assert kept.fingerprint == first.fingerprint and kept.ignored == first.ignored != ""
    assert kept.train.files == first.train.files and kept.train[7] == first.train[7]
    assert (kept.train.labels == first.train.labels).all() and kept.train.labels.dtype == np.int32
    (photos / "train" / "dog" / "003.png").write_bytes(b"another")  # in place: the folder is as old as before
    assert open_dataset(spec).fingerprint != first.fingerprint
    os.remove(photos / "valid" / "dog" / "001.png")
    assert len(open_dataset(spec).test) == 2


def test_a_damaged_listing_is_made_anew(tmp_path, few):
    write_folder(tmp_path / "photos", {"cat": 6, "dog": 6})
    age(tmp_path / "photos")
    first = open_dataset(f"folder:{tmp_path / 'photos'}")
    kept, = (tmp_path / "cache" / "cvjax" / "listings").iterdir()
    for content in (b"", b"{}", b'{"version": 1}', kept.read_bytes()[:-9], b"\xff"):
        kept.write_bytes(content)
        assert open_dataset(f"folder:{tmp_path / 'photos'}").fingerprint == first.fingerprint


def test_the_members_of_a_large_tar_file_are_kept(tmp_path, few, monkeypatch):
    path = write_tar(tmp_path / "a.tar", webdataset(range(20)))
    os.utime(path, (1e9, 1e9))
    first = open_dataset(f"tar:{path}")
    with monkeypatch.context() as without:
        without.setattr(tarfile, "open", None)
        kept = open_dataset(f"tar:{path}")
    assert kept.fingerprint == first.fingerprint and kept.train[3] == first.train[3]
    write_tar(tmp_path / "a.tar", webdataset(range(20), label=lambda n: 0))  # of the same size
    assert open_dataset(f"tar:{path}").class_names == ("0",)
