"""Small files that say they are huge: refused, or decoded within the memory that the limit of pixels allows."""

import io
import struct
import sys
import zlib

import pytest
from PIL import Image

from cvjax.data.decode import MAX_PIXELS
from tests.data.odd_files import png
from tests.data.pictures import encode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")


def with_size(format: str, height: int, width: int, **options) -> bytes:
    """A small file whose header says another size."""
    content = bytearray(encode(Image.new("RGB", (16, 16)), format, **options))
    if format == "JPEG":
        at = next(content.index(bytes([0xFF, kind])) for kind in (0xC0, 0xC2) if bytes([0xFF, kind]) in content)
        content[at + 5:at + 9] = struct.pack(">HH", height, width)
    elif format == "GIF":
        content[6:10] = struct.pack("<HH", width, height)
    elif format == "BMP":
        content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def tiff(height: int, width: int, tile: tuple[int, int], data: bytes) -> bytes:
    """A TIFF of one deflated tile of RGB."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8 + 6 + 12 * 10), (259, 3, 1, 8), (262, 3, 1, 2),
            (277, 3, 1, 3), (322, 4, 1, tile[1]), (323, 4, 1, tile[0]), (324, 4, 1, 8 + 6 + 12 * 10 + 6),
            (325, 4, 1, len(data))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + struct.pack("<HHH", 8, 8, 8) + data


def zeros(count: int) -> bytes:
    """So many zeros, deflated, without ever having them all."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(count // 2**20)) + packer.flush()


def webp(height: int, width: int) -> bytes:
    """The beginning of an extended WebP."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + sides + b"VP8L\x08\0\0\0\x2f" + bytes(7)


def many_scans() -> bytes:
    """A progressive JPEG of `MAX_PIXELS`, whose last scan comes 200 times."""
    content = encode(Image.new("L", (8192, 8192)), "JPEG", progressive=True)
    at = content.rindex(b"\xff\xda")
    return content[:-2] + content[at:-2] * 200 + content[-2:]


def pages() -> bytes:
    """A TIFF of a small page and a huge one."""
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "TIFF", save_all=True, append_images=[Image.new("L", (12_000, 12_000))],
                                compression="tiff_deflate")
    return buffer.getvalue()


SMALL = {  # made and refused in no time
    "jpeg": lambda: with_size("JPEG", 65500, 65500),
    "jpeg_progressive": lambda: with_size("JPEG", 65500, 65500, progressive=True),
    "jpeg_progressive_in_a_large_file": lambda: with_size("JPEG", 65500, 65500, progressive=True) + bytes(2**24),
    "jpeg_scans_after_fill_bytes": lambda: with_size("JPEG", 65500, 65500, progressive=True).replace(
        b"\xff\xc2", b"\xff\xff\xc2") + bytes(2**24),
    "png": lambda: png(60_000, 60_000, 8, 2, b""), "png_largest": lambda: png(2**31 - 1, 2**31 - 1, 16, 6, b""),
    "png_chunk": lambda: png(4, 3, 16, 0, b"")[:33] + struct.pack(">I", 2**30) + b"IDATx",
    "png_last_chunk": lambda: png(4, 3, 16, 0, b"")[:33] + struct.pack(">I", 2**30) + b"IENDx",
    "gif": lambda: with_size("GIF", 65535, 65535), "bmp": lambda: with_size("BMP", 2**31 - 1, 2**31 - 1),
    "bmp_in_the_limit": lambda: with_size("BMP", 8192, 8192),
    "webp": lambda: webp(16383, 16383), "webp_wide": lambda: webp(1, 2**24),
    "webp_in_the_limit": lambda: webp(8192, 8192),
    "tiff": lambda: tiff(2**31 - 1, 2**31 - 1, (16, 16), b""), "tiff_tile": lambda: tiff(64, 64, (30_000, 20_000), b""),
    "tiff_strips": lambda: tiff(64, 64, (2**31 - 1, 2**31 - 1), b""),
}
LARGE = {  # of as many pixels as may be
    "png_rgb": lambda: png(8192, 8192, 8, 2, bytes(8192 * (1 + 8192 * 3))),
    "png_rgba_16": lambda: png(8192, 8192, 16, 6, bytes(8192 * (1 + 8192 * 8))),
    "png_grey_16": lambda: png(8192, 8192, 16, 0, bytes(8192 * (1 + 8192 * 2))),
    "gif_one_colour": lambda: with_size("GIF", 8192, 8192), "jpeg_scans": many_scans,
    "jpeg_progressive_in_the_limit": lambda: encode(Image.new("RGB", (8192, 8192)), "JPEG", progressive=True),
    "tiff_tile": lambda: tiff(64, 64, (30_000, 20_000), zeros(30_000 * 20_000 * 3)), "tiff_pages": pages,
}

CODE = """
import json, sys, time
from cvjax.data.decode import DecodeError, LazyImage, decode, decode_numbers
from cvjax.data.stored import decode_stored
from tests.data.pictures import encode, photo

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024

def fast(content):
    with LazyImage(content, 3) as lazy:
        return lazy.pixels((224, 224))

found = {}
for read in (fast, decode, decode_numbers, lambda content: decode_stored(content, 2)):
    for whole in (encode(photo(20, 20), "JPEG"), encode(photo(20, 20))):
        try: read(whole)
        except DecodeError: pass
for name in sys.argv[1:] or %r:
    content = open(f"%s/{name}", "rb").read()
    for read in (fast, decode, decode_numbers, lambda content: decode_stored(content, 2)):
        open("/proc/self/clear_refs", "w").write("5")
        before, start = peak(), time.monotonic()
        try: said = str(read(content).shape)
        except DecodeError as error: said = str(error)
        found.setdefault(name, []).append((peak() - before, time.monotonic() - start, said))
print(json.dumps(found))
"""


def measured(bombs, folder, python):
    """What reading each file takes in a process of its own: [MB, seconds, result] for each reader."""
    for name, make in bombs.items():
        (folder / name).write_bytes(make())
    return python(CODE % (list(bombs), folder))


def test_files_that_cannot_be_what_they_say_cost_nothing(tmp_path, python):
    for name, readings in measured(SMALL, tmp_path, python).items():
        for megabytes, seconds, said in readings:
            assert megabytes < 100 and seconds < 2 and not said.startswith("("), (name, megabytes, seconds, said)


@pytest.mark.slow
def test_files_of_as_many_pixels_as_may_be_take_less_than_a_gigabyte(tmp_path, python):
    for name, readings in measured(LARGE, tmp_path, python).items():
        print(name, readings)
        for megabytes, seconds, said in readings:
            assert megabytes < 1000 and seconds < 60, (name, megabytes, seconds, said)
    assert MAX_PIXELS == 8192**2
