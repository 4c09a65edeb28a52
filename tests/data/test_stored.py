"""Images with any number of channels, of 8 and 16 bits and of float numbers: what the readers make of them."""

import tarfile

import cv2
import numpy as np
import pytest
from PIL import Image

from cvjax.data.crops import EvaluationCrop, RandomResizedCrop
from cvjax.data.dataset import Dataset
from cvjax.data.decode import DecodeError, decode
from cvjax.data.resize import resize
from cvjax.data.sources import open_dataset
from cvjax.data.sources.packing import write_pack
from cvjax.data.statistics import channel_statistics
from cvjax.data.stored import decode_stored
from cvjax.errors import DataError
from tests.data.pictures import encode

RNG = np.random.default_rng(0)


def numbers(channels: int, dtype: type = np.uint8, size: tuple[int, int] = (6, 9)) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True)


def by_opencv(values: np.ndarray, ending: str = ".png") -> bytes:
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[values.shape[2]]
    return cv2.imencode(ending, values[:, :, order])[1].tobytes()


def pages(values: np.ndarray) -> bytes:
    """A TIFF with a grey page for each channel."""
    return cv2.imencodemulti(".tiff", [np.ascontiguousarray(page) for page in np.moveaxis(values, 2, 0)])[1].tobytes()


@pytest.mark.parametrize("channels, dtype, encoder", [
    (1, np.uint8, lambda x: encode(x[:, :, 0])), (1, np.uint16, by_opencv), (1, np.uint16, pages),
    (2, np.uint8, lambda x: encode(Image.fromarray(x, "LA"))), (3, np.uint8, encode), (3, np.uint16, by_opencv),
    (4, np.uint8, encode), (4, np.uint8, lambda x: encode(x, "WEBP", lossless=True, exact=True)),
    (4, np.uint16, by_opencv), (3, np.uint16, lambda x: by_opencv(x, ".tiff")), (7, np.uint8, pages),
    (7, np.uint16, pages)])
def test_every_number_that_is_stored_survives(channels, dtype, encoder):
    values = numbers(channels, dtype)
    found = decode_stored(encoder(values), channels)
    assert found.dtype == np.float32 and found.shape == values.shape
    np.testing.assert_allclose(found * (np.iinfo(dtype).max / 255), values, rtol=3e-7)  # float32's rounding, twice
    values[:] = np.iinfo(dtype).max
    values[0, 0] = 0  # WebP stores no alpha that hides nothing
    assert decode_stored(encoder(values), channels)[1:].tolist() == np.full((5, 9, channels), 255.0).tolist()


def test_other_numbers_of_channels_and_numbers_without_a_range_are_refused():
    for encoded, channels, words in (
            (encode(numbers(3)), 4, "stores 3 channels, not 4"), (encode(numbers(4)), 3, "stores 4 channels, not 3"),
            (pages(numbers(7)), 6, "stores 7 pages of a channel or more, not 6"),
            (by_opencv(RNG.random((4, 5, 1), np.float32), ".tiff"), 1, "float32, which has no range"),
            (encode(Image.new("CMYK", (4, 5)), "JPEG"), 4, "mode CMYK"), (b"", 4, "empty"),
            (pages(numbers(7))[:150], 7, "")):
        with pytest.raises(DecodeError, match=words):
            decode_stored(encoded, channels)


