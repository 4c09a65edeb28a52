"""Parts under other names where pictures have boxes or label maps: one vocabulary with all other readers."""

import numpy as np
import pytest

from cvjax.data.boxes import open_detection
from cvjax.data.label_maps import open_segmentation
from cvjax.errors import DataError
from tests.data.detection_folders import CAT_AND_DOG, write_coco, write_voc
from tests.data.pictures import encode, gradient

NAMES = (("train", "val", "test"), ("Training", "Validation", "Testing"), ("TRAIN", "valid", "test_set"))


def write_maps(root, folders):
    """`folders[name]` pictures in root/name and their label maps in root/nameannot."""
    label_map = np.zeros((15, 20), np.uint8)
    label_map[:5] = 1
    for name, count in folders.items():
        for folder, content in ((root / name, gradient(15, 20)), (root / f"{name}annot", label_map)):
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.png").write_bytes(encode(content))


@pytest.mark.parametrize("train, val, test", NAMES)
def test_folders_of_label_maps(tmp_path, train, val, test):
    write_maps(tmp_path, {train: 4, val: 2, test: 3})
    data = open_segmentation(f"folder:{tmp_path}")
    assert (len(data.train), len(data.validation), len(data.test), data.ignored) == (4, 2, 3, "")


def test_a_folder_of_a_part_without_label_maps_is_named_and_two_of_one_part_are_refused(tmp_path):
    write_maps(tmp_path, {"train": 5, "TestAnnot": 1})
    (tmp_path / "valid").mkdir()
    assert "folders without label maps beside them: valid" in open_segmentation(f"folder:{tmp_path}").ignored
    write_maps(tmp_path, {"Training": 1})
    with pytest.raises(DataError, match="Training and train both mean the part train"):
        open_segmentation(f"folder:{tmp_path}")


@pytest.mark.parametrize("train, val, test", NAMES)
def test_lists_of_boxes_and_of_label_maps(tmp_path, train, val, test):
    pictures = [f"p{i}" for i in range(6)]
    lists = {train: pictures[:3], val: pictures[3:4], test: pictures[4:], "dog_train": pictures, "train_val": pictures}
    write_voc(tmp_path, dict.fromkeys(pictures, CAT_AND_DOG), lists)
    boxes = open_detection(f"voc:{tmp_path}", validation=True)
    assert (len(boxes.train), len(boxes.validation), len(boxes.test)) == (3, 1, 2)

    (tmp_path / "ImageSets" / "Segmentation").mkdir()
    (tmp_path / "SegmentationClass").mkdir()
    for name in pictures:
        (tmp_path / "SegmentationClass" / f"{name}.png").write_bytes(encode(np.ones((15, 20), np.uint8)))
    for name, listed in lists.items():
        (tmp_path / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(listed))
    maps = open_segmentation(f"voc:{tmp_path}")
    assert (len(maps.train), len(maps.validation), len(maps.test)) == (3, 1, 2)

    (tmp_path / "ImageSets" / "Main" / "train-images.txt").write_text("p0")
    with pytest.raises(DataError, match=f"{train} and train-images both mean the part train"):
        open_detection(f"voc:{tmp_path}")


@pytest.mark.parametrize("train, test", [("train2017", "val2017"), ("Training", "Valid"), ("TRAIN", "test_images")])
def test_files_of_annotations(tmp_path, train, test):
    one = [[(1, (1, 1, 5, 5))]]
    write_coco(tmp_path, {train: 3 * one, test: 2 * one, "cats": one}, [(1, "cat")])
    data = open_detection(f"coco:{tmp_path}")
    assert (len(data.train), len(data.test)) == (3, 2)
    assert data.ignored == "1 files of annotations that are not read (instances_cats.json)"
    write_coco(tmp_path, {"train2014": one}, [(1, "cat")])
    with pytest.raises(DataError, match="both mean the part train; leave one of them"):
        open_detection(f"coco:{tmp_path}")
