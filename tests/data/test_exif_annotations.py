"""Annotations of pictures that EXIF turns: boxes and label maps lie where their objects are on the upright picture."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from cvjax.data.boxes import open_detection
from cvjax.data.decode import decode, decode_label_map
from cvjax.data.label_maps import open_segmentation
from cvjax.data.orientation import TURNED, UNTOLD, read_headers, upright_boxes, upright_map
from tests.data.detection_folders import annotation
from tests.data.pictures import encode

STORED = 60, 100  # height and width
BOX = 70, 10, 90, 20  # x1 y1 x2 y2 of the white object, in stored pixels


def turned_picture(orientation, size=STORED, box=BOX, format="JPEG", mode="RGB") -> bytes:
    """A black picture with a white box, with an EXIF orientation if one is given."""
    pixels = np.zeros(size, np.uint8)
    pixels[box[1]:box[3], box[0]:box[2]] = 255
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    options = dict(quality=95) if format == "JPEG" else dict(lossless=True) if format == "WEBP" else {}
    return encode(Image.fromarray(pixels).convert(mode), format, exif=exif, **options)


def white(encoded) -> list[int]:
    """Where the white object is on the upright picture: x1 y1 x2 y2."""
    rows, columns = np.nonzero(decode(encoded, 1)[..., 0] > 128)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def write_voc(root, orientation, stated, box=BOX, count=2, format="JPEG", size=STORED):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    encoded = turned_picture(orientation, size, format=format)
    for i in range(count):
        (root / f"JPEGImages/{i}.{'jpg' if format == 'JPEG' else format.lower()}").write_bytes(encoded)
        corners = (box[0] + 1, box[1] + 1, box[2], box[3])  # VOC's, counted from 1
        (root / f"Annotations/{i}.xml").write_text(annotation([("a", corners)], stated))
    for part in ("train", "val"):
        (root / f"ImageSets/Main/{part}.txt").write_text("".join(f"{i}\n" for i in range(count)))
    return encoded


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_boxes_and_maps_are_where_pillow_turns_the_pixels(orientation):
    encoded = turned_picture(orientation)
    stored = np.asarray(Image.open(io.BytesIO(encoded)))[..., 0]
    np.testing.assert_array_equal(upright_map(stored, orientation), decode(encoded)[..., 0])
    found = upright_boxes(np.float32([BOX]), np.array([orientation]), np.array([STORED]))
    assert found.tolist() == [white(encoded)] and found.dtype == np.float32


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_box_of_the_stored_size_is_turned_with_its_picture(tmp_path, orientation, format):
    encoded = write_voc(tmp_path, orientation, STORED, format=format)
    data = open_detection(f"voc:{tmp_path}")
    assert data.train[0]["boxes"].tolist() == data.test[1]["boxes"].tolist() == [white(encoded)]
    assert data.train.ground_truth().extents.tolist() == [[100, 60]] * 2
    assert data.ignored == f"4 {TURNED} (0, 1)"


def test_orientation_6_by_hand(tmp_path):
    """A quarter turn clockwise: stored x 70 to 90 becomes y, and y 10 to 20 from the top becomes x from the right."""
    write_voc(tmp_path, 6, STORED)
    assert open_detection(f"voc:{tmp_path}").train[0]["boxes"].tolist() == [[40, 70, 50, 90]]


@pytest.mark.parametrize("orientation, stated", [
    (2, STORED), (3, STORED), (4, STORED), (6, None), (6, (50, 50)), (6, (30, 50))])
def test_where_size_cannot_tell_a_box_is_upright_and_that_is_said_once(tmp_path, orientation, stated):
    box = (10, 20, 30, 40)
    write_voc(tmp_path, orientation, stated, box=box)
    data = open_detection(f"voc:{tmp_path}")
    assert data.train[0]["boxes"].tolist() == [list(box)]
    assert f"4 {UNTOLD} (0, 1)" in data.ignored and data.ignored.count("EXIF") == 1


def test_a_square_cannot_tell(tmp_path):
    write_voc(tmp_path, 6, (100, 100), box=(10, 20, 30, 40), size=(100, 100))
    data = open_detection(f"voc:{tmp_path}")
    assert data.train[0]["boxes"].tolist() == [[10, 20, 30, 40]] and data.ignored == f"4 {UNTOLD} (0, 1)"


@pytest.mark.parametrize("orientation", [None, 1, 9])
def test_an_upright_picture_is_as_before(tmp_path, orientation):
    write_voc(tmp_path, orientation, STORED)
    data = open_detection(f"voc:{tmp_path}")
    assert data.train[0]["boxes"].tolist() == [list(BOX)] and data.ignored == ""


def test_a_box_of_the_upright_size_stays(tmp_path):
    write_voc(tmp_path, 6, STORED[::-1], box=(40, 70, 50, 90))
    data = open_detection(f"voc:{tmp_path}")
    assert data.train[0]["boxes"].tolist() == [[40, 70, 50, 90]] and data.ignored == ""


def test_only_the_turned_pictures_of_a_part_are_turned(tmp_path):
    write_voc(tmp_path, None, STORED, count=3)
    (tmp_path / "JPEGImages/1.jpg").write_bytes(turned_picture(6))
    data = open_detection(f"voc:{tmp_path}")
    assert [data.train[i]["boxes"].tolist() for i in range(3)] == [[list(BOX)], [[40, 70, 50, 90]], [list(BOX)]]
    assert data.train.ground_truth().extents.tolist() == [[60, 100], [100, 60], [60, 100]]
    some = data.train.take(np.array([1]))
    assert some[0]["boxes"].tolist() == [[40, 70, 50, 90]]


def test_coco(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0.jpg").write_bytes(turned_picture(6, box=(10, 20, 40, 40)))
    content = {"images": [{"id": 0, "file_name": "0.jpg", "width": 100, "height": 60}],
               "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [10, 20, 30, 20]}],
               "categories": [{"id": 1, "name": "a"}]}
    for part in ("train", "val"):
        (tmp_path / f"instances_{part}.json").write_text(json.dumps(content))
    data = open_detection(f"coco:{tmp_path}")
    assert data.train[0]["boxes"].tolist() == [[20, 10, 40, 40]] and data.ignored == f"2 {TURNED} (0.jpg)"


# --- label maps


def write_maps(root, orientation, labels, size=STORED):
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for i in range(4):
        (root / f"images/{i}.jpg").write_bytes(turned_picture(orientation, size))
        (root / f"labels/{i}.png").write_bytes(encode(labels))
    return turned_picture(orientation, size)


def object_map(size=STORED, box=BOX):
    labels = np.zeros(size, np.uint8)
    labels[box[1]:box[3], box[0]:box[2]] = 1
    return labels


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_map_of_the_stored_size_is_turned_with_its_picture(tmp_path, orientation):
    encoded = write_maps(tmp_path, orientation, object_map())
    data = open_segmentation(f"folder:{tmp_path}")
    for part in (data.train, data.test):
        np.testing.assert_array_equal(part[0]["label_map"], decode(encoded, 1)[..., 0] > 128)
        assert part[0]["label_map"].dtype == np.uint8 and part[0]["label_map"].flags.c_contiguous
    assert data.ignored == f"4 {TURNED} (images/0.jpg, images/1.jpg, images/2.jpg, and 1 more)"


@pytest.mark.parametrize("orientation, size", [(3, STORED), (2, STORED), (4, STORED), (6, (100, 100))])
def test_where_size_cannot_tell_a_map_is_upright_and_that_is_said_once(tmp_path, orientation, size):
    labels = object_map(size)
    write_maps(tmp_path, orientation, labels, size)
    data = open_segmentation(f"folder:{tmp_path}")
    np.testing.assert_array_equal(data.train[0]["label_map"], labels)
    assert data.ignored == f"4 {UNTOLD} (images/0.jpg, images/1.jpg, images/2.jpg, and 1 more)"


def test_a_map_of_the_upright_size_stays(tmp_path):
    labels = object_map(STORED[::-1], (40, 70, 50, 90))
    write_maps(tmp_path, 6, labels)
    data = open_segmentation(f"folder:{tmp_path}")
    np.testing.assert_array_equal(data.train[0]["label_map"], labels)
    assert data.ignored == ""


def test_a_map_with_an_orientation_of_its_own(tmp_path):
    """A tool that copies EXIF from the picture has written both as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = encode(object_map(), exif=exif)
    np.testing.assert_array_equal(decode_label_map(stored), object_map(STORED[::-1], (40, 70, 50, 90)))