def test_a_palette_is_its_colours_and_a_picture_is_upright():
    picture = Image.fromarray(numbers(3)).quantize(8)
    np.testing.assert_array_equal(decode_stored(encode(picture), 3), np.asarray(picture.convert("RGB")))
    exif = Image.Exif()
    exif[0x0112] = 6
    for size in ((6, 9), (7, 4)):
        values = numbers(4, size=size)
        expected = np.asarray(Image.fromarray(values).transpose(Image.Transpose.ROTATE_270))
        np.testing.assert_array_equal(decode_stored(encode(values, exif=exif), 4), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_made_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(numbers(3), exif=exif)
    np.testing.assert_array_equal(decode_stored(encoded, 3), decode(encoded))


def test_a_tiff_is_a_photo_if_it_has_one_page_of_8_bits():
    np.testing.assert_array_equal(decode(encode(numbers(3), "TIFF")), numbers(3))
    with pytest.raises(DecodeError, match="7 pages is no photo; --channels"):
        decode(pages(numbers(7)))
    with pytest.raises(DecodeError, match="no range"):
        decode(by_opencv(RNG.random((4, 5, 1), np.float32), ".tiff"))


def folder(root, encoder, ending, channels, dtype=np.uint8):
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for i in range(6):
            (root / label / f"{i}{ending}").write_bytes(encoder(numbers(channels, dtype) // (1 + i)))
    return f"folder:{root}"


def test_a_folder_keeps_channels_and_bits_where_that_is_asked(tmp_path):
    spec = folder(tmp_path, pages, ".tif", 7, np.uint16)
    data = open_dataset(spec, channels=7)
    assert data.channels == 7 and data.image_dtype == np.float32 and data.measured
    name, = (i for i in range(len(data.train)) if data.train.name(i).endswith("a/0.tif"))
    np.testing.assert_allclose(data.train[name]["image"] * 257, numbers(7, np.uint16), rtol=3e-7)
    kept = open_dataset(spec, channels=7, cache=True)
    np.testing.assert_array_equal(kept.train.images[name], data.train[name]["image"])
    assert data.train.take(np.array([2, 1])).name(0) == data.train.name(2)
    assert data.fingerprint != open_dataset(spec, channels=6).fingerprint


@pytest.mark.parametrize("reader", ["tar", "packed"])
def test_tar_files_and_packs_keep_them_too(tmp_path, reader):
    spec = folder(tmp_path / "files", pages, ".tif", 5, np.uint16)
    expected = open_dataset(spec, channels=5)
    if reader == "packed":
        write_pack(str(tmp_path / "files"), tmp_path / "pack")
        spec = f"packed:{tmp_path / 'pack'}"
    else:
        with tarfile.open(tmp_path / "all.tar", "w") as archive:
            archive.add(tmp_path / "files", "files")
        spec = f"tar:{tmp_path / 'all.tar'}"
    data = open_dataset(spec, channels=5)
    assert len(data.train) == len(expected.train) and data.channels == 5
    sums = [sorted(float(part[i]["image"].sum()) for i in range(len(part))) for part in (data.train, data.test)]
    assert sums == [sorted(float(part[i]["image"].sum()) for i in range(len(part)))
                    for part in (expected.train, expected.test)]


def test_what_photos_lose_is_said(tmp_path):
    spec = folder(tmp_path / "x", encode, ".png", 4)
    (tmp_path / "x" / "a" / "0.png").write_bytes(by_opencv(numbers(3, np.uint16)))
    (tmp_path / "x" / "a" / "1.png").write_bytes(by_opencv(numbers(3, np.uint16)))
    (tmp_path / "x" / "a" / "2.png").write_bytes(by_opencv(numbers(3, np.uint16)))
    data = open_dataset(spec)
    assert data.channels == 3 and not data.measured
    deep = sum(data.train.name(i).endswith(("a/0.png", "a/1.png", "a/2.png")) for i in range(len(data.train)))
    assert (f"of {len(data.train)} training pictures looked at, {deep} have 16 bits, made 8 and "
            f"{len(data.train) - deep} have an alpha channel, laid on white; --channels keeps what is stored"
            ) in data.noticed
    assert "looked at" not in open_dataset(folder(tmp_path / "y", encode, ".png", 3)).noticed


def save(path, **arrays) -> str:
    np.savez(path / "data.npz", **arrays)
    return f"npz:{path / 'data.npz'}"


def opened(path, images, suffix="", **more) -> Dataset:
    return open_dataset(save(path, train_images=images, test_images=images[:2], **more) + suffix)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_arrays_of_any_channels_and_16_bits(tmp_path, channels):
    images = numbers(channels, np.uint16, (40, 36)).reshape(10, 12, 12, channels)
    data = opened(tmp_path, images)
    assert data.channels == channels and data.image_dtype == data.train.images.dtype == np.float32 and data.measured
    np.testing.assert_allclose(data.train.images / 255, images / 65535, rtol=3e-7)
    small = opened(tmp_path, images.astype(np.uint8))
    assert small.train.images.dtype == small.image_dtype == np.uint8 and small.measured
    assert opened(tmp_path, numbers(3, size=(40, 36)).reshape(10, 12, 12, 3)).measured is False


def test_float_arrays_need_a_stated_range(tmp_path):
    images = np.linspace(-1, 3, 10 * 4 * 4 * 2).reshape(10, 4, 4, 2)
    with pytest.raises(DataError, match=r"train_images is float64 from -1 to 3, whose range nothing states: give npz:.*"
                                        "#range=LOW,HIGH, or an array `range`"):
        opened(tmp_path, images)
    for dtype in (np.float16, np.float32, np.float64):
        stated = opened(tmp_path, images.astype(dtype), "#range=-1,3")
        rounding = 0.3 if dtype == np.float16 else 1e-4
        np.testing.assert_allclose(stated.train.images, (images + 1) * 255 / 4, atol=rounding)
        within = opened(tmp_path, images.astype(dtype), range=np.array([-1, 3]))
        np.testing.assert_array_equal(within.train.images, stated.train.images)
        assert within.ignored == ""
    for suffix, words in (("#range=0,3", "outside the stated range 0 to 3"), ("#range=3,0", "LOW < HIGH"),
                          ("#range=3", "after # there may be range=LOW,HIGH"), ("#range=a,b", "after # there may be")):
        with pytest.raises(DataError, match=words):
            opened(tmp_path, images, suffix)
    images[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="outside the stated range"):
        opened(tmp_path, images, "#range=-1,3")


def test_twelve_bits_in_sixteen_have_their_own_range(tmp_path):
    images = numbers(1, np.uint16, (40, 4)).reshape(10, 4, 4) // 16
    np.testing.assert_allclose(opened(tmp_path, images, "#range=0,4095").train.images[..., 0], images * (255 / 4095),
                               rtol=1e-6)


def test_arrays_keep_their_channels_and_another_number_is_refused(tmp_path):
    spec = save(tmp_path, train_images=np.zeros((10, 4, 4, 7), np.uint8))
    assert open_dataset(spec, channels=7).channels == 7
    with pytest.raises(DataError, match="--channels 4: the images of .* are arrays of 7; leave it out"):
        open_dataset(spec, channels=4)


@pytest.mark.parametrize("channels", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [5, 13, 40])
def test_crops_treat_each_channel_as_grey_is_treated(channels, size):
    values = 64 + numbers(channels, size=(30, 41)) // 2  # Pillow clips uint8 after rows, and floats only at the end
    floats = values.astype(np.float32)
    for crop in (EvaluationCrop(size, channels), RandomResizedCrop(size, channels=channels)):
        found = crop(floats, np.random.default_rng(1))
        assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 255
        for i in range(channels):
            alone = type(crop)(size, channels=1)(values[:, :, [i]], np.random.default_rng(1))
            # uint8 is rounded once at the end by OpenCV and twice by Pillow, after rows and after columns.
            np.testing.assert_allclose(found[:, :, [i]], alone, atol=2.1)
    if channels not in (1, 3):
        crop = RandomResizedCrop(size, channels=channels)
        np.testing.assert_allclose(crop(values, np.random.default_rng(1)), crop(floats, np.random.default_rng(1)),
                                   atol=2.1)


def test_a_long_shrink_of_many_channels():
    values = numbers(7, size=(200, 160)).astype(np.float32)
    found = resize(values, (20, 16))
    np.testing.assert_allclose(found[:, :, [6]], resize(values[:, :, [6]], (20, 16)), atol=1e-3)  # the order of sums


def test_a_file_of_other_channels_for_a_trained_model():
    found = EvaluationCrop(9, 7)(pages(numbers(7, np.uint16, (9, 9))))
    np.testing.assert_allclose(found * 257, numbers(7, np.uint16, (9, 9)), rtol=3e-7)
    with pytest.raises(DecodeError, match="stores 3 channels, not 7"):
        EvaluationCrop(9, 7)(encode(numbers(3)))


def test_statistics_are_those_of_the_pixels_and_of_evenly_spaced_pictures(tmp_path):
    images = (numbers(4, size=(1200, 9)).reshape(1200, 3, 3, 4) // np.array([1, 2, 3, 255])).astype(np.uint8)
    images[..., 3] = 7
    source = opened(tmp_path, images).train
    mean, std, count = channel_statistics(source, None)
    seen = images[np.unique(np.linspace(0, 1199, 500).astype(int))] / 255
    assert count == 500
    np.testing.assert_allclose(mean, seen.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std[:3], seen.std((0, 1, 2))[:3], rtol=1e-9)
    assert std[3] == 1  # of one value: the network sees 0
