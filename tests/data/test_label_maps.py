"""Label maps come out of PNG files with the numbers that are in them."""

import io

import numpy as np
import pytest
from PIL import Image

from cvjax.data.decode import DecodeError, decode_label_map
from tests.data.pictures import encode

LABELS = np.random.default_rng(0).integers(0, 12, (7, 9)).astype(np.uint8)
LABELS[0, :3] = 255


def with_palette(labels: np.ndarray) -> Image.Image:
    """Colours that say nothing of the numbers, some of them alike."""
    image = Image.fromarray(labels, "P")
    image.putpalette(np.random.default_rng(1).integers(0, 2, 768).astype(np.uint8).tobytes())
    return image


@pytest.mark.parametrize("picture", [LABELS, with_palette(LABELS), LABELS.astype(np.uint16)],
                         ids=["grey", "palette", "16 bits"])
def test_every_number_survives(picture):
    found = decode_label_map(encode(picture))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, LABELS)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("palette", [False, True])
def test_few_bits_hold_small_numbers(bits, palette):
    """Pillow writes grey of less than 8 bits only as palettes: the header's colour type is made grey by hand."""
    labels = (LABELS % 2**bits).astype(np.uint8)
    encoded = encode(with_palette(labels), bits=bits)
    assert encoded[24] == bits
    if not palette:
        encoded = as_grey(encoded)
        assert Image.open(io.BytesIO(encoded)).mode in ("1", "L")
    np.testing.assert_array_equal(decode_label_map(encoded), labels)


def as_grey(encoded: bytes) -> bytes:
    import zlib

    header = encoded[12:25] + b"\0" + encoded[26:29]  # colour type 0
    start = encoded.index(b"PLTE") - 4
    end = start + 12 + int.from_bytes(encoded[start:start + 4])
    return encoded[:12] + header + zlib.crc32(header).to_bytes(4) + encoded[33:start] + encoded[end:]


def test_arrays_are_given_back():
    assert decode_label_map(LABELS) is LABELS


@pytest.mark.parametrize("picture, message", [
    (encode(np.zeros((4, 4, 3), np.uint8)), "must have a palette or be grey, this PNG is RGB"),
    (encode(LABELS, "JPEG"), "must be a PNG, which loses nothing"), (b"", "must be a PNG"),
    (encode(LABELS)[:-30], "damaged image"), (np.full((2, 2), 300, np.uint16), "label 300 is above 255"),
    (LABELS[None], "must be uint8"), (LABELS.astype(np.int32), r"must be uint8 \(H, W\), got int32"),
    (encode(np.zeros((4, 4, 4), np.uint8)), "RGBA")])
def test_what_is_no_label_map_is_refused(picture, message):
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint16:
        picture = encode(picture)
    with pytest.raises(DecodeError, match=message):
        decode_label_map(picture)
