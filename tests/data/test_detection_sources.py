import json
import pickle

import numpy as np
import pytest

from cvjax.data.boxes import open_detection
from cvjax.data.boxes.annotations import (
    CLIPPED,
    EMPTY,
    NOT_FINITE,
    OTHER_SIZE,
    OUTSIDE,
    REVERSED,
    UNKNOWN,
    Objects,
    Problems,
    mend,
)
from cvjax.data.boxes.crops import Letterbox
from cvjax.data.boxes.voc import CLASSES
from cvjax.data.held_out import hold_out
from cvjax.data.pipeline import eval_batches
from cvjax.errors import DataError
from tests.data.detection_folders import CAT_AND_DOG, annotation, write_coco, write_voc


def error_line(spec, **options):
    with pytest.raises(DataError) as error:
        open_detection(spec, **options)
    line = str(error.value)
    assert line and "\n" not in line
    return line


@pytest.mark.parametrize("spec", ["", "scene", "voc", "voc:", "digits", "folder:x"])
def test_an_unknown_spec_names_the_allowed_forms(spec):
    line = error_line(spec)
    assert repr(spec) in line and all(form in line for form in ("scenes", "voc:PATH", "coco:PATH", "tfds:NAME"))


def test_scenes_are_one_word_or_three_numbers():
    for spec in ("scenes:3", "scenes:3,4", "scenes:3,4,x"):
        assert error_line(spec) == f"{spec}: it must be scenes or scenes:TRAIN,TEST,SIDE, three numbers"


def test_a_validation_part_of_its_own_is_vocs():
    assert "scenes" in error_line("scenes", validation=True)


def test_scenes_come_with_boxes_and_ground_truth():
    data = open_detection("scenes")
    truth = data.test.ground_truth()
    assert (len(data.train), len(data.test), data.num_classes) == (2000, 500, 10)
    for i in (0, 17, 499):
        record = data.test[i]
        for name, value in truth[i].items():
            np.testing.assert_array_equal(record[name], value)
    assert (truth.extents == 96).all()


# --- the repair of boxes that cannot be true


def mended(boxes, *, labels=None, extents=((10, 20),), picture=None, **options):
    problems, count = Problems(), len(boxes)
    objects = Objects(np.array(boxes, float), np.arange(count) if labels is None else np.array(labels),
                      np.arange(count) % 2 == 1, np.zeros(count, int) if picture is None else np.array(picture))
    return mend(objects, np.array(extents), "picture {}".format, problems, **options), problems


def test_boxes_are_mended_left_out_and_counted():
    """In a picture 10 high and 20 wide."""
    nan, inf = float("nan"), float("inf")
    found, problems = mended([
        [1, 2, 3, 4],  # as it should be
        [3, 4, 1, 2], [3, 2, 1, 4],  # both and one of the sides the wrong way round
        [1, 2, 1, 4], [1, 2, 3, 2],  # no width, no height
        [-1, 2, 3, 4], [18, 8, 21.5, 11], [5, 5, 20.5, 6],  # partly outside
        [20, 0, 25, 5], [-5, 0, 0, 5], [0, 10, 5, 12], [0, -4, 5, 0],  # wholly, or side by side
        [nan, 2, 3, 4], [1, 2, inf, 4],
        [0, 0, 20, 10],  # all of it
        [7, 7, 7 + 1e-9, 8]])  # in single precision nothing is left
    assert found.labels.tolist() == [0, 1, 2, 5, 6, 7, 14]
    np.testing.assert_array_equal(found.boxes, np.float32([
        [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [0, 2, 3, 4], [18, 8, 20, 10], [5, 5, 20, 6], [0, 0, 20, 10]]))
    assert found.difficult.tolist() == [False, True, False, True, False, True, False]
    counts = {what: problems.count(what) for what in (REVERSED, EMPTY, CLIPPED, OUTSIDE, NOT_FINITE)}
    assert counts == {REVERSED: 2, EMPTY: 3, CLIPPED: 3, OUTSIDE: 4, NOT_FINITE: 2}
    assert f"4 {OUTSIDE} (picture 0)" in problems.words()


def test_pixels_counted_from_one_become_continuous():
    found, problems = mended([[1, 1, 20, 10], [5, 6, 7, 8], [0, 1, 4, 5], [5, 5, 5, 9], [8, 7, 5, 4]], inclusive=True)
    np.testing.assert_array_equal(found.boxes, np.float32([
        [0, 0, 20, 10], [4, 5, 7, 8], [0, 0, 4, 5], [4, 3, 8, 7]]))
    assert problems.count(CLIPPED) == 1 and problems.count(EMPTY) == 1 and problems.count(REVERSED) == 1


def test_boxes_go_to_their_pictures_in_order():
    found, _ = mended([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3], [0, 0, 4, 4], [0, 0, 5, 5]],
                      labels=[4, 3, -1, 1, 0], extents=[(9, 9)] * 4, picture=[2, 0, 0, 2, 3])
    assert found.starts.tolist() == [0, 1, 1, 3, 4] and found.labels.tolist() == [3, 4, 1, 0]
    assert len(mended(np.zeros((0, 4)), extents=[(4, 4), (5, 5)])[0]) == 2


