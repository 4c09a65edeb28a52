"""The one door to files that may lie elsewhere: a path on this machine, or an address such as s3://BUCKET/NAME.

Addresses are read and written through fsspec: `s3://`, `gs://`, `https://` (read only), `memory://` (of this process
alone, for tests) and whatever else it knows. A file that is missing or forbidden is so here as on a disk: the error is
also a `FileNotFoundError` or a `PermissionError`. Everything else that goes wrong on the way is tried again and then
raises another `StorageError`, which ends a run. The file itself is no worse for it, so it must not be counted as
damaged: the run would train on another picture in its place, and would no longer be the run that it resumes.

On this machine only regular files are read, whatever their names say: a FIFO or a socket would be waited for without
end, and a device such as /dev/zero has no end.
"""

import contextlib
import errno
import io
import os
import re
import stat
import time
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, TypeVar

import fsspec

from cvjax.errors import ForbiddenError, MissingError, StorageError

WAITS = (1.0, 3.0, 9.0)  # seconds before each further try
BLOCK = 2**23  # bytes that are asked for at once where a file is read from its beginning on

_DRIVE = re.compile(r"[A-Za-z]:/")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://")
_MARKS = ("size", "ETag", "etag", "generation", "md5Hash", "LastModified", "Last-Modified", "mtime", "created")
_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
Answer = TypeVar("Answer")


class Facts(NamedTuple):
    """What is known of a file without reading it. size: bytes. stamp: words that change when the file does."""

    size: int
    stamp: str


def is_address(place: str | os.PathLike) -> bool:
    """Whether a place is an address, not a path on this machine."""
    return _ADDRESS.match(os.fspath(place)) is not None


def read_bytes(place: str | os.PathLike, start: int = 0, size: int | None = None, *, most: int | None = None) -> bytes:
    """The bytes of a file from `start` on, at most `size` of them; at an address, no others are fetched.

    Args:
        most: bytes that a file on this machine may have, where all of it is read.

    Raises:
        OSError: for a path that cannot be read, or is no regular file, and for a file of more than `most` bytes.
        MissingError, ForbiddenError: for an address, if the file is.
        StorageError: for an address that cannot be reached, or read by ranges.
    """
    if not is_address(place):
        with open_file(place) as file:
            if most is not None and (length := os.fstat(file.fileno()).st_size) > most:
                raise OSError(errno.EFBIG, f"has {length:,} bytes, the limit is {most:,}", os.fspath(place))
            file.seek(start)
            return file.read() if size is None else file.read(size)
    if size == 0:
        return b""
    files, path = _open(place)
    end = None if size is None else start + size
    content = _ask(lambda: files.cat_file(path, start=start or None if end is None else start, end=end), place)
    if size is not None and len(content) > size:
        raise StorageError(f"{place}: the server sends whole files where a part is asked for; download the file")
    return content


def open_file(path: str | os.PathLike) -> BinaryIO:
    """A file on this machine, to be read; links are followed.

    Raises:
        OSError: if it cannot be opened, and at once for what is no regular file: a folder, FIFO, socket or device.
    """
    name = os.fspath(path)
    try:
        _check_regular(os.stat(name), name)  # a device may do something when it is opened
        file = open(name, "rb", opener=_without_waiting)
    except ValueError:  # Python's error for a NUL
        raise OSError(errno.EINVAL, "no file's name holds a NUL", name) from None
    try:
        _check_regular(os.fstat(file.fileno()), name)  # what was opened is perhaps another file than before
    except OSError:
        file.close()
        raise
    return file


def _without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


def _check_regular(found: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a device")
        raise OSError(errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL, f"is {kind}, not a file", name)


_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w.-]+(/[\w.-]+)*)?")


def check_repository(name: str) -> None:
    """ValueError unless a name is `[OWNER/]NAME[@REVISION]` as the Hugging Face Hub has it, which its cache makes paths
    of."""
    if _REPOSITORY.fullmatch(name) is None or ".." in name:
        raise ValueError(f"{name[:80]!r} is no name on the hub: it must be OWNER/NAME or OWNER/NAME@REVISION, of "
                         "letters, digits, and . _ - between them")


def check_within(name: str) -> None:
    """ValueError for a name in a list that leads out of the folder that it is relative to, or to no file at all."""
    slashed = name.replace("\\", "/")
    parts = slashed.split("/")
    if parts[0] == "" or _DRIVE.match(slashed) or ".." in parts or "\0" in name:
        raise ValueError(f"the name {name[:80]!r} leads out of the folder, or to no file: it must be relative, without "
                         ".. and NUL")


