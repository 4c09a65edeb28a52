"""Writing whole, syncing in the right order, and going on where a file system cannot sync."""

import errno
import os
import stat
from pathlib import Path

import pytest

from cvjax import durable
from cvjax.durable import delete_folder, make_folder, sync, sync_tree, whole, whole_folder, write_whole


@pytest.fixture
def diary(monkeypatch):
    """What happens, in order: syncs with the path and what lies there then, changes of name, deletions."""
    found, places = [], {}
    real_open, real_sync, real_replace, real_rmtree = os.open, os.fsync, os.replace, durable.shutil.rmtree

    def opened(path, *arguments, **options):
        descriptor = real_open(path, *arguments, **options)
        places[descriptor] = Path(path)
        return descriptor

    def synced(descriptor):
        path = places[descriptor]
        found.append(("sync", path.name, sorted(os.listdir(path)) if path.is_dir() else path.read_bytes()))
        real_sync(descriptor)

    def replaced(one, other):
        found.append(("replace", Path(one).name, other.name))
        real_replace(one, other)

    def deleted(path, **options):
        found.append(("delete", Path(path).name))
        real_rmtree(path, **options)

    monkeypatch.setattr(durable.os, "open", opened)
    monkeypatch.setattr(durable.os, "fsync", synced)
    monkeypatch.setattr(durable.os, "replace", replaced)
    monkeypatch.setattr(durable.shutil, "rmtree", deleted)
    return found


def test_a_file_is_synced_before_it_is_moved_and_its_folder_after(tmp_path, diary):
    partial = f"x.{os.getpid()}.partial"
    write_whole(tmp_path / "x", "text é")
    write_whole(tmp_path / "x", b"bytes")
    assert diary == [("sync", partial, "text é".encode()), ("replace", partial, "x"), ("sync", tmp_path.name, ["x"]),
                     ("sync", partial, b"bytes"), ("replace", partial, "x"), ("sync", tmp_path.name, ["x"])]
    assert (tmp_path / "x").read_bytes() == b"bytes"
    diary.clear()
    write_whole(tmp_path / "cached", b"again", synced=False)
    assert diary == [("replace", f"cached.{os.getpid()}.partial", "cached")]


def test_an_error_leaves_the_old_file_and_nothing_aside(tmp_path, monkeypatch):
    write_whole(tmp_path / "x", "old")
    with pytest.raises(ZeroDivisionError), whole(tmp_path / "x") as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    monkeypatch.setattr(durable.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        write_whole(tmp_path / "x", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "old"}


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_is_written_all_the_same(tmp_path, monkeypatch, refusal):
    def refuse(descriptor):
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(durable.os, "fsync", refuse)
    write_whole(tmp_path / "x", "text")
    sync_tree(tmp_path)
    assert (tmp_path / "x").read_text() == "text"


def test_a_folder_that_may_be_written_to_but_not_listed_is_used(tmp_path, monkeypatch):
    real = os.open

    def forbid(path, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(durable.os, "open", forbid)  # a test may run as root, whom no mode stops
    write_whole(tmp_path / "x", "text")
    assert (tmp_path / "x").read_text() == "text"


@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_to_sync_is_an_error(tmp_path, monkeypatch, failure):
    def fail(descriptor):
        raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr(durable.os, "fsync", fail)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=os.strerror(failure)):
        sync(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_tree_is_synced_from_the_files_up_and_what_is_no_file_is_left_out(tmp_path, diary):
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "x").write_bytes(b"x")
    (tree / "y").write_bytes(b"y")
    os.mkfifo(tree / "pipe")  # to open it would wait for a writer
    (tree / "link").symlink_to(tree / "y")
    (tree / "lost").symlink_to(tree / "nothing")
    sync_tree(tree)
    assert diary == [("sync", "x", b"x"), ("sync", "b", ["x"]), ("sync", "a", ["b"]), ("sync", "y", b"y"),
                     ("sync", "tree", ["a", "link", "lost", "pipe", "y"])]


def test_new_folders_are_synced_into_those_above(tmp_path, diary):
    make_folder(tmp_path / "runs" / "name")
    assert diary == [("sync", tmp_path.name, ["runs"]), ("sync", "runs", ["name"])]
    make_folder(tmp_path / "runs" / "name")
    assert len(diary) == 2


def test_a_folder_is_gone_from_its_name_before_anything_in_it_goes(tmp_path, diary):
    for name in ("run", "run.deleted"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(b"{}")
    delete_folder(tmp_path / "run", tmp_path / "run.deleted")
    assert diary == [("delete", "run.deleted"), ("sync", tmp_path.name, ["run.deleted"]), ("delete", "run.deleted")]
    assert not list(tmp_path.iterdir())


def test_the_file_has_the_mode_that_any_new_file_has(tmp_path):
    (tmp_path / "plain").write_text("")
    write_whole(tmp_path / "x", "")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path, diary):
    partial = f"out.{os.getpid()}.partial"
    (tmp_path / "out").mkdir()  # empty, which is as good as none
    (tmp_path / partial).mkdir()
    (tmp_path / partial / "left").write_text("by a killed process of this number, which in a container is always 1")
    with whole_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("all")
        assert folder.name == partial and not list((tmp_path / "out").iterdir())
    assert diary == [("delete", partial), ("sync", "x", b"all"), ("sync", partial, ["x"]), ("replace", partial, "out"),
                     ("sync", tmp_path.name, ["out"])]
    assert (tmp_path / "out" / "x").read_text() == "all"
    with pytest.raises(OSError), whole_folder(tmp_path / "out") as folder:  # somebody has filled it meanwhile
        (folder / "x").write_text("other")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "new") as folder:
        (folder / "x").write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out/x").read_text() == "all"
