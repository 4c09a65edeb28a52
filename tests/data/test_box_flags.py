"""Flags of objects, whatever word is in them: VOC's, COCO's and TFDS's."""

import json

import numpy as np
import pytest

from cvjax.data.boxes import open_detection
from cvjax.data.boxes.flags import UNKNOWN_FLAG, read_flag
from cvjax.data.problems import Problems
from cvjax.errors import DataError
from tests.data.detection_folders import write_coco, write_voc

YES = ["1", " 1\n", "true", "True", "TRUE", "yes", "Y", "t", "1.0", 1, 1.0, True]
NO = ["0", "", "  ", "false", "False", "no", "N", "f", "0.0", "-0", "none", "null", 0, 0.0, False, None]
UNKNOWN = ["Unspecified", "maybe", "2", "-1", "nan", "inf", 3, [1], {}]


@pytest.mark.parametrize("values, right", [(YES, True), (NO, False)], ids=["yes", "no"])
def test_words_for_yes_and_no(values, right):
    problems = Problems()
    assert [read_flag(value, "flag", problems) for value in values] == [right] * len(values)
    assert problems.words() == ""


def test_unknown_words_are_no_and_are_counted_and_named():
    problems = Problems()
    assert not any(read_flag(value, "flag", problems) for value in UNKNOWN)
    assert problems.count(UNKNOWN_FLAG) == len(UNKNOWN)
    assert f"{len(UNKNOWN)} {UNKNOWN_FLAG} (flag 'Unspecified', flag 'maybe', flag '2'" in problems.words()


@pytest.mark.parametrize("word, difficult, said", [
    ("Unspecified", False, "(difficult 'Unspecified')"), ("False", False, ""), ("0.0", False, ""), ("", False, ""),
    ("True", True, ""), ("1.0", True, "")])
def test_vocs_difficult(tmp_path, word, difficult, said):
    objects = [("cat", (1, 1, 5, 5), word), ("cat", (2, 2, 9, 9))]
    write_voc(tmp_path, {"a": objects, "b": objects}, {"train": ["a"], "val": ["b"]})
    data = open_detection(f"voc:{tmp_path}")
    assert data.train[0]["box_difficult"].tolist() == data.test[0]["box_difficult"].tolist() == [difficult, False]
    assert data.ignored == (f"2 {UNKNOWN_FLAG} {said}" if said else "")


@pytest.mark.parametrize("word, crowd, said", [
    ("0", False, ""), ("false", False, ""), ("1", True, ""), ("True", True, ""), (1, True, ""), (False, False, ""),
    (None, False, ""), ("crowd", False, "(iscrowd 'crowd')"), (2, False, "(iscrowd '2')")])
def test_cocos_iscrowd(tmp_path, word, crowd, said):
    write_coco(tmp_path, {part: [[(1, (1, 1, 4, 4))]] for part in ("train", "val")}, [(1, "cat")])
    for file in (tmp_path / "annotations").iterdir():
        content = json.loads(file.read_text())
        content["annotations"][0]["iscrowd"] = word
        file.write_text(json.dumps(content))
    data = open_detection(f"coco:{tmp_path}")
    assert data.train[0]["box_difficult"].tolist() == [crowd]
    assert data.ignored == (f"2 {UNKNOWN_FLAG} {said}" if said else "")


def test_a_flag_of_tfds_that_is_text_is_refused(monkeypatch):
    """TFDS states the type of a flag, so that a word is refused before a record is read."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Info:
        name = "words"
        splits = ("train", "test")
        features = {"image": None, "objects": tfds.features.Sequence({
            "bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(num_classes=2),
            "is_crowd": tfds.features.Text()})}

    monkeypatch.setattr("cvjax.data.boxes.tfds.open_builder", lambda name: type("Builder", (), {"info": Info}))
    with pytest.raises(DataError, match="tfds:words: the flag is_crowd of its objects must be bool or 0 and 1"):
        open_detection("tfds:words")
    assert np.dtype(tfds.features.Scalar(np.bool_).np_dtype).kind == "b"