def test_messages_name_the_first_few():
    problems = Problems()
    assert problems.words() == ""
    for i in range(5):
        problems.add(EMPTY, f"p{i}", 2)
    problems.add(CLIPPED, "q")
    assert problems.words() == f"10 {EMPTY} (p0, p1, p2, and 2 more); 1 {CLIPPED} (q)"


# --- VOC


def test_voc(tmp_path):
    write_voc(tmp_path, {"a": CAT_AND_DOG, "b": [], "c": [("cat", (5, 5, 6, 9), 1)], "d": [("dog", (2, 3, 4, 5), 0)]},
              {"train": ["a"], "val": ["b"], "trainval": ["a", "b"], "test": ["d", "c"]})
    data = open_detection(f"voc:{tmp_path}")
    assert data.class_names == ("cat", "dog") and data.ignored == "" and data.validation is None
    assert (len(data.train), len(data.test), data.channels, data.in_memory) == (2, 2, 3, False)
    record = data.train[0]
    assert isinstance(record["image"], bytes) and (record["label"], record["index"]) == (-1, 0)
    np.testing.assert_array_equal(record["boxes"], np.float32([[2, 1, 10, 8], [0, 0, 20, 15]]))
    assert record["boxes"].dtype == np.float32
    assert record["box_label"].tolist() == [1, 0] and record["box_label"].dtype == np.int32
    assert data.train[1]["boxes"].shape == (0, 4) and data.train[1]["box_label"].shape == (0,)
    assert data.test[1]["box_difficult"].tolist() == [True] and data.test[0]["box_difficult"].tolist() == [False]
    assert data.test.name(0).endswith("JPEGImages/d.jpg")
    truth = data.test.ground_truth()
    assert truth.extents.tolist() == [[15, 20], [15, 20]] and truth[1]["box_label"].tolist() == [0]
    (batch,) = eval_batches(data.test, Letterbox(30, 40, 3), batch_size=4)
    np.testing.assert_array_equal(batch["boxes"][0, 0], [2, 4, 8, 10])
    assert batch["mask"].tolist() == [True, True, False, False] and not batch["box_mask"][2:].any()
    assert batch["label"].tolist()[:2] == [-1, -1]
    copy = pickle.loads(pickle.dumps(data.train))
    assert copy.fingerprint == data.train.fingerprint != data.test.fingerprint


def test_vocs_own_validation_part(tmp_path):
    write_voc(tmp_path, {name: CAT_AND_DOG for name in "abc"},
              {"train": ["a"], "val": ["b"], "trainval": ["a", "b"], "test": ["c"]})
    data = open_detection(f"voc:{tmp_path}", validation=True)
    assert [part.files.files for part in (data.train, data.validation, data.test)] == [
        ("a.jpg",), ("b.jpg",), ("c.jpg",)]
    (tmp_path / "ImageSets/Main/test.txt").unlink()
    assert "it has no test" in error_line(f"voc:{tmp_path}", validation=True)