class Records(list):
    """What TFDS gives, without TFDS: features of records."""

    channels, fingerprint = 3, "x"

    def features(self, index):
        return self[index]

    def name(self, index):
        return f"record {index}"


def test_maps_of_tfds():
    tfds = pytest.importorskip("cvjax.data.label_maps.tfds")
    encoded, upright = turned_picture(6), object_map(STORED[::-1], (40, 70, 50, 90))
    source = tfds.WithLabelMaps(Records({"image": encoded, "label_map": encode(labels)} for labels in (object_map(),
                                                                                                       upright)))
    for i in range(2):
        np.testing.assert_array_equal(source[i]["label_map"], upright)


def test_boxes_of_tfds_are_drawn_on_the_upright_picture():
    """They are relative to a size that nobody states."""
    tfds = pytest.importorskip("cvjax.data.boxes.tfds")
    objects = {"bbox": np.float32([[70 / 100, 40 / 60, 90 / 100, 50 / 60]]), "label": np.array([0]),
               "is_crowd": np.array([True])}
    source = tfds.TfdsBoxes(Records([{"image": turned_picture(6), "objects": objects}]), "is_crowd", False)
    np.testing.assert_allclose(source[0]["boxes"], [[40, 70, 50, 90]], atol=1e-4)
    assert source[0]["box_difficult"].tolist() == [True] and source.ground_truth().extents.tolist() == [[100, 60]]


# --- headers


def test_headers(tmp_path):
    """A JPEG whose header is longer than what is read first, a file that is cut, and one that is not there."""
    long = turned_picture(6)
    comment = b"".join(b"\xff\xfe" + (60_000).to_bytes(2) + bytes(59_998) for _ in range(3))
    for name, content in (("long", long[:2] + comment + long[2:]), ("cut", long[:30]), ("png", encode(object_map())),
                          ("6", long)):
        (tmp_path / name).write_bytes(content)
    assert read_headers([tmp_path / name for name in ("long", "cut", "png", "6", "none")]) == [
        (100, 60, 6), None, (60, 100, 1), (100, 60, 6), None]
