"""Tar files that braces name, and tar files and folders at addresses: what is read, fetched and refused."""

import contextlib
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cvjax import storage
from cvjax.data.crops import RandomResizedCrop
from cvjax.data.decode import DecodeError
from cvjax.data.pipeline import Stream, TrainBatches
from cvjax.data.sources import open_dataset, tar
from cvjax.errors import DataError, StorageError
from tests.data.pictures import encode, write_folder
from tests.data.servers import http_folder
from tests.data.test_tar import picture, shades, webdataset, write_tar


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path) -> Path:
    """train-000.tar to train-003.tar with six pictures each, val-0.tar with two, and names of classes."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for n in range(4):
        write_tar(folder / f"train-{n:03}.tar", webdataset(range(6 * n, 6 * n + 6)) | {f"{n}.txt": b"words"})
    write_tar(folder / "val-0.tar", webdataset([4, 2]))
    (folder / "classes.txt").write_text("cat\ndog\nowl\n")
    return folder


def upload(memory, folder: Path, place: str) -> str:
    """Everything below a folder as files in memory; their address."""
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/{place}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return f"memory://{place}"


def alike(one, other) -> bool:
    """Whether two data sets hold the same, under one fingerprint."""
    pairs = list(zip((one.train, one.test), (other.train, other.test)))
    return (one.fingerprint == other.fingerprint and one.class_names == other.class_names
            and all(ours[i] == theirs[i] for ours, theirs in pairs for i in range(len(theirs))))


def test_braces_name_the_files_of_a_folder(shards):
    whole, named = (open_dataset(f"tar:{shards}{end}") for end in ("", "/{train-{000..003},val-0}.tar"))
    assert alike(named, whole) and named.ignored == whole.ignored and named.class_names == ("cat", "dog", "owl")
    assert shades(named.train) == list(range(24)) and shades(named.test) == [4, 2]
    fewer = open_dataset(f"tar:{shards}/train-{{001..003..2}}.tar", seed=3)
    assert sorted(shades(fewer.train) + shades(fewer.test)) == [*range(6, 12), *range(18, 24)]


def test_braces_in_folders_and_names_with_braces(tmp_path, shards):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        write_tar(tmp_path / part / "0.tar", webdataset(range(3)))
    data = open_dataset(f"tar:{tmp_path}/{{train,test}}/{{0..0}}.tar")
    assert (len(data.train), len(data.test)) == (3, 3) and data.train.name(0) == f"{tmp_path}/train/0.tar: 0000.png"
    write_tar(tmp_path / "a{0..9}.tar", webdataset(range(10)))  # a file of this very name
    assert len(open_dataset(f"tar:{tmp_path}/a{{0..9}}.tar").train) == 7  # of 10, one in five of each class is held out


def test_names_without_a_folder(shards, monkeypatch):
    monkeypatch.chdir(shards)
    assert len(open_dataset("tar:train-001.tar").train) == 3
    assert alike(open_dataset("tar:{train-{000..003},val-0}.tar"), open_dataset(f"tar:{shards}"))


def test_a_missing_file_of_a_range_is_named(shards, memory):
    os.remove(shards / "train-002.tar")
    for root in (shards, upload(memory, shards, "b")):
        with pytest.raises(DataError, match=rf"2 of 5 tar files are missing, such as {root}/train-002.tar$"):
            open_dataset(f"tar:{root}/train-{{000..004}}.tar")
    with pytest.raises(DataError, match="a brace has no other one"):
        open_dataset(f"tar:{shards}/train-{{000..004.tar")
    with pytest.raises(DataError, match="has val-0.tar but no file with train in its name"):
        open_dataset(f"tar:{shards}/val-{{0..0}}.tar")


def test_tar_files_in_memory_are_those_of_the_folder(shards, memory):
    root, local = upload(memory, shards, "bucket/shards"), open_dataset(f"tar:{shards}")
    memory.pipe_file("/bucket/shards/in/deeper.tar", b"not looked at")
    for place in (f"{root}", f"{root}/", f"{root}/{{train-{{000..003}},val-0}}.tar"):
        assert alike(open_dataset(f"tar:{place}"), local)
    one, other = (open_dataset(f"tar:{place}/train-001.tar", cache=True) for place in (root, shards))
    np.testing.assert_array_equal(one.train.images, other.train.images)
    assert pickle.loads(pickle.dumps(open_dataset(f"tar:{root}").train))[3]["image"] == picture(3)
    fields = "#image=png"
    assert alike(open_dataset(f"tar:{root}/train-001.tar{fields}"), open_dataset(f"tar:{shards}/train-001.tar{fields}"))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_one_pass_makes_the_index_and_then_only_pictures_are_fetched(tmp_path, form, monkeypatch):
    pytest.importorskip("aiohttp", reason="https:// is read by aiohttp")
    monkeypatch.setattr(storage, "BLOCK", 2**14)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)  # a picture of several kilobytes
    folder = tmp_path / "served"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w", format=form) as archive:
        for n in range(30):
            for name, content in ((f"{n:04}.png", encode(pixels + n)), (f"{n:04}.cls", b"%d" % (n % 3))):
                (tmp_path / name).write_bytes(content)
                member = archive.gettarinfo(tmp_path / name, name)
                member.mtime = n + 0.5  # the header of PAX that WebDataset writes
                archive.addfile(member, open(tmp_path / name, "rb"))
    size = (folder / "a.tar").stat().st_size
    with http_folder(folder) as (root, sent):
        assert len(tar._members(f"{root}/a.tar", None)) == 60
        assert sum(count for _, count in sent) <= size and len(sent) <= size / 2**14 + 2
        first = open_dataset(f"tar:{root}/a.tar")
        monkeypatch.setattr(tar, "open_stream", None)  # now there is a kept index
        sent.clear()
        again = open_dataset(f"tar:{root}/a.tar")
        # Compared for copies; and 100 training pictures are looked at for what they lose as 8-bit RGB.
        assert sum(count for _, count in sent) <= 2 * sum(again.train.sizes) + sum(again.test.sizes)
        assert alike(again, first)
        sent.clear()
        assert again.train[5]["image"] == first.train[5]["image"]
        assert [count for _, count in sent] == [again.train.sizes[5]] * 2
        with open(folder / "a.tar", "ab") as file:  # another file under the same name is looked through anew
            file.write(bytes(512))
        with pytest.raises(DataError, match="'NoneType' object is not callable"):
            open_dataset(f"tar:{root}/a.tar")


def test_what_a_server_of_files_can_do(shards, tmp_path):
    pytest.importorskip("aiohttp", reason="https:// is read by aiohttp")
    with http_folder(shards) as (root, _):
        assert alike(open_dataset(f"tar:{root}/{{train-{{000..003}},val-0}}.tar"), open_dataset(f"tar:{shards}"))
        assert len(open_dataset(f"tar:{root}/train-000.tar?signature=val").train) == 3  # the others are held out
        with pytest.raises(DataError, match="1 of 2 tar files are missing, such as http.*/train-009.tar"):
            open_dataset(f"tar:{root}/train-{{000,009}}.tar")
        with pytest.raises(StorageError, match="a folder cannot be listed over http; name its files"):
            open_dataset(f"tar:{root}")
    with http_folder(shards, ranges=False) as (root, _), pytest.raises(StorageError, match="sends whole files where"):
        open_dataset(f"tar:{root}/train-000.tar")


def test_damage_at_an_address(shards, memory):
    whole = (shards / "train-000.tar").read_bytes()
    memory.pipe_file("/b/cut.tar", whole[:8000])
    memory.pipe_file("/b/none.tar", b"no tar file" * 100)
    for name in ("cut", "none"):
        with pytest.raises(DataError, match=f"^memory://b/{name}.tar cannot be read as a tar file that is not compr"):
            open_dataset(f"tar:memory://b/{name}.tar")
    with pytest.raises(DataError, match="no such file: memory://b/other.tar"):
        open_dataset("tar:memory://b/other.tar")
    with pytest.raises(DataError, match="no such file or folder: memory://c"):
        open_dataset("tar:memory://c")
    memory.pipe_file("/c/a.txt", b"")
    with pytest.raises(DataError, match="no .tar files in memory://c"):
        open_dataset("tar:memory://c")


def assert_resumes(spec: str) -> None:
    """Training batches from a data set that is opened anew go on exactly where others were left."""
    def stream() -> TrainBatches:
        source = open_dataset(spec, seed=1).train
        return TrainBatches(source, RandomResizedCrop(4), Stream(4, seed=0))

    with contextlib.closing(stream()) as whole:
        wanted = [next(whole) for _ in range(9)]
    with contextlib.closing(stream()) as first:
        for _ in range(3):
            next(first)
        state = json.loads(json.dumps(first.state()))
    with contextlib.closing(stream()) as second:
        second.restore(state)
        for batch in wanted[3:]:
            found = next(second)
            assert all((found[name] == batch[name]).all() for name in batch)


def test_batches_go_on_where_they_were_left(shards, tmp_path, memory):
    root = upload(memory, shards, "b")
    for place in (shards, root):
        assert_resumes(f"tar:{place}/{{train-{{000..003}},val-0}}.tar")
    pytest.importorskip("aiohttp", reason="https:// is read by aiohttp")
    with http_folder(shards) as (root, _):
        assert_resumes(f"tar:{root}/train-{{000..003}}.tar")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Parts with classes, one of them nested, and what is left out."""
    folder = tmp_path / "photos"
    write_folder(folder, {"train/cat": 6, "train/dog": 5, "valid/dog": 3, "more": 2})
    (folder / "train" / "dog" / "deep").mkdir()
    (folder / "train" / "dog" / "deep" / "x.PNG").write_bytes(picture(3))
    for name in ("train/dog/words.txt", "train/.hidden.png", "train/loose.png", "list.csv"):
        (folder / name).write_bytes(picture(1))
    return folder


