"""What the numbers in label maps mean: masks of 0 and 255, 16 bits, colours, sizes; each right, or refused by name."""

import numpy as np
import pytest
from PIL import Image

from cvjax.data.decode import DecodeError
from cvjax.data.label_maps import open_segmentation
from cvjax.data.label_maps.crops import PadLabelled
from cvjax.data.label_maps.labels import Labels
from cvjax.errors import DataError
from tests.data.pictures import encode, gradient

IMAGE = encode(gradient(8, 8))


def write(root, make, names=None, count=6):
    """`make(i)` is the label map of picture i: an array, or a file's bytes."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        made = make(i)
        (root / f"images/{i}.png").write_bytes(IMAGE)
        (root / f"labels/{i}.png").write_bytes(made if isinstance(made, bytes) else encode(made))
    if names:
        (root / "classes.txt").write_text("\n".join(names))
    return f"folder:{root}"


def masked(inside=255, outside=0, dtype=np.uint8):
    mask = np.full((8, 8), outside, dtype)
    mask[2:6, 1:5] = inside  # a quarter of the pixels
    return mask


def refused(spec, **options) -> str:
    with pytest.raises(DataError) as error:
        open_segmentation(spec, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- masks of 0 and 255


@pytest.mark.parametrize("names", [("background", "object"), None])
def test_binary_masks_are_refused_with_the_cause_and_read_by_the_option_that_is_named(tmp_path, names):
    spec = write(tmp_path, lambda i: masked(), names)
    line = refused(spec)
    assert ("25.0% of the pixels are 255, which do not count: if 255 stands for a class, as in masks of 0 and 255, use "
            "--mask-values 0 255") in line
    assert ("no training label map has object" in line) is bool(names)
    data = open_segmentation(spec, mask_values=(0, 255))
    assert data.class_names == (names or ("0", "255"))
    for part in (data.train, data.test):
        np.testing.assert_array_equal(part[0]["label_map"], masked(1))
        assert part[0]["label_map"].dtype == np.uint8
    swapped = open_segmentation(spec, mask_values=(255, 0))
    np.testing.assert_array_equal(swapped.train[0]["label_map"], masked(0, 1))
    assert swapped.train.fingerprint != data.train.fingerprint


def test_masks_of_one_bit_need_no_option(tmp_path):
    spec = write(tmp_path, lambda i: encode(Image.fromarray(masked()).convert("1")), ("background", "object"))
    np.testing.assert_array_equal(open_segmentation(spec).train[0]["label_map"], masked(1))


def test_three_classes_of_which_one_is_255(tmp_path):
    def make(i):
        mask = masked()
        mask[0] = i % 2
        return mask

    spec = write(tmp_path, make, ("background", "edge", "object"))
    assert "no training label map has object" in refused(spec) and "--mask-values 0 1 255" in refused(spec)
    data = open_segmentation(spec, mask_values=(0, 1, 255))
    assert sorted(np.unique(data.train[0]["label_map"])) in ([0, 2], [0, 1, 2])


def test_a_class_that_is_really_missing_is_confirmed(tmp_path):
    """Of three named classes one never occurs, and pixels of 255 do not count: --ignore-label 255 says so."""
    spec = write(tmp_path, lambda i: np.where(np.eye(8, dtype=bool), 255, masked(1)).astype(np.uint8), ("a", "b", "c"))
    assert refused(spec).endswith("; if its pixels do not count, say so by --ignore-label 255")
    data = open_segmentation(spec, ignore_label=255)
    assert data.class_names == ("a", "b", "c") and set(np.unique(data.train[0]["label_map"])) == {0, 1, 255}


@pytest.mark.parametrize("border", [0, 1])
def test_a_class_may_be_missing_where_255_is_rare(tmp_path, border):
    """At most one pixel of 64 x 6 is 255, less than 1 %: a few pixels that do not count are no class."""
    spec = write(tmp_path, lambda i: np.where((np.arange(64) < border * (i == 0)).reshape(8, 8), 255,
                                              masked(1)).astype(np.uint8), ("a", "b", "c"))
    assert open_segmentation(spec).class_names == ("a", "b", "c")


def test_a_rare_class_is_looked_for_in_all_maps(tmp_path, monkeypatch):
    monkeypatch.setattr("cvjax.data.label_maps.labels._SAMPLE", 2)
    spec = write(tmp_path, lambda i: np.where(np.eye(8, dtype=bool), 255, masked(2 if i == 1 else 1)).astype(np.uint8),
                 ("a", "b", "c"))
    assert open_segmentation(spec).class_names == ("a", "b", "c")


def test_nothing_to_tell_apart(tmp_path):
    """A single class, without a pixel that does not count: the kind of a training without an object."""
    line = refused(write(tmp_path, lambda i: masked(0), ("background", "object")))
    assert line.endswith(": no training label map has object; they have only background")
    assert "have 0 classes" in refused(write(tmp_path / "b", lambda i: masked(255, 255)))
    spec = write(tmp_path / "c", lambda i: masked(255, 255), ("a", "b"))
    assert "no training label map has a, b, but 100.0% of the pixels" in refused(spec)


def test_vocs_own_classes_may_be_missing(tmp_path):
    """There 255 is known to be the border of objects."""
    write(tmp_path, lambda i: np.where(np.eye(8, dtype=bool), 255, masked(15)).astype(np.uint8))
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    (tmp_path / "labels").rename(tmp_path / "SegmentationClass")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    for part in ("train", "val"):
        (tmp_path / f"ImageSets/Segmentation/{part}.txt").write_text("0\n1\n")
    data = open_segmentation(f"voc:{tmp_path}")
    assert data.num_classes == 21 and set(np.unique(data.train[0]["label_map"])) == {0, 15, 255}
    (tmp_path / "classes.txt").write_text("\n".join(map(str, range(21))))
    assert "no training label map has 1, 2, 3, ..." in refused(f"voc:{tmp_path}")


# --- the option


def test_the_numbers_of_the_option():
    meaning = Labels(3, 7, (0, 128, 65535))
    given = np.uint16([[0, 128, 65535, 255, 7]])
    assert meaning.read(encode(given), encode(gradient(1, 5))).tolist() == [[0, 1, 2, 255, 255]]
    with pytest.raises(DecodeError, match="number 9 in a label map, where only 0, 128, 65535 stand for classes"):
        meaning.read(encode(np.uint16([[0, 9]])), IMAGE)
    with pytest.raises(DecodeError, match="number 7 in"):
        Labels(2, None, (0, 255)).read(encode(np.uint8([[0, 7, 255]])), IMAGE)


@pytest.mark.parametrize("options, words", [
    (dict(mask_values=(0,)), "2 to 255 different ones"), (dict(mask_values=(0, 0)), "2 to 255 different ones"),
    (dict(mask_values=(-1, 255)), "got -1, 255"), (dict(mask_values=(0, 65536)), "in [0, 65536)"),
    (dict(mask_values=(0, 255), ignore_label=255), "without the label to ignore"),
    (dict(mask_values=(0, 1, 255)), "there are 2 classes, and 3 numbers stand for classes: 0, 1, 255")])
def test_wrong_options_are_refused(tmp_path, options, words):
    assert words in refused(write(tmp_path, lambda i: masked(), ("a", "b")), **options)
    if len(options["mask_values"]) < 3:
        assert words in refused("scenes:3,3,48", **options)


def test_scenes_have_no_other_numbers():
    assert "no other numbers stand for them" in refused("scenes:3,3,48", mask_values=(0, 255))


# --- what is no label map


@pytest.mark.parametrize("made, words", [
    (encode(gradient(8, 8)), "0.png: a label map must have a palette or be grey, this PNG is RGB"),
    (encode(gradient(8, 8), "JPEG"), "0.png: a label map must be a PNG, which loses nothing"),
    (encode(masked(300, dtype=np.uint16)), "0.png: label 300 is above 255"), (b"text", "must be a PNG")])
@pytest.mark.parametrize("names", [("background", "object"), None])
def test_maps_none_of_which_can_be_used_are_refused_by_name(tmp_path, made, words, names):
    line = refused(write(tmp_path, lambda i: made, names))
    assert "none of 6 training label maps can be used, such as" in line and words in line


def test_16_bits_and_palettes_are_numbers(tmp_path):
    def make(i):
        if i % 2:
            return masked(1, dtype=np.uint16)
        image = Image.fromarray(masked(1), "P")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
        return encode(image)

    data = open_segmentation(write(tmp_path, make, ("a", "b")))
    for i in range(len(data.train)):
        np.testing.assert_array_equal(data.train[i]["label_map"], masked(1))


def test_a_map_of_another_size_is_refused_by_its_crop(tmp_path):
    data = open_segmentation(write(tmp_path, lambda i: np.ones((4, 8), np.uint8) if i == 0 else masked(1), ("a", "b")))
    parts = [part[i] for part in (data.train, data.test) for i in range(len(part))]
    record = next(record for record in parts if record["label_map"].shape == (4, 8))
    with pytest.raises(DecodeError, match="the label map is 4 x 8, its image 8 x 8"):
        PadLabelled((8, 8))(record["image"], None, record["label_map"])
