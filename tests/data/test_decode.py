import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from cvjax.data.crops import RandomResizedCrop, ResizeCenterCrop, Squeeze
from cvjax.data.decode import MAX_PIXELS, DecodeError, LazyImage, decode
from tests.data.pictures import encode, gradient, photo

PICTURE = gradient(40, 60)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
    assert not caught, [str(w.message) for w in caught]


def pixels(image, channels=3, target=None):
    """By the way that training takes."""
    with LazyImage(image, channels) as lazy:
        return lazy.pixels(target)


def png_header(width, height):
    """A PNG that promises width x height pixels and holds none."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD = {
    "empty": b"",
    "text": b"hello, I am a letter\n",
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "jpeg_header_only": b"\xff\xd8\xff\xe0",
    "jpeg_cut": encode(PICTURE, "JPEG")[:500],
    "jpeg_cut_late": encode(PICTURE, "JPEG")[:-40],
    "png_cut": encode(PICTURE)[:60],
    "png_flipped": encode(PICTURE)[:80] + b"\x00\x01\x02\x03" + encode(PICTURE)[84:],
    "png_no_pixels": png_header(4, 4),
    "png_bomb": png_header(60_000, 60_000),
    "webp_cut": encode(PICTURE, "WEBP")[:100],
    "gif_cut": encode(PICTURE, "GIF")[:30],
    "icns": encode(PICTURE, "ICNS"),
    "tiff_cut": encode(PICTURE, "TIFF")[:200],
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("reader", [decode, pixels, ResizeCenterCrop(8), RandomResizedCrop(8), Squeeze(8)])
def test_a_bad_file_is_one_decode_error_of_one_line(kind, reader):
    args = (3,) if reader in (decode, pixels) else (np.random.default_rng(0),)
    with pytest.raises(DecodeError) as error:
        reader(BAD[kind], *args)
    assert str(error.value).strip() and "\n" not in str(error.value)


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_come_back_exactly(format):
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(decode(encode(PICTURE, format, **options)), PICTURE)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_of_every_mode(mode, channels):
    out = decode(encode(Image.fromarray(PICTURE).convert(mode), "JPEG", quality=95), channels)
    expected = np.asarray(Image.fromarray(PICTURE).convert("L" if channels == 1 or mode == "L" else "RGB"))
    assert out.shape == (40, 60, channels) and out.dtype == np.uint8
    expected = np.broadcast_to(expected.reshape(40, 60, -1), out.shape)
    assert np.abs(out.astype(int) - expected).mean() < 4


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    out = decode(encode(Image.fromarray(values)), 1)[..., 0]
    np.testing.assert_array_equal(out.ravel(), np.arange(256))
    assert decode(encode(Image.fromarray(values)), 3).shape == (16, 16, 3)


def test_bilevel():
    out = decode(encode(Image.fromarray(PICTURE).convert("1")), 1)
    assert set(np.unique(out)) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_on_white(mode):
    image = Image.fromarray(np.zeros((4, 4, 3), np.uint8)).convert(mode)
    image.putalpha(Image.fromarray(np.array([[0, 255, 0, 255]] * 4, np.uint8)))
    np.testing.assert_array_equal(decode(encode(image), 1)[0, :, 0], [255, 0, 255, 0])
    np.testing.assert_array_equal(decode(encode(image), 3)[0, :, 2], [255, 0, 255, 0])


def test_palette_with_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(decode(encode(image))[0], [[10, 20, 30], [200, 100, 50]])
    for transparency in (0, b"\x00\xff"):
        out = decode(encode(image, transparency=transparency))
        np.testing.assert_array_equal(out[0], [[255, 255, 255], [200, 100, 50]])


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animation_gives_its_first_frame(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:])
    assert np.abs(decode(data).astype(int) - (255, 0, 0)).max() <= 5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(orientation, format):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(PICTURE)
    data = encode(image, format, exif=exif)
    plain = decode(encode(image, format))
    stored = Image.fromarray(plain)
    stored.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(stored))
    out = decode(data)
    np.testing.assert_array_equal(out, expected)
    assert out.shape == ((60, 40, 3) if orientation >= 5 else (40, 60, 3))


def test_damaged_exif_does_not_cost_the_picture():
    data = encode(PICTURE, "JPEG", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01")
    assert decode(data).shape == (40, 60, 3)


def test_one_pixel():
    data = encode(np.array([[[9, 8, 7]]], np.uint8))
    for out in (ResizeCenterCrop(5)(data), RandomResizedCrop(5)(data, np.random.default_rng(0))):
        np.testing.assert_array_equal(out, np.broadcast_to(np.uint8([9, 8, 7]), (5, 5, 3)))


def test_very_wide():
    data = encode(np.broadcast_to(np.uint8(100), (3, 30_000, 3)).copy())
    assert decode(data).shape == (3, 30_000, 3)
    tracemalloc.start()
    assert (ResizeCenterCrop(64)(data) == 100).all()
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert (RandomResizedCrop(64)(data, np.random.default_rng(0)) == 100).all()


def test_a_jpeg_above_the_limit_is_decoded_smaller(monkeypatch):
    monkeypatch.setattr("cvjax.data.decode.MAX_PIXELS", 5000)
    picture = gradient(160, 240)
    out = decode(encode(picture, "JPEG", quality=95))
    assert out.shape == (40, 60, 3)  # 1/2 would be 9600 pixels
    with pytest.raises(DecodeError, match="240 x 160 pixels, the limit is 5000"):
        decode(encode(picture))
    assert MAX_PIXELS > 30_000 * 2_000


def test_draft_follows_the_target_and_keeps_twice_its_size():
    data = encode(gradient(400, 800), "JPEG", quality=95)
    assert decode(data).shape == (400, 800, 3)
    assert decode(data, target=(50, 50)).shape == (100, 200, 3)
    assert decode(data, target=(51, 50)).shape == (200, 400, 3)
    assert decode(data, target=(300, 50)).shape == (400, 800, 3)


def test_draft_of_a_turned_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(gradient(400, 800), "JPEG", exif=exif, quality=95)
    assert decode(data, target=(100, 50)).shape == (200, 100, 3)


def test_pixels_pass_through_and_change_channels():
    np.testing.assert_array_equal(decode(PICTURE), PICTURE)
    assert decode(PICTURE, 1).shape == (40, 60, 1)
    assert decode(PICTURE[..., 0], 3).shape == decode(PICTURE[..., :1], 3).shape == (40, 60, 3)
    for wrong in (PICTURE.astype(np.float32), PICTURE[..., :2], PICTURE[:0], PICTURE[None]):
        with pytest.raises(DecodeError):
            decode(wrong)


def test_bomb_warnings_of_pillow_stay_silent():
    code = (
        "import warnings, PIL.Image\n"
        "from cvjax.data.decode import decode\n"
        "from tests.data.test_decode import encode\n"
        "import numpy as np\n"
        "PIL.Image.MAX_IMAGE_PIXELS = 10\n"
        "for format in ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP'):\n"
        "    decode(encode(np.zeros((4, 4, 3), np.uint8), format))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- the way that training takes


@pytest.fixture
def fast(monkeypatch):
    """What simplejpeg was asked to decode, and how."""
    asked, original = [], simplejpeg.decode_jpeg

    def record(data, *args, **options):
        out = original(data, *args, **options)
        asked.append(out.shape)
        return out

    monkeypatch.setattr(simplejpeg, "decode_jpeg", record)
    return asked


def with_segments(jpeg, *segments):
    """A JPEG with segments (marker's second byte, content) put in after its first two bytes."""
    added = b"".join(struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body for kind, body in segments)
    return jpeg[:2] + added + jpeg[2:]


PHOTO = photo(61, 83)
JPEGS = {
    "plain": encode(PHOTO, "JPEG"),
    "fine": encode(PHOTO, "JPEG", quality=98, subsampling=0),
    "half": encode(PHOTO, "JPEG", subsampling=1),
    "progressive": encode(PHOTO, "JPEG", progressive=True),
    "restarts": encode(PHOTO, "JPEG", restart_marker_blocks=2),
    "rgb": encode(PHOTO, "JPEG", keep_rgb=True),
    "grey": encode(Image.fromarray(PHOTO).convert("L"), "JPEG"),
    "comment": with_segments(encode(PHOTO, "JPEG"), (0xFE, b"Exif\0\0 is only mentioned"), (0xE1, b"http://x\0")),
    "more_behind": encode(PHOTO, "JPEG") + b"another picture",
    "one_pixel": encode(PHOTO[:1, :1], "JPEG"),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_jpegs_come_sooner_and_to_the_same_pixels(kind, fast):
    np.testing.assert_array_equal(pixels(JPEGS[kind]), decode(JPEGS[kind]))
    assert len(fast) == 1
    # Pillow rounds red, green and blue, and weighs them after that; noise also leaves [0, 255] here and there.
    gap = np.abs(pixels(JPEGS[kind], 1).astype(int) - decode(JPEGS[kind], 1))
    assert len(fast) == 2 and gap.mean() < 0.7 and np.percentile(gap, 95) <= 2


def test_what_is_not_a_plain_jpeg_is_left_to_pillow(fast):
    for image in (encode(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"), encode(PHOTO), encode(PHOTO, "WEBP"), PHOTO):
        np.testing.assert_array_equal(pixels(image), decode(image))
    assert not fast


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3])
def test_exif_orientation_holds_there_too(orientation, channels, fast):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(PHOTO).convert("L")
    data = encode(image, "JPEG", exif=exif)
    late = with_segments(encode(image, "JPEG"), (0xE2, b"profile"), (0xE1, exif.tobytes()))
    for one in (data, late):
        np.testing.assert_array_equal(pixels(one, channels), decode(one, channels))
    assert len(fast) == 2
    with LazyImage(data, channels) as lazy:
        assert (lazy.height, lazy.width) == pixels(data, channels).shape[:2]


@pytest.mark.parametrize("target, size", [((50, 50), (101, 201)), ((51, 50), (202, 401)), ((25, 50), (51, 101)),
                                          ((300, 50), (403, 801)), (None, (403, 801))])
@pytest.mark.parametrize("orientation", [1, 6])
def test_smaller_decoding_follows_the_target_as_pillows(target, size, orientation, fast):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(gradient(403, 801), "JPEG", quality=95, exif=exif)
    turn = slice(None, None, -1 if orientation == 6 else 1)
    target = target and target[turn]
    out = pixels(data, target=target)
    assert out.shape[:2] == size[turn] and out.shape == decode(data, target=target).shape
    assert fast == [(*size, 3)]


def test_the_limit_on_pixels_comes_before_the_decoding(fast, monkeypatch):
    monkeypatch.setattr("cvjax.data.decode.MAX_PIXELS", 5000)
    data = encode(gradient(160, 240), "JPEG", quality=95)
    assert pixels(data).shape == (40, 60, 3)
    with pytest.raises(DecodeError, match="240 x 160 pixels, the limit is 5000"):
        pixels(data, target=(100, 100))  # which asks for all of them
    assert fast == [(40, 60, 3)]


def test_damage_is_judged_as_pillow_judges_it():
    """Whatever happens to a file, both ways give the same pixels or the same error."""
    rng, refused = np.random.default_rng(0), 0
    for kind in ("plain", "progressive", "restarts", "grey"):
        for trial in range(40):
            data = bytearray(JPEGS[kind])
            if trial % 2:
                data[rng.integers(2, len(data))] ^= 1 << rng.integers(8)
            else:
                del data[rng.integers(2, len(data)):]
            data = bytes(data)
            outcomes = []
            for way in (decode, pixels):
                try:
                    outcomes.append(way(data).tobytes())
                except DecodeError as error:
                    outcomes.append(str(error))
            assert outcomes[0] == outcomes[1]
            refused += isinstance(outcomes[0], str)
    assert 60 < refused < 140
