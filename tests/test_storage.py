"""Files at addresses: what is fetched, what is missing, and what ends a run."""

import errno
import os
import resource
import socket
import sys

import pytest

from cvjax import storage
from cvjax.data.dataset import listed_classes
from cvjax.errors import CvjaxError, StorageError
from tests.data.servers import HOST, http_folder


def test_an_address_begins_with_a_scheme():
    assert all(map(storage.is_address, ("s3://b/a", "memory://a", "https://h/a.tar")))
    assert not any(map(storage.is_address, ("a", "/a://b", "./s3:/a", "C:\\a")))


def test_parts_of_a_file_are_alike_in_a_folder_and_at_an_address(memory, tmp_path):
    content = os.urandom(5000)
    memory.pipe_file("/a/b.bin", content)
    (tmp_path / "b.bin").write_bytes(content)
    for place in (tmp_path / "b.bin", "memory://a/b.bin"):
        assert storage.read_bytes(place) == content
        for start, size in ((0, 10), (7, 0), (4990, 100), (3, None), (0, 5000)):
            assert storage.read_bytes(place, start, size) == content[start:][:size]
        assert storage.facts(place).size == 5000
        with storage.open_stream(place) as file:
            file.seek(4000)
            assert file.read(50) == content[4000:4050] and file.seek(-10, os.SEEK_END) == 4990
            assert file.read() == content[4990:] and file.read(1) == b""


def test_a_stamp_changes_with_the_file(memory):
    memory.pipe_file("/a", b"one")
    before = storage.facts("memory://a").stamp
    assert storage.facts("memory://a").stamp == before
    memory.pipe_file("/a", b"two")
    assert storage.facts("memory://a").stamp != before


def test_files_below_an_address(memory):
    for name in ("x/b.tar", "x/a.tar", "x/in/c.tar", "xy/d.tar"):
        memory.pipe_file(f"/{name}", name.encode())
    assert {name: fact.size for name, fact in storage.files_below("memory://x").items()} == {
        "a.tar": 7, "b.tar": 7, "in/c.tar": 10}
    assert list(storage.files_below("memory://x/", deep=False)) == ["a.tar", "b.tar"]
    with pytest.raises(FileNotFoundError, match="no such folder: memory://z"):
        storage.files_below("memory://z")


def test_what_is_missing_is_missing_and_not_asked_for_again(memory, monkeypatch):
    monkeypatch.setattr(storage.time, "sleep", None)
    for ask in (storage.read_bytes, storage.facts, storage.open_stream):
        with pytest.raises(FileNotFoundError, match="no such file: memory://nothing"):
            ask("memory://nothing")


def test_a_place_that_does_not_answer_is_asked_again_and_then_ends_the_run(memory, monkeypatch):
    memory.pipe_file("/a", b"content")
    waits, answers = [], [TimeoutError("slow"), ConnectionError("reset")]
    read = type(memory).cat_file

    def flaky(self, *arguments, **options):
        if answers:
            raise answers.pop()
        return read(self, *arguments, **options)

    monkeypatch.setattr(type(memory), "cat_file", flaky)
    monkeypatch.setattr(storage.time, "sleep", waits.append)
    assert storage.read_bytes("memory://a") == b"content" and waits == [1.0, 3.0]
    answers[:] = [ConnectionError("reset")] * 9
    with pytest.raises(StorageError, match="^memory://a cannot be reached: ConnectionError: reset$") as caught:
        storage.read_bytes("memory://a")
    assert len(waits) == 5 and not isinstance(caught.value, OSError)  # an OSError would be a bad file


def test_addresses_that_cannot_be_read(monkeypatch):
    for address, words in (("nowhere://a", "is no address that can be read: ValueError: Protocol not known: nowhere"),
                           ("zip://a.txt::memory://b.zip", "chains of addresses"),
                           ("https://example.org/folder/", "a folder cannot be listed over https; name its files")):
        with pytest.raises(StorageError, match=words):
            storage.files_below(address)
    known = sys.modules["fsspec.registry"].known_implementations  # `fsspec.registry` is the table of those in use
    monkeypatch.setitem(known, "other", {"class": "no_such_library.Other"})
    with pytest.raises(StorageError, match="^other:// needs no_such_library, which is not installed: pip install no_"):
        storage.read_bytes("other://bucket/name")


def test_over_http_only_the_bytes_that_are_asked_for_are_sent(tmp_path):
    pytest.importorskip("aiohttp", reason="https:// is read by aiohttp")
    (tmp_path / "a.bin").write_bytes(bytes(range(250)) * 40)
    with http_folder(tmp_path) as (root, sent):
        assert storage.facts(f"{root}/a.bin").size == 10_000
        sent.clear()
        assert storage.read_bytes(f"{root}/a.bin", 252, 3) == bytes([2, 3, 4])
        assert sent == [("a.bin", 3)]
        with pytest.raises(FileNotFoundError):
            storage.read_bytes(f"{root}/b.bin", 0, 3)
    with http_folder(tmp_path, ranges=False) as (root, _), pytest.raises(StorageError, match="sends whole files where"):
        storage.read_bytes(f"{root}/a.bin", 252, 3)