def test_several_voc_folders_are_one(tmp_path):
    """VOC 2007 and 2012: both `trainval`, and the test part of 2007; 2012 has none."""
    seven, twelve = tmp_path / "VOC2007", tmp_path / "more" / "VOC2012"
    write_voc(seven, {"a": CAT_AND_DOG, "b": [("dog", (2, 3, 4, 5))], "t": [("cat", (5, 5, 6, 9), 1)]},
              {"train": ["a"], "val": ["b"], "trainval": ["a", "b"], "test": ["t"]})
    write_voc(twelve, {"a": [("cow", (1, 1, 7, 7))], "c": CAT_AND_DOG, "d": []},
              {"train": ["a"], "val": ["c", "d"]}, size=(20, 10), extension="png")
    spec = f"voc:{seven}+{twelve}"
    data = open_detection(spec)
    assert data.class_names == ("cat", "cow", "dog") and (len(data.train), len(data.test)) == (5, 1)
    assert [data.train.name(i) for i in range(5)] == [
        *(str(seven / "JPEGImages" / f"{name}.jpg") for name in "ab"),
        *(str(twelve / "JPEGImages" / f"{name}.png") for name in "acd")]
    assert [data.train[i]["box_label"].tolist() for i in range(5)] == [[2, 0], [2], [1], [2, 0], []]
    np.testing.assert_array_equal(data.train[2]["boxes"], [[0, 0, 7, 7]])
    assert data.train.ground_truth().extents.tolist() == [[15, 20]] * 2 + [[20, 10]] * 3
    assert data.test.name(0) == str(seven / "JPEGImages" / "t.jpg") and data.test[0]["box_difficult"].tolist() == [True]
    (batch,) = eval_batches(data.train, Letterbox(20, 20, 2), batch_size=5)
    assert batch["mask"].all() and batch["extent"].tolist() == [[15, 20]] * 2 + [[20, 10]] * 3
    own = open_detection(spec, validation=True)
    assert [len(part) for part in (own.train, own.validation, own.test)] == [2, 3, 1]
    assert "the test part names no picture" in error_line(f"voc:{twelve}+{twelve}")
    assert f"voc:{tmp_path} has no folder Annotations" in error_line(f"voc:{seven}+{tmp_path}")
    (seven / "classes.txt").write_text("cat\n")
    assert "the folders must have the same classes.txt, or none" in error_line(spec)


def test_a_voc_folder_may_have_a_plus_in_its_name(tmp_path):
    write_voc(tmp_path / "a+b", {"a": CAT_AND_DOG}, {"train": ["a"], "test": ["a"]})
    assert open_detection(f"voc:{tmp_path / 'a+b'}").train.files.files == ("a.jpg",)


def test_vocs_parts_without_a_test_list(tmp_path):
    names = [f"p{i}" for i in range(10)]
    write_voc(tmp_path, {name: CAT_AND_DOG for name in names}, {"trainval": names})
    data, other = open_detection(f"voc:{tmp_path}"), open_detection(f"voc:{tmp_path}", seed=1)
    assert (len(data.train), len(data.test)) == (8, 2) and not set(data.train.files.files) & set(data.test.files.files)
    assert data.test.files.files != other.test.files.files
    write_voc(tmp_path, {}, {"train": names[:3], "val": names[3:]})
    data = open_detection(f"voc:{tmp_path}")
    assert (len(data.train), len(data.test)) == (3, 7)
    (tmp_path / "ImageSets/Main/trainval.txt").unlink()
    write_voc(tmp_path, {}, {"test": ["p9"], "val": names[3:9]})
    assert (len(open_detection(f"voc:{tmp_path}").train)) == 9


def test_a_part_of_a_voc_part(tmp_path):
    names = [f"p{i}" for i in range(10)]
    write_voc(tmp_path, {name: [("cat", (1, 1, 5 + i, 9))] for i, name in enumerate(names)},
              {"train": names, "test": ["p0"]})
    data = hold_out(open_detection(f"voc:{tmp_path}"), 0.3, seed=0)
    assert len(data.validation) == 3 and len(data.train) == 7
    for i, name in enumerate(data.validation.files.files):
        assert data.validation[i]["boxes"][0, 2] == 5 + int(name[1])


def test_classes_of_voc(tmp_path):
    every = [(name, (1, 1, 5, 5)) for name in reversed(CLASSES)]
    write_voc(tmp_path, {"a": every[:12], "b": every}, {"train": ["a"], "test": ["a"]})
    data = open_detection(f"voc:{tmp_path}")
    assert data.class_names == CLASSES and data.train[0]["box_label"].tolist() == list(range(19, 7, -1))
    (tmp_path / "classes.txt").write_text("train\n\nsofa\n")
    data = open_detection(f"voc:{tmp_path}")
    assert data.class_names == ("train", "sofa") and data.train[0]["box_label"].tolist() == [0, 1]
    assert data.ignored == f"20 {UNKNOWN} (chair, cow, diningtable, and 7 more)"
    (tmp_path / "classes.txt").write_text("a\na\n")
    assert "2 lines with 1 names" in error_line(f"voc:{tmp_path}")