def facts(place: str | os.PathLike) -> Facts:
    """Size and stamp of a file; errors as in `read_bytes`, `MissingError` for a folder."""
    if not is_address(place):
        found = os.stat(place)
        return Facts(found.st_size, str(found.st_mtime_ns))
    files, path = _open(place)
    info = _ask(lambda: files.info(path), place)
    if info["type"] != "file":
        raise MissingError(f"no such file: {place}")
    if info["size"] is None:
        raise StorageError(f"{place}: the server does not say how large the file is; download it")
    return Facts(info["size"], "; ".join(f"{mark} {info[mark]}" for mark in _MARKS if info.get(mark) is not None))


def size_of(path: str | os.PathLike) -> int:
    """Bytes of a file on this machine; -1 if it is not there or cannot be looked at."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):  # a NUL in its name
        return -1


def open_stream(place: str | os.PathLike) -> BinaryIO:
    """A file to be read from its beginning on, in large blocks at an address; errors as in `read_bytes`."""
    if not is_address(place):
        return open_file(place)
    return io.BufferedReader(_Ranges(place), BLOCK)


def files_below(address: str, *, deep: bool = True) -> dict[str, Facts]:
    """The files below an address by their names relative to it, sorted; `deep`: those in folders within, too.

    Raises:
        MissingError: if there are none.
        ForbiddenError, StorageError: if it must not or cannot be reached or listed.
    """
    files, root = _open(address)
    if address.startswith("http"):
        raise StorageError(f"{address}: a folder cannot be listed over {address.partition(':')[0]}; name its files")
    found = _ask(lambda: files.find(root, maxdepth=None if deep else 1, detail=True), address)
    prefix = f"{root.rstrip('/')}/"
    below = {name.removeprefix(prefix): info for name, info in found.items() if name.startswith(prefix)}
    if not below:
        raise MissingError(f"no such folder: {address}")
    for name in below:
        try:
            check_within(name)  # a store takes any name, also one that leads elsewhere on this machine
        except ValueError as error:
            raise StorageError(f"{address}: {error}") from None
    return {name: Facts(below[name]["size"], "") for name in sorted(below) if not name.endswith("/")}


def upload(path: str | os.PathLike, address: str) -> None:
    """Writes a file to an address, whole or not at all: an object store shows it only when it is there.

    Raises:
        FileNotFoundError: if there is no such file on this machine.
        ForbiddenError, StorageError: as in `read_bytes`, and if there is no such bucket.
    """
    files, target = _open(address)
    try:
        _ask(lambda: files.put_file(os.fspath(path), target), address)
    except FileNotFoundError:
        if os.path.exists(path):
            raise StorageError(f"{address} cannot be written: there is no such bucket") from None
        raise FileNotFoundError(f"no such file: {path}") from None


def download(address: str, path: str | os.PathLike) -> None:
    """Writes the file at an address to a path on this machine; errors as in `read_bytes`."""
    files, source = _open(address)
    _ask(lambda: files.get_file(source, os.fspath(path)), address)


def remove(address: str) -> None:
    """Deletes the file at an address, if it is there; errors as in `read_bytes`."""
    files, path = _open(address)
    with contextlib.suppress(FileNotFoundError):
        _ask(lambda: files.rm_file(path), address)


class _Ranges(io.RawIOBase):
    """A file at an address; each read fetches what it asks for."""

    def __init__(self, place: str | os.PathLike) -> None:
        self._place, self._size, self._at = place, facts(place).size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(min(len(buffer), self._size - self._at), 0)
        content = read_bytes(self._place, self._at, wanted)
        buffer[:len(content)] = content
        self._at += len(content)
        return len(content)


def _open(address: str | os.PathLike) -> tuple[Any, str]:
    """fsspec's file system for an address, and its path there."""
    scheme, _, _ = os.fspath(address).partition("://")
    if "::" in os.fspath(address):
        raise StorageError(f"{address}: chains of addresses (::) cannot be read, only one address")
    try:
        # Without a memory of listings: another process may have written since.
        return fsspec.core.url_to_fs(os.fspath(address), use_listings_cache=False)
    except ImportError as error:
        library = _LIBRARIES.get(scheme) or getattr(error.__cause__, "name", None) or scheme
        raise StorageError(f"{scheme}:// needs {library}, which is not installed: pip install {library}") from None
    except ValueError as error:
        raise StorageError(f"{address} is no address that can be read: {_line(error)}") from None


def _ask(question: Callable[[], Answer], address: str | os.PathLike) -> Answer:
    """`question()`, asked again where the way may be at fault; see the top of the file."""
    for wait in (*WAITS, None):
        try:
            return question()
        except FileNotFoundError:
            raise MissingError(f"no such file: {address}") from None
        except Exception as error:  # each library has errors of its own
            if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
                raise ForbiddenError(f"{address} is forbidden: {_line(error)}") from None
            if wait is None:
                raise StorageError(f"{address} cannot be reached: {_line(error)}") from None
            time.sleep(wait)
    raise AssertionError


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
