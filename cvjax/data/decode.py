"""Decodes an encoded image of any kind to uint8 pixels, or raises one error that says why it cannot.

The first bytes tell the format, never the file's name, and only the formats below are parsed. Every image comes out
upright (EXIF orientation applied), without its alpha (laid on white), and with 16-bit values scaled to 8. Of an
animation, the first frame comes out. `cvjax.data.stored` keeps channels and bits instead.

Pillow can decode all of them. Training decodes JPEGs by simplejpeg, which gives the same pixels faster. Pillow then
reads or refuses the files that simplejpeg does not support or finds damaged.
"""

import functools
import io
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import simplejpeg
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

Result = TypeVar("Result")

# A decoded pixel takes 4 bytes in Pillow, and there are two copies beside the array at times: one image may cost 900 MB
# for each loading thread.
MAX_PIXELS = 2**26
# Of a file: as many pixels in 16-bit colours, and a little more. A sparse file may say that it has any number.
MAX_BYTES = 2**29

_JPEG, _APP1, _SCAN = b"\xff\xd8\xff", b"\xff\xe1", b"\xff\xda"  # a JPEG's start, and two kinds of segments
_BASELINE = (b"\xff\xc0", b"\xff\xc1")  # starts of frames that are decoded from top to bottom
_ARITHMETIC = (b"\xff\xc9", b"\xff\xca")
_NO_FRAMES = (b"\xff\xc4", b"\xff\xc8", b"\xff\xcc")  # tables among the markers of frames
# Of a JPEG. A block of 64 pixels takes two bits at least: a file of fewer bytes holds no such picture.
_PIXELS_PER_BYTE = 512
_SCANS = 16  # through a picture of `MAX_PIXELS`; each takes as long as a whole picture, and most files have ten
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two of files that may be larger than 4 GiB
_FORMATS = (
    (_JPEG, JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"GIF8", GifImageFile),
    (b"BM", BmpImageFile),
    *((magic, TiffImageFile) for magic in _TIFF),
)
_MODES = {1: "L", 3: "RGB"}
_COLOURS = {"L": "GRAY", "RGB": "RGB"}  # Pillow's modes, simplejpeg's colour spaces
_ORIENTATION = 0x0112
_TILE = 0x0143, 0x0142  # TIFF's tags of a tile's length and width
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns about odd EXIF, palettes and sizes that are handled here. `warnings.catch_warnings` around each
# image would not be safe in threads, so its own modules are silenced once.
warnings.filterwarnings("ignore", module=r"PIL\.")


class DecodeError(ValueError):
    """An image that cannot be decoded, with the reason in one line."""