def test_unknown_classes_in_the_test_part_are_counted(tmp_path):
    write_voc(tmp_path, {"a": CAT_AND_DOG, "b": [("cow", (1, 1, 5, 5)), ("cat", (2, 2, 6, 6)), ("cow", (1, 1, 3, 3))]},
              {"train": ["a"], "test": ["b"]})
    data = open_detection(f"voc:{tmp_path}")
    assert data.ignored == f"2 {UNKNOWN} (cow)" and data.test[0]["box_label"].tolist() == [0]


def test_what_is_wrong_with_voc_is_told(tmp_path):
    write_voc(tmp_path, {
        "good": CAT_AND_DOG, "point": [("cat", (4, 4, 4, 4))], "out": [("cat", (4, 4, 25, 10))],
        "odd": annotation([("cat", (1, 1, 30, 30))], (40, 50)), "unstated": annotation([("cat", (1, 1, 5, 30))], None),
        "far": [("cat", (40, 40, 50, 50))], "nan": [("cat", ("nan", 1, 2, 3))]},
        {"train": ["good", "point", "out", "odd", "unstated", "far", "nan", "good"], "test": ["good"]})
    data = open_detection(f"voc:{tmp_path}")
    for words in (f"1 {EMPTY} (point)", f"3 {CLIPPED} (out, odd, unstated)", f"1 {OUTSIDE} (far)",
                  f"1 {NOT_FINITE} (nan)", f"1 {OTHER_SIZE} (odd)",
                  "1 names that a list repeats, taken once (train.txt)"):
        assert words in data.ignored
    assert data.train.ground_truth().extents.tolist() == [[15, 20]] * 7
    assert data.train.ground_truth().counts.tolist() == [2, 0, 1, 1, 1, 0, 0]
    np.testing.assert_array_equal(data.train[3]["boxes"], [[0, 0, 20, 15]])


def test_unreadable_annotations_are_named_and_too_many_are_an_error(tmp_path):
    write_voc(tmp_path, {"a": CAT_AND_DOG, "b": "<annotation><obj",
                         "c": annotation([("cat", ("x", 1, 2, 3))], (15, 20)),
                         "d": "<annotation><object><name>cat</name></object></annotation>"},
              {"train": ["a", "b", "c", "d", "e"], "test": ["a"]})
    assert "3 of 5 files cannot be read, 2 may be" in error_line(f"voc:{tmp_path}")
    assert "b.xml (unclosed" in error_line(f"voc:{tmp_path}")
    ignored = open_detection(f"voc:{tmp_path}", max_bad=0.8).ignored
    assert ignored.startswith("4 unreadable annotations") and "b.xml (unclosed token" in ignored
    assert "c.xml (could not convert" in ignored and "d.xml (an object without" in ignored and ignored.endswith(", ...")


def test_pictures_of_other_kinds(tmp_path):
    write_voc(tmp_path, {"a": CAT_AND_DOG}, {"train": ["a"], "test": ["a"]}, extension="png")
    assert open_detection(f"voc:{tmp_path}").train.files.files == ("a.png",)


@pytest.mark.parametrize("spoil, words", [
    (lambda root: (root / "ImageSets/Main/train.txt").write_text("\n"), "no list train.txt or trainval.txt"),
    (lambda root: (root / "ImageSets/Main/test.txt").write_text(""), "the test part names no picture"),
    (lambda root: (root / "Annotations/a.xml").write_text("<annotation/>"), "no object"),
    (lambda root: (root / "Annotations").rename(root / "Others"), "no folder Annotations")])
def test_what_is_no_voc_is_refused(tmp_path, spoil, words):
    write_voc(tmp_path, {"a": CAT_AND_DOG, "b": CAT_AND_DOG}, {"train": ["a"], "test": ["b"]})
    spoil(tmp_path)
    assert words in error_line(f"voc:{tmp_path}")


# --- COCO


PARTS = {"train2017": [[(7, (1, 2, 3, 4)), (3, (0, 0, 20, 15), True)], [], [(3, (5, 5, 1.5, 2.5))]],
         "val2017": [[(7, (2, 2, 2, 2))]]}
CATEGORIES = [(7, "cat"), (3, "dog")]