def test_what_is_forbidden_is_so_and_not_asked_for_again(tmp_path, monkeypatch):
    """S3 says so of files that are not there to those who must not list a bucket."""
    pytest.importorskip("aiohttp", reason="https:// is read by aiohttp")
    monkeypatch.setattr(storage.time, "sleep", None)
    with http_folder(tmp_path, missing=403) as (root, _):
        with pytest.raises(PermissionError, match=f"^{root}/a.tar is forbidden: ClientResponseError: 403"):
            storage.read_bytes(f"{root}/a.tar")
        with pytest.raises(CvjaxError):  # said in one line where nobody takes it for a bad file
            storage.facts(f"{root}/a.tar")
        assert listed_classes(root) is None
        (tmp_path / "classes.txt").write_text("cat\ndog\n")
        assert listed_classes(root) == ("cat", "dog")


def test_a_server_that_is_not_there(monkeypatch):
    pytest.importorskip("aiohttp", reason="https:// is read by aiohttp")
    monkeypatch.setattr(storage, "WAITS", ())
    with pytest.raises(StorageError, match="cannot be reached: ClientConnectorError"):
        storage.read_bytes(f"http://{HOST}:9/a.tar")


@pytest.fixture
def odd(tmp_path):
    """Things that are no regular files, by what an error calls them."""
    listening = socket.socket(socket.AF_UNIX)
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "to_fifo.jpg").symlink_to("fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    here = os.open(".", os.O_RDONLY)
    os.chdir(tmp_path)  # a socket's whole path is perhaps too long
    listening.bind("socket.jpg")
    os.fchdir(here)
    os.close(here)
    yield {"fifo.jpg": "a FIFO", "to_fifo.jpg": "a FIFO", "zero.jpg": "a device", "folder.jpg": "a folder",
           "socket.jpg": "a socket"}
    listening.close()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [storage.read_bytes, storage.open_stream, storage.open_file])
def test_only_regular_files_are_read_and_nothing_is_waited_for(odd, tmp_path, read):
    for name, kind in odd.items():
        with pytest.raises(OSError, match=f"is {kind}, not a file: '.*/{name}'"):
            read(tmp_path / name)


def test_names_and_links_that_lead_nowhere(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for name, number in (("a", errno.ELOOP), ("nothing", errno.ENOENT), ("a\0b", errno.EINVAL), ("a" * 300,
                                                                                                errno.ENAMETOOLONG)):
        with pytest.raises(OSError) as error:
            storage.read_bytes(tmp_path / name)
        assert error.value.errno == number
        assert storage.size_of(tmp_path / name) == -1


@pytest.mark.timeout(20)
def test_a_file_that_becomes_a_fifo_before_it_is_opened_is_none(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"a")
    whole = os.stat

    def exchanged(*args, **options):
        found = whole(*args, **options)
        if args[0] == str(path):
            monkeypatch.undo()
            path.unlink()
            os.mkfifo(path)
        return found

    monkeypatch.setattr(os, "stat", exchanged)
    with pytest.raises(OSError, match="is a FIFO"):
        storage.read_bytes(path)


def test_a_file_that_says_it_is_huge_is_not_read(tmp_path):
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(2**42)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OSError, match="has 4,398,046,511,104 bytes, the limit is 1,000"):
        storage.read_bytes(tmp_path / "sparse.jpg", most=1000)
    assert storage.read_bytes(tmp_path / "sparse.jpg", 2**41, 10) == bytes(10)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15  # KiB


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "..a/b..c", "a:b.jpg", "C:", "a..b"])
def test_names_that_stay_in_their_folder(name):
    storage.check_within(name)


@pytest.mark.parametrize("name", ["../a", "a/../../b", "a/..", "..", "/a", "\\a", "a\\..\\b", "C:\\a", "c:/a", "a\0b",
                                  ""])
def test_names_that_lead_out_of_their_folder(name):
    with pytest.raises(ValueError, match="leads out of the folder, or to no file"):
        storage.check_within(name)


@pytest.mark.parametrize("name", ["timm/vit_base.augreg", "gpt2", "a/b-c_d.e@v1.0", "a/b@refs/pr/1", "0/1"])
def test_names_on_the_hub(name):
    storage.check_repository(name)


@pytest.mark.parametrize("name", ["../a", "a/../b", "a/b/c", "/a", "a/", "", "a/b@", "a/b@../../c", "a/b@/c", "a\\b",
                                  "a b", "a\0b", ".hidden/a", "a/b\n", "a/b@c@d", "https://a/b"])
def test_names_that_are_none_on_the_hub(name):
    with pytest.raises(ValueError, match="is no name on the hub"):
        storage.check_repository(name)


def test_a_store_whose_names_lead_elsewhere_is_refused(memory):
    memory.pipe("/b/x.jpg", b"x")
    memory.store["/b/photos/../x.jpg"] = memory.store.pop("/b/x.jpg")
    with pytest.raises(StorageError, match="the name '../x.jpg' leads out of the folder"):
        storage.files_below("memory://b/photos")
