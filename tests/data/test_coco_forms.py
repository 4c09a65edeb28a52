"""COCO's JSON as other tools write it: paths, categories, outlines without boxes, ids of another type."""

import json

import numpy as np
import pytest

from cvjax.data.boxes import open_detection
from cvjax.data.boxes.annotations import NOT_FINITE, UNKNOWN
from cvjax.data.boxes.outlines import box_of, unpacked
from tests.data.detection_folders import write_coco
from tests.data.pictures import encode, gradient

PARTS = {"train": [[(1, (1, 2, 3, 4))], [(2, (5, 5, 6, 6))]], "val": [[(1, (2, 2, 3, 3))]]}
NAMES = [(1, "cat"), (2, "dog")]


def changed(root, change, parts=("train", "val")):
    """The data set after `change(content)` of these parts' files."""
    for part in parts:
        file = root / f"annotations/instances_{part}.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
    return open_detection(f"coco:{root}")


@pytest.mark.parametrize("folder, prefix", [
    ("images/{}", "images/{}/"), ("images/{}", "{}/"), ("images/{}", "images\\{}\\"), ("{}", "{}\\"), ("{}", ".\\"),
    ("deep/er/{}", "deep\\er\\{}\\"), ("images/{}", "./images/{}/")])
def test_names_relative_to_the_root_or_with_backslashes(tmp_path, folder, prefix):
    write_coco(tmp_path, PARTS, NAMES, folder=folder)

    def change(content):
        for image in content["images"]:
            image["file_name"] = prefix.format(image["file_name"].split("_")[0]) + image["file_name"]

    data = changed(tmp_path, change)
    assert (len(data.train), len(data.test), data.ignored, data.lost) == (2, 1, "", ())
    assert data.train[1]["image"] == encode(gradient(15, 20)) and data.train[1]["boxes"].tolist() == [[5, 5, 11, 11]]


def test_a_backslash_that_is_part_of_a_name(tmp_path):
    write_coco(tmp_path, PARTS, NAMES)
    (tmp_path / "val/val_0.png").rename(tmp_path / "val/a\\b.png")
    data = changed(tmp_path, lambda content: content["images"][0].update(file_name="a\\b.png"), ["val"])
    assert data.test.name(0).endswith("a\\b.png")


def test_the_place_with_most_of_the_pictures(tmp_path):
    """One picture of the same name somewhere else does not decide."""
    write_coco(tmp_path, PARTS, NAMES, folder="images")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/train_0.png").write_bytes(b"another")
    data = open_detection(f"coco:{tmp_path}")
    assert len(data.train) == 2 and data.train.name(0).endswith("images/train_0.png") and data.lost == ()


def test_without_categories(tmp_path):
    """A test part takes those of training; without any, the ids that objects have are the classes."""
    write_coco(tmp_path, PARTS, NAMES)
    data = changed(tmp_path, lambda content: content.pop("categories"), ["val"])
    assert data.class_names == ("cat", "dog") and data.test[0]["box_label"].tolist() == [0]
    data = changed(tmp_path, lambda content: content.pop("categories"), ["train"])
    assert data.class_names == ("1", "2") and data.train[1]["box_label"].tolist() == [1]
    assert data.ignored == "2 categories that no list names, called by their ids (instances_train.json)"


def test_ids_of_another_type_are_named_as_they_are(tmp_path):
    write_coco(tmp_path, PARTS, NAMES)
    data = changed(tmp_path, lambda content: [a.update(category_id=str(a["category_id"])) for a in
                                              content["annotations"]], ["train"])
    assert data.ignored == f"2 {UNKNOWN} (category '1', category '2')"
    data = changed(tmp_path, lambda content: [a.update(image_id=str(a["image_id"])) for a in content["annotations"]],
                   ["train"])
    assert "2 boxes of pictures that the file does not list, left out (train, image_id '" in data.ignored


# --- outlines in place of boxes. A picture of 4 x 5 with the object at rows 1 and 2 of columns 1 to 3.

MASK = np.zeros((4, 5), bool)
MASK[1:3, 1:4] = True
RUNS = [5, 2, 2, 2, 2, 2, 5]


def packed(runs) -> str:
    """COCO's text of run lengths, written from its description: 5 bits a character, the lowest first."""
    text = ""
    for i, run in enumerate(runs):
        value = run - (runs[i - 2] if i > 2 else 0)
        while True:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            text += chr(48 + (digit | 32 * more))
            if not more:
                break
    return text


def test_packed_runs():
    """The text of `MASK` that pycocotools writes, and numbers that need several characters, or are negative."""
    assert unpacked("5220003") == RUNS and packed(RUNS) == "5220003"
    runs = [0, 1000, 3, 40, 70000, 5, 1, 31, 16, 15]
    assert unpacked(packed(runs)) == runs == unpacked(packed(runs).encode())


def test_packed_runs_are_pycocotools():
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for shape in ((4, 5), (60, 80), (300, 7)):
        picture = np.zeros(shape, np.uint8, order="F")
        picture[shape[0] // 4:, shape[1] // 3:] = rng.integers(0, 2, (shape[0] - shape[0] // 4,
                                                                       shape[1] - shape[1] // 3))
        theirs = mask.encode(picture)
        x, y, width, height = mask.toBbox(theirs)
        right = (x, y, x + width, y + height)
        assert box_of(theirs) == box_of({"size": shape, "counts": unpacked(theirs["counts"])}) == right
        assert packed(unpacked(theirs["counts"])) == theirs["counts"].decode()


@pytest.mark.parametrize("outline, box", [
    ({"size": [4, 5], "counts": RUNS}, (1, 1, 4, 3)), ({"size": [4, 5], "counts": packed(RUNS)}, (1, 1, 4, 3)),
    ([[1, 1, 4, 1, 4, 3, 1, 3]], (1, 1, 4, 3)), ([[1, 2, 2.5, 1, 2, 3], [3, 1, 4, 2, 3, 3]], (1, 1, 4, 3))])
def test_boxes_around_outlines(tmp_path, outline, box):
    assert box_of(outline) == box
    write_coco(tmp_path, PARTS, NAMES)

    def change(content):
        for annotation in content["annotations"]:
            del annotation["bbox"]
            annotation["segmentation"] = outline

    data = changed(tmp_path, change)
    assert data.train[0]["boxes"].tolist() == data.test[0]["boxes"].tolist() == [list(box)] and data.ignored == ""


@pytest.mark.parametrize("outline", [None, [], [[]], [[1, 2, 3]], {"size": [4, 5]}, {"size": [4, 5], "counts": [3]},
                                     {"size": [4, 5], "counts": [20]}, "text", 5, [["a", "b"]]])
def test_an_outline_that_is_none(tmp_path, outline):
    assert np.isnan(box_of(outline)).all()
    write_coco(tmp_path, PARTS, NAMES)
    data = changed(tmp_path, lambda content: content["annotations"][0].update(bbox=None, segmentation=outline), ["val"])
    assert data.test[0]["boxes"].shape == (0, 4) and f"1 {NOT_FINITE}" in data.ignored


def test_a_box_is_believed_before_an_outline(tmp_path):
    write_coco(tmp_path, PARTS, NAMES)
    data = changed(tmp_path, lambda content: content["annotations"][0].update(segmentation=[[0, 0, 9, 9, 0, 9]]),
                   ["val"])
    assert data.test[0]["boxes"].tolist() == [[2, 2, 5, 5]]
