"""Odd image files, made here: some hundred that are whole, damaged, or no images, by what Pillow makes of them."""

import dataclasses
import io
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.data.pictures import encode, gradient, photo

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


@dataclasses.dataclass(frozen=True)
class Odd:
    """name: of the case. content: the file. pixels: what it shows, uint8 `(H, W, 3)`; None: it is a bad file."""

    name: str
    content: bytes
    pixels: np.ndarray | None


def reference(content: bytes) -> np.ndarray | None:
    """The pixels by the reader's rules, put together from Pillow's own functions; None if it is a bad file."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.format == "TIFF" and image.n_frames > 1 or image.mode == "F":
                return None
            image.seek(0)
            image.load()
            return _upright(_eight_bits(image), image)
    except Exception:
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(float).clip(0, 65535) * 255 / 65535
        return Image.fromarray(np.floor(levels + 0.5).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, clear).convert("RGB")
    return image.convert("RGB")


def _upright(pixels: Image.Image, image: Image.Image) -> np.ndarray:
    try:
        orientation = image.getexif().get(0x0112, 1)
        orientation = orientation if isinstance(orientation, int) else 1
    except Exception:
        orientation = 1
    values = np.asarray(pixels)
    if 5 <= orientation <= 8:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def exif(orientation, kind: int = 3) -> bytes:
    """EXIF with an orientation, of a type that may be wrong."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12" + struct.pack(">HIHxx", kind, 1, orientation) + bytes(4)


def segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment at its beginning."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, data: bytes, *chunks: bytes) -> bytes:
    """A PNG of these bytes, compressed; `chunks` come before them."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def odd_files() -> list[Odd]:
    """All cases; their names are different, and say what they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of what is odd
        cases = dict(_whole()) | dict(_annotated()) | dict(_damaged()) | dict(_others())
        found = {name: reference(content) for name, content in cases.items()}
        # Pillow refuses the file for its profile, of which the pixels need nothing.
        assert found["JPEG-icc-cut"] is None
        found["JPEG-icc-cut"] = reference(cases["JPEG-icc-noise"])
        return [Odd(name, content, found[name]) for name, content in cases.items()]


def _whole() -> Iterator[tuple[str, bytes]]:
    """Every mode and size of every format."""
    colour = Image.fromarray(photo(13, 17))
    ramp = np.linspace(0, 65535, 13 * 17).reshape(13, 17)
    clear = colour.convert("RGBA")
    clear.putalpha(Image.fromarray(gradient(13, 17)[:, :, 0]))
    modes = {mode: colour.convert(mode) for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV")}
    modes |= {"RGBA": clear, "LA": clear.convert("LA"), "I;16": Image.fromarray(ramp.astype(np.uint16)),
              "I": Image.fromarray(ramp.astype(np.int32)), "F": Image.fromarray(ramp.astype(np.float32))}
    for format in FORMATS:
        for mode, image in modes.items():
            try:
                yield f"{format}-{mode}".replace(";", ""), encode(image, format)
            except (OSError, KeyError, ValueError):  # a mode that the format does not have
                continue
        for height, width in ((1, 1), (1, 300), (300, 1), (2, 7)):
            yield f"{format}-{height}x{width}", encode(photo(height, width), format)
    for quality in (1, 50, 100):
        for subsampling in (0, 1, 2):
            yield f"JPEG-q{quality}-s{subsampling}", encode(colour, "JPEG", quality=quality, subsampling=subsampling)
    yield "JPEG-progressive", encode(colour, "JPEG", progressive=True)
    yield "JPEG-progressive-grey", encode(modes["L"], "JPEG", progressive=True)
    yield "JPEG-restarts", encode(Image.fromarray(photo(80, 90)), "JPEG", restart_marker_blocks=2)
    yield "JPEG-rgb", encode(colour, "JPEG", keep_rgb=True)
    yield "PNG-index-clear", encode(modes["P"], "PNG", transparency=3)
    yield "PNG-palette-alpha", encode(modes["P"], "PNG", transparency=bytes(range(0, 256, 2)))
    yield "PNG-grey-clear", encode(modes["L"], "PNG", transparency=100)
    yield "PNG-rgb-clear", encode(colour, "PNG", transparency=colour.getpixel((0, 0)))
    for bits in (1, 2, 4):
        yield f"PNG-P{bits}", encode(colour.quantize(2**bits), "PNG", bits=bits)
    for colours, count in ((0, 1), (2, 3), (4, 2), (6, 4)):
        values = np.random.default_rng(colours).integers(0, 65536, (5, 6 * count)).astype(">u2")
        rows = b"".join(b"\0" + row.tobytes() for row in values)
        yield f"PNG-16-{colours}", png(6, 5, 16, colours, rows)
    frames = [Image.fromarray(photo(9, 11, seed)) for seed in range(3)]
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        yield f"{format}-frames", encode(frames[0], format, save_all=True, append_images=frames[1:])
    yield "GIF-frames-clear", encode(modes["P"], "GIF", save_all=True, append_images=[frames[1]], transparency=2)
    yield "GIF-interlaced", encode(colour, "GIF", interlace=True)
    yield "WEBP-lossless", encode(colour, "WEBP", lossless=True)
    yield "WEBP-clear", encode(clear, "WEBP")
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "tiff_jpeg", "tiff_adobe_deflate", "zstd", "lzma"):
        yield f"TIFF-{compression}", encode(colour, "TIFF", compression=compression)
    yield "TIFF-fax", encode(modes["1"], "TIFF", compression="group4")
    yield "TIFF-big", encode(colour, "TIFF", big_tiff=True)
    yield "BMP-down", _flipped_bmp(encode(colour, "BMP"))


