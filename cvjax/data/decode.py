"""From an encoded image, whatever its kind, to uint8 pixels; or to one error that says why not.

The format is told by the first bytes and never by the file's name, and only the five formats below are ever
parsed. Every image comes out upright (EXIF orientation applied), without its alpha (laid on white), with
16-bit values scaled to 8, and is the first frame if it moves.

Pillow can decode all of them. Training takes JPEGs from simplejpeg, which gives the same pixels sooner; what that
cannot take, or finds damaged, is Pillow's to read or to refuse.
"""

import functools
import io
import warnings

import numpy as np
import simplejpeg
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

# A decoded pixel takes 4 bytes, so one image may cost 256 MB for each loading thread.
MAX_PIXELS = 2**26

_JPEG, _APP1, _SCAN = b"\xff\xd8\xff", b"\xff\xe1", b"\xff\xda"  # its start, and two kinds of segments
_FORMATS = (
    (_JPEG, JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"GIF8", GifImageFile),
    (b"BM", BmpImageFile),
)
_MODES = {1: "L", 3: "RGB"}
_COLOURS = {"L": "GRAY", "RGB": "RGB"}  # Pillow's modes, simplejpeg's colour spaces
_ORIENTATION = 0x0112
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
        image: an encoded JPEG, PNG, WebP, GIF or BMP; or pixels, uint8 `(H, W)` or `(H, W, 1 | 3)`.
        channels: 1 (grey) or 3 (RGB).
        target: `(height, width)` needed. A JPEG of more than twice that is decoded at 1/2, 1/4 or 1/8 size.

    Raises:
        DecodeError: for anything that is not a whole image of at most `MAX_PIXELS` pixels.
    """
    with LazyImage(image, channels) as lazy:
        return to_array(lazy.load(target))


def decode_label_map(encoded: bytes | np.ndarray) -> np.ndarray:
    """A label map as uint8 `(H, W)`: the numbers that are in a PNG, indices of its palette or levels of grey.

    encoded: a PNG of 1 to 16 bits; or uint8 `(H, W)`, given back.

    Raises:
        DecodeError: for anything else, such as a picture in colours or one whose numbers a lossy format has blurred.
    """
    if isinstance(encoded, np.ndarray):
        if encoded.dtype != np.uint8 or encoded.ndim != 2:
            raise DecodeError(f"a label map must be uint8 (H, W), got {encoded.dtype} {encoded.shape}")
        return encoded
    return _guard(_label_map, encoded)


def _label_map(encoded):
    magic, parser = next(entry for entry in _FORMATS if entry[1] is PngImageFile)
    if not encoded.startswith(magic):
        raise DecodeError(f"a label map must be a PNG, which loses nothing; it starts with {bytes(encoded[:8])!r}")
    with parser(io.BytesIO(encoded)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DecodeError(f"{image.width} x {image.height} pixels, the limit is {MAX_PIXELS} in all")
        if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
            raise DecodeError(f"a label map must have a palette or be grey, this PNG is {image.mode}")
        labels = np.asarray(image).astype(np.int64)
    bits = encoded[24]  # of a number, in the header's fixed place
    if image.mode == "L" and bits < 8:  # Pillow has spread these over 0 to 255
        labels //= 255 // (2**bits - 1)
    if labels.max() > 255:
        raise DecodeError(f"label {labels.max()} is above 255, the greatest there is")
    return labels.astype(np.uint8)


def to_array(image: Image.Image) -> np.ndarray:
    """A Pillow image of mode L or RGB -> uint8 `(H, W, C)`."""
    pixels = np.array(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


class LazyImage:
    """An image whose upright `height` and `width` are known from its header, before any pixel is decoded.

    A context manager; all its failures are `DecodeError`.
    """

    def __init__(self, image: bytes | np.ndarray, channels: int):
        if channels not in _MODES:
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        self._mode = _MODES[channels]
        self._encoded = image
        self._plain = _plain_jpeg(image)
        self._orientation = 1 if self._plain else _orientation(self._image)
        self.height, self.width = self._plain or self._upright(self._image.height, self._image.width)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if "_image" in vars(self):
            self._image.close()

    @functools.cached_property
    def _image(self) -> Image.Image:
        """Pillow's, which takes its time to read a header."""
        return _guard(_open, self._encoded)

    def load(self, target: tuple[int, int] | None = None) -> Image.Image:
        """The upright Pillow image, mode L or RGB; perhaps smaller than the header says (see `decode`)."""
        return _guard(self._load, target)

    def pixels(self, target: tuple[int, int] | None = None) -> np.ndarray:
        """What `load` gives, as uint8 `(H, W, C)`, sooner where it is a JPEG.

        A colour JPEG asked for in grey gives its luminance as stored, which `load` computes anew from the colours.
        """
        return _guard(self._pixels, target)

    def _pixels(self, target):
        pixels = self._decode_fast(target)
        return to_array(self._load(target)) if pixels is None else pixels

    def _decode_fast(self, target) -> np.ndarray | None:
        """The pixels of a JPEG; None for what is Pillow's: other formats, inks, and whatever is not in order."""
        if not (self._plain or isinstance(self._image, JpegImageFile) and self._image.mode in _COLOURS):
            return None
        scale = self._scale(target)
        height, width = (-(-side // scale) for side in self._upright(self.height, self.width))
        if height * width > MAX_PIXELS:
            return None
        smaller = {"min_height": height, "min_width": width} if scale > 1 else {}
        try:
            pixels = simplejpeg.decode_jpeg(self._encoded, _COLOURS[self._mode], **smaller)
        except ValueError:
            return None
        if self._orientation in _TRANSPOSE:
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
        return image.transpose(_TRANSPOSE[self._orientation]) if self._orientation in _TRANSPOSE else image

    def _upright(self, height, width):
        return (width, height) if self._orientation >= 5 else (height, width)


def _guard(function, *args):
    """Pillow raises errors of many types (SyntaxError, struct.error, OSError, ...) for a damaged file."""
    try:
        return function(*args)
    except DecodeError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DecodeError(f"damaged image: {reason[:200]}") from error


def _open(image):
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if not image:
        raise DecodeError("the file is empty")
    for magic, parser in _FORMATS:
        if image.startswith(magic):
            # Not `Image.open`: its limit on the header's size refuses a JPEG that draft brings under ours.
            return parser(io.BytesIO(image))
    raise DecodeError(f"not a JPEG, PNG, WebP, GIF or BMP image: it starts with {bytes(image[:8])!r}")


def _plain_jpeg(image) -> tuple[int, int] | None:
    """Height and width of a JPEG that has no EXIF and is grey or of three colours; None where Pillow has to look."""
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
    return (height, width) if marker and colours in ("Gray", "YCbCr", "RGB") else None


def _from_array(pixels):
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


def _orientation(image) -> int:
    if "exif" not in image.info and "Raw profile type exif" not in image.info:
        return 1
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF: the pixels may still be fine
        return 1
    return orientation if orientation in _TRANSPOSE else 1


def _to_mode(image, mode):
    if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip at 255 rather than scale
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)