@pytest.mark.parametrize("folder", ["{}", "images/{}", "images"])
def test_coco(tmp_path, folder):
    write_coco(tmp_path, PARTS, CATEGORIES, folder=folder)
    data = open_detection(f"coco:{tmp_path}")
    assert data.class_names == ("dog", "cat") and data.ignored == ""
    assert (len(data.train), len(data.test)) == (3, 1)
    record = data.train[0]
    order = np.argsort(record["box_label"])
    np.testing.assert_array_equal(record["boxes"][order], np.float32([[0, 0, 20, 15], [1, 2, 4, 6]]))
    assert record["box_label"][order].tolist() == [0, 1] and record["box_difficult"][order].tolist() == [True, False]
    assert data.train[1]["boxes"].shape == (0, 4)
    np.testing.assert_array_equal(data.train[2]["boxes"], np.float32([[5, 5, 6.5, 7.5]]))
    assert data.test.ground_truth().extents.tolist() == [[15, 20]]


def test_coco_s_areas_go_with_their_objects(tmp_path):
    """One of each picture's objects states its area, in the shuffled order of the file; crops do not see it."""
    write_coco(tmp_path, PARTS, CATEGORIES)
    file = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    for entry in content["annotations"]:
        if not entry["iscrowd"]:
            entry["area"] = entry["bbox"][2] * entry["bbox"][3] / 2
    file.write_text(json.dumps(content))
    data = open_detection(f"coco:{tmp_path}")
    truth, kept = data.train.ground_truth(), data.train.take(np.array([2, 0])).ground_truth()
    for picture, areas in ((0, [np.nan, 6]), (1, []), (2, [1.875])):
        found = truth.areas_of(picture)[np.argsort(truth[picture]["box_label"])]
        np.testing.assert_array_equal(found, areas)
    np.testing.assert_array_equal(kept.areas_of(0), [1.875])
    assert kept.areas_of(1).shape == (2,) and "area" not in "".join(data.train[0])
    assert np.isnan(data.test.ground_truth().areas_of(0)).all()


def test_coco_without_a_test_file(tmp_path):
    write_coco(tmp_path, {"train": [[(1, (0, 0, i + 1, 2))] for i in range(10)]}, [(1, "a")])
    data = open_detection(f"coco:{tmp_path}")
    assert (len(data.train), len(data.test)) == (8, 2)
    for part in (data.train, data.test):
        for i, name in enumerate(part.files.files):
            assert part[i]["boxes"][0, 2] == int(name[6]) + 1


def test_what_is_wrong_with_coco_is_told(tmp_path):
    write_coco(tmp_path, {"train": [[(1, (2, 2, -1, 3)), (1, (1, 1, 0, 3)), (1, (1, 1, 3)), (9, (1, 1, 2, 2)),
                                     (1, (15, 1, 10, 2))]], "val": [[(1, (0, 0, 2, 2))]]}, [(1, "a")])
    file = tmp_path / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"].append({"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]})
    content["images"][0]["height"] = 16
    file.write_text(json.dumps(content))
    data = open_detection(f"coco:{tmp_path}")
    for words in (f"1 {REVERSED}", f"1 {EMPTY}", f"1 {NOT_FINITE}", f"1 {UNKNOWN} (category 9)", f"1 {CLIPPED}",
                  "1 boxes of pictures that the file does not list", f"1 {OTHER_SIZE}"):
        assert words in data.ignored
    boxes = data.train[0]["boxes"]
    np.testing.assert_array_equal(boxes[np.argsort(boxes[:, 0])], np.float32([[1, 2, 2, 5], [15, 1, 20, 3]]))


@pytest.mark.parametrize("change, words", [
    (lambda content: content.pop("images"), "no list 'images'"),
    (lambda content: content["annotations"][0].pop("bbox"), "annotations[0] must have image_id, bbox, category_id"),
    (lambda content: content["images"][0].update(file_name="x.png"), "none of the 1 pictures of val2017, such as x"),
    (lambda content: content["categories"][0].update(name="cow"), "category 7 is 'cat' in train2017 and 'cow' in val")])
def test_what_is_no_coco_is_refused(tmp_path, change, words):
    write_coco(tmp_path, PARTS, CATEGORIES)
    file = tmp_path / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    assert words in error_line(f"coco:{tmp_path}")
    file.write_text("{")
    assert "not readable JSON" in error_line(f"coco:{tmp_path}")


def test_coco_without_a_training_file(tmp_path):
    write_coco(tmp_path, {"val": PARTS["val2017"]}, CATEGORIES)
    assert "no file instances_train*.json" in error_line(f"coco:{tmp_path}") and "val" in error_line(f"coco:{tmp_path}")