def _flipped_bmp(bmp: bytes) -> bytes:
    height, = struct.unpack_from("<i", bmp, 22)
    return bmp[:22] + struct.pack("<i", -height) + bmp[26:]


def _annotated() -> Iterator[tuple[str, bytes]]:
    """EXIF, colour profiles and comments, right and wrong."""
    jpeg, plain = encode(photo(13, 17), "JPEG"), encode(photo(13, 17))
    for orientation in (*range(10), 255, 65535):
        yield f"JPEG-turned-{orientation}", segment(jpeg, 0xE1, exif(orientation))
    for orientation in (2, 6):
        for format in ("PNG", "WEBP", "TIFF"):
            made = Image.Exif()
            made[0x0112] = orientation
            yield f"{format}-turned-{orientation}", encode(photo(13, 17), format, exif=made)
    for kind in (1, 2, 4, 5, 12, 99):
        yield f"JPEG-exif-type-{kind}", segment(jpeg, 0xE1, exif(6, kind))
    for name, content in {"empty": b"Exif\0\0", "cut": exif(6)[:15], "loop": exif(1)[:-4] + b"\0\0\0\x08",
                          "noise": b"Exif\0\0" + bytes(range(256)), "far": b"Exif\0\0MM\0*\xff\xff\xff\xff",
                          "xmp": b"http://ns.adobe.com/xap/1.0/\0<x:", "many": exif(6)[:14] + b"\xff\xff"}.items():
        yield f"JPEG-exif-{name}", segment(jpeg, 0xE1, content)
    for name, content in {"cut": b"ICC_PROFILE\0", "noise": b"ICC_PROFILE\0\x01\x02" + bytes(300),
                          "parts": b"ICC_PROFILE\0\x05\x02" + bytes(9)}.items():
        yield f"JPEG-icc-{name}", segment(jpeg, 0xE2, content)
    yield "JPEG-jfif-twice", segment(jpeg, 0xE0, b"JFIF\0\x01\x01\x00\x00\x01\x00\x01\x00\x00")
    yield "JPEG-photoshop", segment(jpeg, 0xED, b"Photoshop 3.0\x008BIM\x03\xed" + b"\xff" * 9)
    yield "JPEG-adobe", segment(jpeg, 0xEE, b"Adobe\0\x64\0\0\0\0\x02")
    yield "JPEG-comment", segment(jpeg, 0xFE, b"\x1b[31m<script>" * 100)
    yield "JPEG-mpo", segment(jpeg, 0xE2, b"MPF\0MM\0*\0\0\0\x08\0\0") + jpeg
    yield "PNG-icc-noise", plain[:33] + chunk(b"iCCP", b"a\0\0" + bytes(50)) + plain[33:]
    yield "PNG-icc-bomb", plain[:33] + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**7), 9)) + plain[33:]
    yield "PNG-text-bomb", plain[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7), 9)) + plain[33:]
    yield "PNG-exif-noise", plain[:33] + chunk(b"eXIf", b"MM\0*\xff\xff") + plain[33:]
    yield "PNG-unknown", plain[:33] + chunk(b"abCd", b"what") + plain[33:]
    yield "PNG-unknown-needed", plain[:33] + chunk(b"AbCd", b"what") + plain[33:]


