"""A picture from outside, in whatever form somebody has it, as the decoder takes it."""

import os
import re
from typing import Any

import numpy as np
from PIL import Image

from cvjax.data.decode import MAX_BYTES, DecodeError, from_pillow
from cvjax.storage import read_bytes

Picture = bytes | str | os.PathLike | Image.Image | np.ndarray

_KINDS = "a path, a file's bytes, a Pillow image or pixels uint8 (H, W) or (H, W, 1 | 3)"
_ADDRESS = re.compile(r"data:|[A-Za-z][A-Za-z0-9+.-]+:/+")  # a Path makes one slash of two; C:/ is a drive


def picture_of(given: Picture | Any) -> bytes | np.ndarray:
    """The bytes of an image file, or its pixels.

    Args:
        given: the path of a file; its bytes (also a bytearray or memoryview); a Pillow image, which is made upright; or
            an array of any library, whose type and shape are checked when it is decoded.

    Raises:
        DecodeError: for the address of something on a network, and for anything else, in one line that says what it is.
        OSError: for a file that cannot be read.
    """
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    if isinstance(given, str | os.PathLike):
        path = os.fspath(given)
        if isinstance(path, str) and _ADDRESS.match(path):
            raise DecodeError(f"a picture must be {_KINDS}; {path[:80]!r} is an address: download it first")
        return read_bytes(os.fsdecode(path), most=MAX_BYTES)
    if isinstance(given, Image.Image):
        return from_pillow(given)
    if isinstance(given, np.ndarray) or hasattr(given, "__array__"):
        return np.asarray(given)
    raise DecodeError(f"a picture must be {_KINDS}; got {type(given).__name__}")
