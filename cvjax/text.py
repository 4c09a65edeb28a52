"""The one place that opens text files: UTF-8 whatever the locale says, with or without a byte-order mark.

Names of files need not be text on Unix. Lists of them keep the bytes that are no UTF-8 as lone surrogates (PEP 383),
the way Python's own functions for files do under a UTF-8 locale.
"""

import contextlib
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TextIO

from cvjax.errors import DataError
from cvjax.storage import read_bytes

_NAMES = "surrogateescape"


def read_text(path: str | os.PathLike, *, names: bool = False) -> str:
    """The contents of a text file, without its byte-order mark.

    Args:
        path: on this machine, or an address.
        names: it lists names of files, whose bytes need not be UTF-8.

    Raises:
        OSError, StorageError: if it cannot be read, as in `cvjax.storage.read_bytes`.
        DataError: if it is not UTF-8; with the line, counted from 1.
    """
    return decode_text(read_bytes(path), path, names=names)


def decode_text(content: bytes, what: str | os.PathLike, *, names: bool = False) -> str:
    """`read_text` of bytes that have been read already; `what` is their name in the error."""
    try:
        return content.decode("utf-8-sig", _NAMES if names else "strict").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = 1 + content[:error.start].count(b"\n")
        raise DataError(f"{what} is not UTF-8: byte 0x{content[error.start]:02x} in line {line}; save it as "
                        "UTF-8") from None


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file as UTF-8; lone surrogates become the bytes that they stand for."""
    with naming(path):
        Path(path).write_bytes(text.encode("utf-8", _NAMES))


def open_text(path: str | os.PathLike, mode: Literal["w", "a"]) -> TextIO:
    """A text file to write ("w") or to append to ("a") bit by bit; ends of lines are written as given."""
    return open(path, mode, encoding="utf-8", errors=_NAMES, newline="")


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Within this context an OSError names the file; one that comes with the bytes, as of a full disk, does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


def name_as_text(name: str) -> str:
    """A file's or folder's name, as Python gives it under any locale, as the text that its UTF-8 bytes mean."""
    return os.fsencode(name).decode("utf-8", _NAMES)


def text_as_name(text: str) -> str:
    """The name by which Python finds the file whose name is this text; the inverse of `name_as_text`."""
    return os.fsdecode(text.encode("utf-8", _NAMES))


def printable(text: str, most: int | None = None) -> str:
    """Text on one line that no terminal or page obeys: of a file, a class or a message that names one.

    Characters that steer (ends of lines, escape sequences, the direction of writing) and bytes that are no UTF-8 are
    written as Python writes them, such as `\\x1b`. Everything else stays as it is.

    most: letters of the text; the middle of a longer one is left out, which a hostile name may make of any length.
    """
    if most is not None and len(text) > most:
        text = f"{text[:most // 2]} [...] {text[-(most // 2):]}"
    return "".join(_escaped(character) if _steers(character) else character for character in text)


_JOINERS = "\u200c\u200d"  # part of words in many scripts, and of pictures of people


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS


def _escaped(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte that is no UTF-8, see PEP 383
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
