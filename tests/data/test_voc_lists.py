"""The lists of VOC's layout: what a line names, and what becomes of a name without a file; boxes and label maps."""

import dataclasses

import numpy as np
import pytest

from cvjax.data.bad_files import BadFiles
from cvjax.data.boxes import open_detection
from cvjax.data.label_maps import open_segmentation
from cvjax.data.problems import MISSING
from cvjax.data.voc_lists import files_by_name, read_names
from cvjax.errors import DataError
from cvjax.workflow.config import DataConfig
from cvjax.workflow.folder import RunFolder
from cvjax.workflow.inputs import count_bad_files
from tests.data.detection_folders import CAT_AND_DOG, write_coco, write_voc
from tests.data.pictures import encode, gradient

LINES = {  # a line -> the picture that it names, where those of the values exist
    "b c": "b c", "my photo 1": "my photo 1", "my photo 1  1": "my photo 1", "my photo 2 -1": "my photo 2",
    "a 0": "a", "a\t1": "a", "  a  ": "a", "a.jpg": "a", "a.JPEG -1": "a", "a.xml": "a", "img.0": "img.0",
    "img.0.png": "img.0", "x.jpg": "x.jpg", "c": "c", "c 1": "c 1", "\u732b 1": "\u732b"}


@pytest.mark.parametrize("encoding, end", [("utf-8", "\n"), ("utf-8-sig", "\r\n")])
def test_a_line_is_a_name(tmp_path, encoding, end):
    (tmp_path / "list.txt").write_bytes((end.join(LINES) + end + end).encode(encoding))
    assert read_names(tmp_path / "list.txt", set(LINES.values())) == list(LINES.values())


def test_a_name_without_a_file_loses_its_flag_and_its_ending(tmp_path):
    (tmp_path / "list.txt").write_text("gone 1\ngone too.jpg\nphoto 12\n")
    assert read_names(tmp_path / "list.txt", ()) == ["gone", "gone too", "photo 12"]


def test_files_by_name(tmp_path):
    for name in ("a.JPG", "b.jpeg", "b.png", "c.txt", "d.e.PNG", "f"):
        (tmp_path / name).touch()
    assert files_by_name(tmp_path) == {"a": "a.JPG", "b": "b.jpeg", "d.e": "d.e.PNG"}
    assert files_by_name(tmp_path / "none") == {}


def test_boxes_of_names_with_spaces(tmp_path):
    names = ["my photo 1", "my photo 2", "b c"]
    write_voc(tmp_path, {name: CAT_AND_DOG for name in names},
              {"train": names, "val": [f"{name} -1" for name in names]})
    data = open_detection(f"voc:{tmp_path}")
    assert data.train.files.files == data.test.files.files == tuple(f"{name}.jpg" for name in names)
    assert data.ignored == ""


@pytest.mark.parametrize("ending", ["JPG", "jpeg", "png", "webp"])
def test_pictures_of_any_ending(tmp_path, ending):
    write_voc(tmp_path, {"a 1": CAT_AND_DOG}, {"train": ["a 1"], "val": ["a 1"]}, extension=ending)
    (tmp_path / "Annotations/a 1.xml").rename(tmp_path / "Annotations/a 1.XML")
    assert open_detection(f"voc:{tmp_path}").train.files.files == (f"a 1.{ending}",)


def write_maps(root, names, lists, ending="jpg"):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / f"JPEGImages/{name}.{ending}").write_bytes(encode(gradient(6, 8)))
        (root / f"SegmentationClass/{name}.png").write_bytes(encode(np.resize(np.uint8([0, 1]), (6, 8))))
    for part, lines in lists.items():
        (root / f"ImageSets/Segmentation/{part}.txt").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("ending", ["jpg", "JPG", "jpeg", "png"])
def test_label_maps_of_names_with_spaces_and_any_ending(tmp_path, ending):
    names = ["my photo 1", "my photo 2", "b c"]
    write_maps(tmp_path, names, {"train": names, "val": ["b c 1", "my photo 1.jpg"]}, ending)
    data = open_segmentation(f"voc:{tmp_path}")
    assert [image for image, _ in data.train.files] == [f"JPEGImages/{name}.{ending}" for name in names]
    assert [image for image, _ in data.test.files] == [f"JPEGImages/{name}.{ending}" for name in ("b c", "my photo 1")]
    assert data.ignored == ""


# --- a listed picture that is missing, wherever it stands in the list


NAMES = ["a", "b", "c", "d"]


def boxes(root, missing):
    write_voc(root, {name: CAT_AND_DOG for name in NAMES}, {"train": NAMES, "test": ["d"]})
    (root / f"JPEGImages/{missing}.jpg").unlink()
    return open_detection(f"voc:{root}")


def label_maps(root, missing):
    write_maps(root, NAMES, {"train": NAMES, "val": ["d"]})
    (root / f"JPEGImages/{missing}.jpg").unlink()
    return open_segmentation(f"voc:{root}")


@pytest.mark.parametrize("missing", ["a", "b", "c"])
@pytest.mark.parametrize("kind", [boxes, label_maps])
def test_vocs_missing_picture_is_lost(tmp_path, kind, missing):
    data = kind(tmp_path, missing)
    assert len(data.train) == 3 and len(data.test) == 1
    assert all(missing not in data.train.name(i).rpartition("/")[2] for i in range(3))
    assert data.lost == ((f"{tmp_path}/JPEGImages/{missing}.jpg", "no such file"),)
    assert (f"1 {MISSING} ({missing})" if kind is boxes else "1 of train.txt without picture") in data.ignored


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_cocos_missing_picture_is_lost(tmp_path, missing):
    write_coco(tmp_path, {"train": [[(1, (i, i, 3, 3))] for i in range(4)], "val": [[(1, (1, 1, 3, 3))]]}, [(1, "a")])
    (tmp_path / f"train/train_{missing}.png").unlink()
    data = open_detection(f"coco:{tmp_path}")
    assert len(data.train) == 3 and data.lost == ((f"{tmp_path}/train/train_{missing}.png", "no such file"),)
    assert data.ignored == f"1 {MISSING} (train_{missing}.png)"
    left = [i for i in range(4) if i != missing]
    assert [data.train[i]["boxes"].tolist() for i in range(3)] == [[[i, i, i + 3, i + 3]] for i in left]


def test_the_account_of_bad_files_begins_with_them(tmp_path):
    data = boxes(tmp_path / "data", "b")
    config = DataConfig(data="voc", data_max_bad=0.2, batch_size=1, run_dir=tmp_path / "run")
    with RunFolder(config, "detect", "x") as folder:
        bad = count_bad_files(config, data, folder)
        folder.begin()
    assert isinstance(bad, BadFiles) and (bad.count, bad.total) == (1, 5)
    assert (folder.path / "bad_files.txt").read_text().endswith("JPEGImages/b.jpg\tno such file\n")
    with pytest.raises(DataError, match="1 of 5 files cannot be read"):
        count_bad_files(dataclasses.replace(config, data_max_bad=0.0, run_dir=tmp_path / "other"), data, folder)
