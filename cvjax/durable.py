"""Files that are there after a power cut: written whole, and synced where something depends on them.

What a program writes lies in memory for a while, for half a minute or more on Linux. A power cut loses it, and not in
the order in which it was written: a file that was moved into place may be there under its new name without a byte in
it. Only `fsync` settles a file, and a folder's own `fsync` settles which names it holds. So whatever a run needs in
order to go on is written aside, synced, moved into place, and its folder is synced, before anything relies on it.

Some network mounts refuse `fsync`. There what is written is as durable as they make it.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cvjax.text import write_text

_REFUSED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}  # a file system that cannot sync, not one that failed to


@contextlib.contextmanager
def whole(path: str | os.PathLike, *, synced: bool = True) -> Iterator[Path]:
    """Within this context, a path to write to; at its end the file there becomes `path`, whole or not at all.

    Several processes may write the same file: the last one counts. After an error nothing is left aside.
    synced: False for what can be made again, such as a cache, whose reader must expect a damaged file: kills leave it
    whole, a power cut may not.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        if synced:
            sync(partial)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    if synced:
        sync(path.parent)


def write_whole(path: str | os.PathLike, content: str | bytes, *, synced: bool = True) -> None:
    """Writes a file whole or not at all; see `whole`. A text is written as `cvjax.text.write_text` does."""
    with whole(path, synced=synced) as partial:
        if isinstance(content, str):
            write_text(partial, content)
        else:
            partial.write_bytes(content)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Within this context, a folder to fill; at its end it becomes `path`, whole or not at all.

    path: nothing, or an empty folder. After an error nothing is left aside; a folder above it that was missing may be.
    What a killed process of this number left, as each start in a container has the same, goes first.
    """
    path = Path(os.path.abspath(path))
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    make_folder(path.parent)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        sync_tree(partial)
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(path.parent)


def sync(path: str | os.PathLike) -> None:
    """Returns when the bytes of a file, or the names in a folder, are on the disk; OSError if the disk fails."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if os.path.isdir(path):  # it may be written to, not listed: nobody but its owner can sync it
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: str | os.PathLike) -> None:
    """Returns when all files and folders in a folder are on the disk; its own name is in the folder above.

    Links and what is no plain file are left out, and so is what goes away meanwhile. OSError as in `sync`.
    """
    for parent, _, names in os.walk(folder, topdown=False):
        for path in (*(os.path.join(parent, name) for name in names), parent):
            with contextlib.suppress(FileNotFoundError):
                if path == parent or (os.path.isfile(path) and not os.path.islink(path)):
                    sync(path)


def make_folder(path: str | os.PathLike) -> None:
    """Makes a folder, and those above it, if they are missing; when it returns, they are on the disk."""
    path = Path(os.path.abspath(path))
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


def delete_folder(path: str | os.PathLike, aside: str | os.PathLike) -> None:
    """Deletes a folder; it is called `aside` first, so that nobody ever finds half of it under its name.

    aside: in the same folder. What is left there of an interrupted deletion goes too.
    """
    path, aside = Path(path), Path(aside)
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    sync(aside.parent)  # else a power cut may undo the renaming, and not the deletion
    shutil.rmtree(aside, ignore_errors=True)