def test_a_folder_in_memory_is_that_folder(photos, memory):
    root = upload(memory, photos, "bucket/photos")
    for local, place in ((photos, root), (photos, f"{root}/"), (photos / "train", f"{root}/train"),
                         (photos / "more", f"{root}/more")):
        here, there = open_dataset(f"folder:{local}", seed=2), open_dataset(f"folder:{place}", seed=2)
        assert alike(there, here) and there.ignored == here.ignored
        assert there.noticed == here.noticed.replace(str(photos), root)
    assert here.class_names == () and there.train.name(0).startswith("memory://bucket/photos/more/00")
    assert open_dataset(f"folder:{root}/more", cache=True).in_memory
    assert_resumes(f"folder:{root}")


def test_what_is_wrong_with_a_folder_at_an_address(photos, memory):
    root = upload(memory, photos, "b")
    for place, words in (("memory://none", "no such folder: memory://none"),
                         (f"{root}/train/dog/words.txt", "no such folder: memory://b/train/dog/words.txt")):
        with pytest.raises(DataError, match=f"^{words}$"):
            open_dataset(f"folder:{place}")
    source = open_dataset(f"folder:{root}").train
    memory.pipe_file("/b/train/cat/000.png", b"another size")
    memory.rm_file("/b/train/cat/001.png")
    with pytest.raises(DecodeError, match="has 12 bytes, and had .* when the data set was listed"):
        source[0]
    with pytest.raises(FileNotFoundError, match="no such file: memory://b/train/cat/001.png"):
        source[1]
    memory.pipe_file("/b/train/cat", b"")
    with pytest.raises(DataError, match="memory://b/train/cat is a file and a folder"):
        open_dataset(f"folder:{root}")
    memory.rm_file("/b/train/cat")
    memory.pipe_file("/b/test/a.txt", b"")
    with pytest.raises(DataError, match="no images"):
        open_dataset(f"folder:{root}")