def _damaged() -> Iterator[tuple[str, bytes]]:
    """Files cut off at many places, with flipped bits, and with what does not belong there."""
    whole = {"jpeg": encode(photo(40, 60), "JPEG"), "progressive": encode(photo(40, 60), "JPEG", progressive=True),
             "png": encode(photo(20, 30)), "webp": encode(photo(40, 60), "WEBP"), "gif": encode(photo(20, 30), "GIF"),
             "bmp": encode(photo(9, 10), "BMP"), "tiff": encode(photo(9, 10), "TIFF"),
             "lzw": encode(photo(20, 30), "TIFF", compression="tiff_lzw")}
    rng = np.random.default_rng(0)
    for name, content in whole.items():
        for percent in (2, 10, 30, 50, 70, 90, 99):
            yield f"{name}-cut-{percent}", content[:percent * len(content) // 100]
        yield f"{name}-without-its-last-byte", content[:-1]
        yield f"{name}-and-more", content + b"more" * 100
        yield f"{name}-twice", content + content
        yield f"{name}-after-a-line", b"\n" + content
        yield f"{name}-upside-down", content[::-1]
        for number in range(6):
            flipped = bytearray(content)
            for at in rng.integers(0, len(content) if number % 2 else min(60, len(content)), 3):
                flipped[at] ^= 1 << int(rng.integers(8))
            yield f"{name}-flipped-{number}", bytes(flipped)
    jpeg = whole["jpeg"]
    at = jpeg.index(b"\xff\xc0")
    for name, kind in {"arithmetic": 0xC9, "lossless": 0xC3, "extended": 0xC1, "differential": 0xC5}.items():
        yield f"jpeg-{name}", jpeg[:at + 1] + bytes([kind]) + jpeg[at + 2:]
    for height, width in ((0, 60), (40, 0), (0, 0), (1, 1), (40, 61), (400, 600)):
        yield f"jpeg-says-{height}x{width}", jpeg[:at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9:]
    for height, width in ((0, 5), (5, 0), (2**31 - 1, 1), (4, 4), (400, 5)):
        yield f"png-says-{height}x{width}", png(width, height, 8, 2, bytes(16 * 5))
    yield "png-depth", png(5, 5, 3, 2, bytes(80))
    yield "png-colour", png(5, 5, 8, 5, bytes(80))
    yield "png-filter", png(5, 5, 8, 2, b"\x07" * 80)
    yield "png-no-data", png(5, 5, 8, 2, b"")
    yield "png-palette-missing", png(5, 5, 8, 3, bytes(30))
    yield "png-palette-short", png(5, 5, 8, 3, b"\0\x07\x07\x07\x07\x07" * 5, chunk(b"PLTE", b"abc"))
    yield "png-wrong-checksum", whole["png"][:30] + b"\0\0\0" + whole["png"][33:]


def _others() -> Iterator[tuple[str, bytes]]:
    """What is no image, or none of a format that is read."""
    yield "empty", b""
    yield "one-byte", b"\xff"
    yield "zeros", bytes(4096)
    yield "noise", np.random.default_rng(1).bytes(4096)
    yield "html", b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>"
    yield "text", "a text, über alles".encode()
    yield "utf-16", "a text".encode("utf-16")
    yield "json", b'{"error": "no such file"}'
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    yield "pdf", b"%PDF-1.7\n%%EOF"
    yield "zip", b"PK\x03\x04" + bytes(100)
    yield "gzip", b"\x1f\x8b\x08" + bytes(100)
    yield "elf", b"\x7fELF" + bytes(100)
    yield "heic", b"\0\0\0\x18ftypheic" + bytes(100)
    yield "avif", b"\0\0\0\x18ftypavif" + bytes(100)
    yield "wave", b"RIFF\x24\0\0\0WAVEfmt " + bytes(100)
    yield "git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    for format in ("ICO", "PPM", "TGA", "JPEG2000", "PCX", "SGI", "DDS", "EPS"):
        yield format.lower(), encode(photo(16, 16), format)
    for name, magic in {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n", "riff": b"RIFF", "gif": b"GIF89a",
                        "bmp": b"BM", "tiff": b"II*\0", "big-tiff": b"II+\0\x08\0\0\0", "motorola": b"MM\0*"}.items():
        yield f"{name}-begins", magic
        yield f"{name}-begins-zeros", magic + bytes(200)
        yield f"{name}-begins-ones", magic + b"\xff" * 200
