"""The pixels of an image file with all channels and all bits that it stores, for images that are no photos.

Photos become 8-bit RGB instead, whatever their files store: see `cvjax.data.decode`.
"""

import cv2
import numpy as np
from PIL import Image

from cvjax.data.decode import MAX_PIXELS, DecodeError, guarded, is_png, is_tiff, open_image, orientation_of
from cvjax.data.orientation import upright_map

_GREATEST = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
_CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def decode_stored(encoded: bytes, channels: int) -> np.ndarray:
    """The levels that a file stores: float32 `(H, W, channels)` in [0, 255], upright.

    The greatest number of 16 bits becomes 255, as that of 8 bits is. Grey has one channel, grey with alpha two, colours
    three, colours with alpha four; a palette becomes its colours. A TIFF has the channels of all its pages, in order.

    Raises:
        DecodeError: for a file that stores another number of channels, numbers without a range (float), pages of
            different sizes, CMYK inks, and as `decode`.
    """
    return guarded(_decode, encoded, channels)


def levels(values: np.ndarray) -> np.ndarray:
    """uint8 or uint16 to float32 levels in [0, 255]."""
    return values.astype(np.float32) * np.float32(255 / _GREATEST[values.dtype])


def _decode(encoded: bytes, channels: int) -> np.ndarray:
    with open_image(encoded) as image:
        pages = getattr(image, "n_frames", 1) if is_tiff(encoded) else 1
        if pages > channels:
            raise DecodeError(f"the file stores {pages} pages of a channel or more, not {channels} channels")
        for page in range(1, pages):  # OpenCV decodes them all, whatever their sizes are
            size = image.size
            image.seek(page)
            if image.size != size:
                raise DecodeError(f"its {pages} pages differ in size")
        image.seek(0)
        if image.width * image.height * max(pages, channels) > MAX_PIXELS:
            raise DecodeError(f"{image.width} x {image.height} pixels of {max(pages, channels)} channels, the limit is "
                              f"{MAX_PIXELS} in all")
        orientation = orientation_of(image)
        # Pillow has no 16-bit colours, and of a TIFF not all kinds of pages.
        values = _by_opencv(encoded) if is_tiff(encoded) or is_png(encoded) and encoded[24] == 16 else _by_pillow(image)
    if values.shape[2] != channels:
        raise DecodeError(f"the file stores {values.shape[2]} channels, not {channels}")
    if values.dtype not in _GREATEST:
        raise DecodeError(f"the file stores {values.dtype}, which has no range; allowed are 8 and 16 bits")
    return np.ascontiguousarray(upright_map(levels(values), orientation))


def _by_pillow(image: Image.Image) -> np.ndarray:
    image.load()
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    if image.mode not in _CHANNELS:
        raise DecodeError(f"the file stores pixels of mode {image.mode}; allowed are {', '.join(_CHANNELS)}")
    values = np.asarray(image)
    return values[:, :, None] if values.ndim == 2 else values


def _check_chunks(png: bytes) -> None:
    """DecodeError for a PNG that ends within a chunk: OpenCV makes room for all that one says it has."""
    at, kind = 8, b""
    while at + 8 <= len(png) and kind != b"IEND":
        length, kind = int.from_bytes(png[at:at + 4]), png[at + 4:at + 8]
        if at + 8 + length > len(png):
            raise DecodeError(f"damaged image: a chunk of {length:,} bytes in a file of {len(png):,}")
        at += 12 + length


def _by_opencv(encoded: bytes) -> np.ndarray:
    if is_png(encoded):
        _check_chunks(encoded)
    whole, pages = cv2.imdecodemulti(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    if not whole or not pages:
        raise DecodeError("OpenCV cannot read this TIFF or PNG: its pages may have 1, 3 or 4 channels of 8 or 16 bits")
    if len({(page.shape[:2], page.dtype) for page in pages}) > 1:
        raise DecodeError(f"its {len(pages)} pages differ in size or type")
    return np.concatenate([_as_rgb(page) for page in pages], axis=2)


def _as_rgb(page: np.ndarray) -> np.ndarray:
    """OpenCV's blue, green, red (and alpha) in the file's order; `(H, W, C)`."""
    if page.ndim == 2:
        return page[:, :, None]
    return page[:, :, [2, 1, 0, 3][:page.shape[2]]] if page.shape[2] >= 3 else page
