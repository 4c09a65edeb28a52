"""A picture is taken in every form that people have it in, or refused by kind."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cvjax.data.decode import DecodeError, decode
from cvjax.data.picture import picture_of
from tests.data.pictures import encode, gradient, photo

PIXELS = gradient(12, 20)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(Image.fromarray(PIXELS), exif=exif)


class ArrayLike:
    """An array of another library."""

    def __array__(self, dtype=None, copy=None):
        return PIXELS


@pytest.mark.parametrize("form", [
    str, Path, lambda path: path.read_bytes(), lambda path: bytearray(path.read_bytes()),
    lambda path: memoryview(path.read_bytes()), Image.open,
    lambda path: PIXELS, lambda path: ArrayLike(), lambda path: Image.fromarray(PIXELS)])
def test_forms_of_one_picture(tmp_path, form):
    (tmp_path / "photo.png").write_bytes(encode(PIXELS))
    np.testing.assert_array_equal(decode(picture_of(form(tmp_path / "photo.png"))), PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "PA", "I;16", "I", "CMYK", "YCbCr", "HSV"])
def test_a_pillow_image_is_decoded_as_its_file(mode):
    """PNG has some modes; the others become what Pillow converts them to."""
    image = (Image.fromarray(np.uint16(257) * PIXELS[..., 0].astype(np.uint16)).convert("I") if mode == "I" else
             Image.fromarray(np.uint16(257) * PIXELS[..., 0].astype(np.uint16)) if mode == "I;16" else
             Image.fromarray(PIXELS).convert("LA" if mode == "PA" else mode))
    if mode == "PA":
        image = image.convert("PA")
    found = picture_of(image)
    grey = mode in ("1", "L", "LA", "I;16", "I")
    assert found.dtype == np.uint8 and found.shape == (12, 20, 1 if grey else 3)
    if mode == "I":  # PNG has no such mode: these are the levels of the one with 16 bits
        np.testing.assert_array_equal(found[..., 0], PIXELS[..., 0])
    elif mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16"):
        np.testing.assert_array_equal(decode(found), decode(encode(image)))
    else:
        np.testing.assert_array_equal(found, np.asarray(image.convert("RGBA").convert("RGB")))


def test_a_pillow_image_is_made_upright():
    found = picture_of(Image.open(io.BytesIO(turned())))
    np.testing.assert_array_equal(found, decode(turned()))
    np.testing.assert_array_equal(found, np.rot90(PIXELS, -1))


@pytest.mark.parametrize("address", [
    "https://example.org/photo.jpg", "http://example.org/a", "HTTPS://example.org/a", "gs://bucket/a.jpg",
    "s3://bucket/a.jpg", "file:///tmp/a.jpg", "data:image/png;base64,iVBORw0", Path("https://example.org/photo.jpg")])
def test_an_address_is_refused(address):
    with pytest.raises(DecodeError, match=r"^a picture must be a path.* is an address: download it first$"):
        picture_of(address)


@pytest.mark.parametrize("given, kind", [(None, "NoneType"), (3, "int"), ([PIXELS], "list"), (io.BytesIO(), "BytesIO"),
                                         ({"bytes": b""}, "dict")])
def test_another_kind_is_refused_by_name(given, kind):
    with pytest.raises(DecodeError, match=rf"^a picture must be a path, a file's bytes, .*; got {kind}$"):
        picture_of(given)


@pytest.mark.parametrize("array, words", [
    (PIXELS.astype(np.float32), "got float32"), (PIXELS.astype(np.int64), "got int64"), (PIXELS[None], "got uint8"),
    (np.zeros((4, 4, 4), np.uint8), "got uint8"), (np.zeros((0, 4, 3), np.uint8), "no pixels")])
def test_arrays_that_are_no_pictures_are_refused_by_the_decoder(array, words):
    with pytest.raises(DecodeError, match=words):
        decode(picture_of(array))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(OSError, match="photo.jpg"):
        picture_of(tmp_path / "photo.jpg")
    with pytest.raises(IsADirectoryError):
        picture_of(str(tmp_path))
    (tmp_path / "c:").mkdir()
    (tmp_path / "c:" / "a").write_bytes(b"x")
    assert picture_of(tmp_path / "c:" / "a") == b"x"


def test_damaged_and_unbounded_pillow_images():
    with pytest.raises(DecodeError, match="damaged image"):
        picture_of(Image.open(io.BytesIO(encode(photo(40, 60))[:400])))
    with pytest.raises(DecodeError, match="mode F"):
        picture_of(Image.fromarray(PIXELS[..., 0].astype(np.float32)))