def decode(image: bytes | np.ndarray, channels: int = 3, target: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes `image` to uint8 pixels `(H, W, channels)` in [0, 255].

    Args:
        image: an encoded JPEG, PNG, WebP, GIF, BMP or TIFF of one page; or pixels, uint8 `(H, W)` or `(H, W, 1 | 3)`.
        channels: 1 (grey) or 3 (RGB).
        target: `(height, width)` needed. A JPEG of more than twice that is decoded at 1/2, 1/4 or 1/8 size.

    Raises:
        DecodeError: for anything that is not a whole image of at most `MAX_PIXELS` pixels.
    """
    with LazyImage(image, channels) as lazy:
        return to_array(lazy.load(target))


def decode_label_map(encoded: bytes | np.ndarray) -> np.ndarray:
    """A label map uint8 `(H, W)`: the numbers in a PNG, see `decode_numbers`.

    encoded: a PNG of 1 to 16 bits; or uint8 `(H, W)`, which is returned as it is.

    Raises:
        DecodeError: for a number above 255, and as `decode_numbers`.
    """
    numbers = decode_numbers(encoded)
    if numbers.dtype != np.uint8 and numbers.max() > 255:
        raise DecodeError(f"label {numbers.max()} is above 255, the greatest label")
    return numbers.astype(np.uint8, copy=False)


def decode_numbers(encoded: bytes | np.ndarray) -> np.ndarray:
    """The numbers in a PNG, int32 `(H, W)` in [0, 65535]: indices of its palette, whatever its colours, or levels of
    grey. They are upright, if the PNG has an orientation of its own.

    encoded: a PNG of 1 to 16 bits; or uint8 `(H, W)`, which is returned as it is.

    Raises:
        DecodeError: for anything else, such as a picture in colours or one whose numbers a lossy format has blurred.
    """
    if isinstance(encoded, np.ndarray):
        if encoded.dtype != np.uint8 or encoded.ndim != 2:
            raise DecodeError(f"a label map must be uint8 (H, W), got {encoded.dtype} {encoded.shape}")
        return encoded
    return guarded(_numbers, encoded)


def _numbers(encoded):
    if not is_png(encoded):
        raise DecodeError(f"a label map must be a PNG, which loses nothing; it starts with {bytes(encoded[:8])!r}")
    with PngImageFile(io.BytesIO(encoded)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DecodeError(f"{image.width} x {image.height} pixels, the limit is {MAX_PIXELS} in all")
        if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
            raise DecodeError(f"a label map must have a palette or be grey, this PNG is {image.mode}")
        numbers = np.asarray(image).astype(np.int32)
        orientation = orientation_of(image)
    bits = encoded[24]  # of a number, in the header's fixed place
    if image.mode == "L" and bits < 8:  # Pillow has spread these over 0 to 255
        numbers //= 255 // (2**bits - 1)
    if orientation in _TRANSPOSE:
        numbers = np.asarray(Image.fromarray(numbers).transpose(_TRANSPOSE[orientation]))
    return numbers


def to_array(image: Image.Image) -> np.ndarray:
    """A Pillow image of mode L or RGB -> uint8 `(H, W, C)`."""
    pixels = np.array(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def from_pillow(image: Image.Image) -> np.ndarray:
    """An opened Pillow image as upright pixels, uint8 `(H, W, 1)` if it is grey, else `(H, W, 3)`.

    Raises:
        DecodeError: for levels without a range (mode F), and for a file that is damaged.
    """
    return guarded(_from_pillow, image)


def _from_pillow(image):
    if image.mode == "F":
        raise DecodeError("a Pillow image of mode F has no range of levels: make it uint8 first")
    grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
    orientation = orientation_of(image)
    pixels = _to_mode(image, "L" if grey else "RGB")
    return to_array(pixels.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else pixels)


def is_levels(image: bytes | np.ndarray) -> bool:
    """Whether an image is pixels that are no photo's: float32, or of neither one channel nor three."""
    return isinstance(image, np.ndarray) and image.ndim == 3 and (
        image.dtype == np.float32 or image.dtype == np.uint8 and image.shape[2] not in _MODES)


class LazyImage:
    """An image whose upright `height` and `width` are known from its header, before any pixel is decoded.

    Pixels that are no photo's (`is_levels`) stay as they are; Pillow, and so `load`, takes a single channel of them.

    `orientation` is EXIF's: how the stored pixels are turned to make it upright, 1 for not at all. A context manager;
    all its failures are `DecodeError`.
    """

    def __init__(self, image: bytes | np.ndarray, channels: int):
        self._encoded = image
        self._levels = image if isinstance(image, np.ndarray) and is_levels(image) else None
        if self._levels is not None:
            if self._levels.shape[2] != channels:
                raise DecodeError(f"pixels must be (H, W, {channels}), got {self._levels.dtype} {self._levels.shape}")
            self.orientation, self._mode, self._plain = 1, "F", None
            self.height, self.width = self._levels.shape[:2]
            return
        if channels not in _MODES:
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        self._mode = _MODES[channels]
        self._plain = _plain_jpeg(image)
        self.orientation = 1 if self._plain else orientation_of(self._image)
        self.height, self.width = self._plain or self._upright(self._image.height, self._image.width)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if "_image" in vars(self):
            self._image.close()

    @functools.cached_property
    def _image(self) -> Image.Image:
        """Pillow's image, opened only if needed: it reads headers slowly."""
        return guarded(open_image, self._encoded)

    def load(self, target: tuple[int, int] | None = None) -> Image.Image:
        """The upright Pillow image, mode L or RGB; perhaps smaller than the header says (see `decode`)."""
        try:
            return guarded(self._load, target)
        except DecodeError:  # Pillow reads more of a JPEG than its picture; what `pixels` reads is no bad file here
            if self._plain is None or (pixels := guarded(self._decode_fast, target)) is None:
                raise
            return Image.fromarray(pixels.squeeze(2) if self._mode == "L" else pixels)

    def pixels(self, target: tuple[int, int] | None = None) -> np.ndarray:
        """The pixels of `load`, uint8 `(H, W, C)`; faster for a JPEG.

        A colour JPEG asked for in grey gives its luminance as stored, which `load` computes again from the colours.
        """
        return guarded(self._pixels, target) if self._levels is None else self._levels

    def _pixels(self, target):
        pixels = self._decode_fast(target)
        return to_array(self._load(target)) if pixels is None else pixels

    def _decode_fast(self, target) -> np.ndarray | None:
        """The pixels of a JPEG; None for files that Pillow must decode: other formats, CMYK inks, and damaged files."""
        if not (self._plain or isinstance(self._image, JpegImageFile) and self._image.mode in _COLOURS):
            return None
        scale = self._scale(target)
        height, width = (-(-side // scale) for side in self._upright(self.height, self.width))
        if height * width > MAX_PIXELS:
            return None
        least = (height, width) if scale > 1 else (0, 0)  # simplejpeg's defaults
        try:
            pixels = simplejpeg.decode_jpeg(self._encoded, _COLOURS[self._mode], min_height=least[0],
                                            min_width=least[1])
        except ValueError:
            return None
        if self.orientation in _TRANSPOSE:
            pixels = to_array(self._turned(Image.fromarray(pixels.squeeze(2) if self._mode == "L" else pixels)))
        return pixels

    def _load(self, target):
        image = self._image
        if isinstance(image, JpegImageFile) and (scale := self._scale(target)) > 1:
            image.draft(None, (max(image.width // scale, 1), max(image.height // scale, 1)))
        if image.width * image.height > MAX_PIXELS:
            raise DecodeError(f"{image.width} x {image.height} pixels, the limit is {MAX_PIXELS} in all")
        image.load()
        return self._turned(_to_mode(image, self._mode))

    def _scale(self, target) -> int:
        """The greatest of 8, 4, 2, 1 that leaves a JPEG twice `target`; without one, the least within `MAX_PIXELS`."""
        if target:
            high, wide = target
            return next((n for n in (8, 4, 2) if self.height // n >= 2 * high and self.width // n >= 2 * wide), 1)
        return next((n for n in (8, 4, 2) if self.height * self.width > MAX_PIXELS * (n // 2) ** 2), 1)

    def _turned(self, image):
        return image.transpose(_TRANSPOSE[self.orientation]) if self.orientation in _TRANSPOSE else image

    def _upright(self, height, width):
        return (width, height) if self.orientation >= 5 else (height, width)


def guarded(function: Callable[..., Result], *args: Any) -> Result:
    """The function's result. All that it raises becomes a DecodeError: Pillow raises errors of many types (SyntaxError,
    struct.error, OSError, ...) for a damaged file."""
    try:
        return function(*args)
    except DecodeError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DecodeError(f"damaged image: {reason[:200]}") from error


def open_image(image: bytes | np.ndarray) -> Image.Image:
    """Pillow's image of a file, of which the header is read, or of pixels; DecodeError for another format."""
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if not image:
        raise DecodeError("the file is empty")
    for magic, parser in _FORMATS:
        if image.startswith(magic):
            # Not `Image.open`: its limit on the header's size refuses a JPEG that draft brings under ours.
            opened = parser(io.BytesIO(image))
            if parser is JpegImageFile:
                check_jpeg(image, opened.height, opened.width)
            if isinstance(opened, TiffImageFile):
                high, wide = (int(opened.tag_v2.get(tag, 1)) for tag in _TILE)
                if high * wide > MAX_PIXELS:  # a small picture in the corner of one tile
                    raise DecodeError(f"a TIFF in tiles of {wide} x {high} pixels, the limit is {MAX_PIXELS} in all")
            return opened
    raise DecodeError(f"not a JPEG, PNG, WebP, GIF, BMP or TIFF image: it starts with {bytes(image[:8])!r}")


def check_jpeg(encoded: bytes, height: int, width: int) -> None:
    """DecodeError for a JPEG whose decoding would take gigabytes or minutes, whatever size it is asked for.

    One scan from top to bottom is decoded a few lines at a time, and may be shrunk on the way. Of any other file the
    decoder holds all coefficients of the whole picture, and goes through them once for each scan.
    """
    frame, bundled = _frame(encoded)
    pixels = height * width
    if frame not in _ARITHMETIC and pixels > _PIXELS_PER_BYTE * len(encoded):
        raise DecodeError(f"damaged image: {len(encoded):,} bytes cannot hold {width} x {height} pixels")
    if frame in _BASELINE and bundled:
        return
    if pixels > MAX_PIXELS:
        raise DecodeError(f"a progressive JPEG of {width} x {height} pixels, the limit is {MAX_PIXELS} in all")
    if (scans := encoded.count(_SCAN)) * pixels > _SCANS * MAX_PIXELS:
        raise DecodeError(f"a progressive JPEG of {scans} scans through {width} x {height} pixels, the limit is "
                          f"{_SCANS} through {MAX_PIXELS}")


def _frame(encoded) -> tuple[bytes, bool]:
    """The marker of a JPEG's frame, and whether its first scan has all its colours; the marker is empty if unknown."""
    at, frame, colours = 2, b"", 0
    while (marker := encoded[at:at + 2])[:1] == b"\xff" and marker != _SCAN:
        if b"\xff\xc0" <= marker <= b"\xff\xcf" and marker not in _NO_FRAMES:
            frame, colours = marker, encoded[at + 9] if at + 9 < len(encoded) else 0
        at += 2 + int.from_bytes(encoded[at + 2:at + 4])
    return (frame, encoded[at + 4:at + 5] == bytes([colours])) if marker == _SCAN else (b"", False)


def is_png(encoded: bytes) -> bool:
    """Whether a file is a PNG; then its byte 24 says how many bits a number has."""
    return encoded.startswith(b"\x89PNG\r\n\x1a\n")


def is_tiff(encoded: bytes) -> bool:
    """Whether a file is a TIFF."""
    return encoded.startswith(_TIFF)


def _plain_jpeg(image) -> tuple[int, int] | None:
    """Height and width of a JPEG that has no EXIF and is grey or of three colours; None if Pillow has to read it.

    DecodeError as in `check_jpeg`.
    """
    if not isinstance(image, bytes) or not image.startswith(_JPEG):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(image)
    except ValueError:
        return None
    at = 2
    while (marker := image[at:at + 2]) not in (_SCAN, b""):
        if marker[0] != 0xFF or marker == _APP1 and image.startswith(b"Exif\0\0", at + 4):
            return None
        at += 2 + int.from_bytes(image[at + 2:at + 4])
    if not marker or colours not in ("Gray", "YCbCr", "RGB"):
        return None
    size = int(height), int(width)
    check_jpeg(image, *size)
    return size


def _from_array(pixels):
    if pixels.dtype == np.float32 and pixels.shape[2:] == (1,):
        return Image.fromarray(pixels[:, :, 0])  # mode F
    if (
        pixels.dtype != np.uint8
        or pixels.ndim not in (2, 3)
        or pixels.ndim == 3
        and pixels.shape[2] not in _MODES
    ):
        raise DecodeError(f"pixels must be uint8 (H, W) or (H, W, 1 | 3), got {pixels.dtype} {pixels.shape}")
    if not pixels.size:
        raise DecodeError(f"the image has no pixels: {pixels.shape}")
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation of an opened image, 1 to 8; 1 where there is none."""
    if "exif" not in image.info and "Raw profile type exif" not in image.info:
        return 1
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF: the pixels may still be fine
        return 1
    return orientation if orientation in _TRANSPOSE else 1


def _to_mode(image, mode):
    if image.mode == mode == "F":
        return image
    if isinstance(image, TiffImageFile) and getattr(image, "n_frames", 1) > 1:
        raise DecodeError(f"a TIFF of {image.n_frames} pages is no photo; --channels takes its pages as channels")
    if image.mode == "F":
        raise DecodeError("a TIFF of float numbers has no range of levels")
    if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip at 255 rather than scale
        values = np.asarray(image).clip(0, 65535).astype(np.int32)
        values += 128
        values //= 257
        image = Image.fromarray(values.astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image, mode)
    return image if image.mode == mode else image.convert(mode)


def _on_white(image, mode):
    """An image without its alpha, a few rows at a time: each step has a copy of its own."""
    whole = Image.new(mode, image.size)
    rows = max(1, 2**20 // image.width)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        part = part.convert("RGBA")
        whole.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part).convert(mode), (0, top))
    return whole
