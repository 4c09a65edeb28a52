"""Data sets with label maps: folders, VOC's, TFDS's, and what is wrong with them in one line."""

import pickle

import numpy as np
import pytest
from PIL import Image

from cvjax.data.decode import DecodeError
from cvjax.data.label_maps import open_segmentation
from cvjax.data.label_maps.folder import CAMVID
from cvjax.data.label_maps.labels import image_sizes, label_maps
from cvjax.data.label_maps.voc import VOC
from cvjax.errors import DataError
from tests.data.pictures import encode, gradient


def write(root, folder, annotations, count, labels=(0, 1, 2), first=0, name="picture{}", size=(6, 8)):
    """`count` pictures of different sizes, and label maps of these labels and 255."""
    for number, place in enumerate((folder, annotations)):
        (root / place).mkdir(parents=True, exist_ok=True)
        for i in range(first, first + count):
            height, width = size[0] + i, size[1]
            values = np.resize([*labels, 255], (height, width)).astype(np.uint8)
            (root / place / f"{name.format(i)}.{'png' if number else 'jpg'}").write_bytes(
                encode(values) if number else encode(gradient(height, width), "JPEG"))


def error_line(spec, **options):
    with pytest.raises(DataError) as error:
        open_segmentation(spec, **options)
    line = str(error.value)
    assert line and "\n" not in line
    return line


def two(folder) -> str:
    """The form of a folder, once it names two classes."""
    (folder / "classes.txt").write_text("a\nb\n")
    return f"folder:{folder}"


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        write(tmp_path, part, f"{part}annot", count)
    return tmp_path


def test_scenes_are_the_default_data():
    data = open_segmentation("scenes:6,3,48")
    assert (len(data.train), len(data.test), data.validation) == (6, 3, None)
    assert data.class_names == ("background", *"0123456789")
    record = data.train[0]
    assert record["image"].shape == (48, 48, 3) and record["label_map"].shape == (48, 48)
    assert not np.array_equal(open_segmentation("scenes:6,3,48", seed=1).train[0]["image"], record["image"])


def test_camvids_folders(folder):
    data = open_segmentation(f"folder:{folder}")
    assert (len(data.train), len(data.validation), len(data.test)) == (5, 2, 3)
    assert data.class_names == ("0", "1", "2") and data.channels == 3 and data.ignored == ""
    record = data.train[2]
    assert isinstance(record["image"], bytes) and (record["label"], record["index"]) == (-1, 2)
    assert record["label_map"].tolist() == np.resize([0, 1, 2, 255], (8, 8)).tolist()
    assert data.train.name(2) == f"{folder}/train/picture2.jpg"
    assert pickle.loads(pickle.dumps(data.train)).take(np.array([2])).name(0) == data.train.name(2)
    assert image_sizes(data.train).tolist() == [[6 + i, 8] for i in range(5)]
    assert len(list(label_maps(data.train))) == 5


def test_classes_have_names(folder):
    (folder / "classes.txt").write_text("sky\n road \ntree\n\ncar\n")
    assert open_segmentation(f"folder:{folder}", ignore_label=255).class_names == ("sky", "road", "tree", "car")
    before = open_segmentation(f"folder:{folder}", ignore_label=255).train.fingerprint
    (folder / "classes.txt").write_text("sky\nroad\ntree\n")
    assert open_segmentation(f"folder:{folder}", ignore_label=255).train.fingerprint != before
    (folder / "classes.txt").write_text("sky\nsky\n")
    assert "must name 2 to 255 classes, one a line and each once; it has 2, 1 dif" in error_line(f"folder:{folder}")


def test_camvid_is_known_by_its_files(tmp_path):
    write(tmp_path, "train", "trainannot", 2, labels=(0, 10, 11), name="0001TP_00{}")
    write(tmp_path, "test", "testannot", 1, labels=(0, 11), name="Seq05VD_{}")
    data = open_segmentation(f"folder:{tmp_path}")
    assert data.class_names == CAMVID and len(CAMVID) == 11
    assert set(np.unique(data.train[0]["label_map"])) == {0, 10, 255}
    assert set(np.unique(data.test[0]["label_map"])) == {0, 255}


def test_a_label_to_ignore(folder):
    data = open_segmentation(f"folder:{folder}", ignore_label=2)
    assert data.class_names == ("0", "1") and set(np.unique(data.train[0]["label_map"])) == {0, 1, 255}
    data = open_segmentation(f"folder:{folder}", ignore_label=0)
    assert data.class_names == ("0", "1", "2"), "numbers stay"
    assert set(np.unique(data.train[0]["label_map"])) == {1, 2, 255}
    (folder / "classes.txt").write_text("a\nb\nvoid\n")
    assert open_segmentation(f"folder:{folder}", ignore_label=2).class_names == ("a", "b")
    assert "one class is left, a; there must be two" in error_line(two(folder), ignore_label=1)
    assert "must lie in [0, 255], got 256" in error_line(f"folder:{folder}", ignore_label=256)
    assert "all pixels of scenes count" in error_line("scenes", ignore_label=1)


def test_without_a_test_folder_val_is_it_and_without_both_a_fifth_is(tmp_path):
    write(tmp_path, "train", "trainannot", 10)
    data = open_segmentation(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test), data.validation) == (8, 2, None)
    assert open_segmentation(f"folder:{tmp_path}", seed=1).test.files != data.test.files
    write(tmp_path, "val", "valannot", 3)
    data = open_segmentation(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test), data.validation) == (10, 3, None)


def test_images_and_labels(tmp_path):
    write(tmp_path, "images/a", "labels/a", 5)
    data = open_segmentation(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test)) == (4, 1)


def test_pairs_that_are_missing_are_counted_and_named(folder):
    (folder / "trainannot" / "picture1.png").unlink()
    (folder / "test" / "picture0.jpg").unlink()
    data = open_segmentation(f"folder:{folder}")
    assert (len(data.train), len(data.test)) == (4, 2)
    assert data.ignored == ("1 without a label map, such as train/picture1.jpg; "
                            "1 without a picture, such as testannot/picture0.png")
    for path in (folder / "trainannot").iterdir():
        path.rename(path.with_stem(f"x{path.stem}"))
    assert "has no training picture with a label map; 5 without a label map" in error_line(f"folder:{folder}")


def test_a_record_that_cannot_be_used_says_why(folder):
    data = open_segmentation(f"folder:{folder}")
    (folder / "testannot" / "picture0.png").write_bytes(encode(np.full((6, 8), 3, np.uint8)))
    with pytest.raises(DecodeError, match="label 3 in a label map of 3 classes, 0 to 2 and 255"):
        data.test[0]
    (folder / "trainannot" / "picture0.png").write_bytes(b"no picture")
    assert open_segmentation(f"folder:{folder}").class_names == ("0", "1", "2")
    assert len(list(label_maps(data.train))) == 4 and image_sizes(data.train)[0].tolist() == [1, 1]


@pytest.mark.parametrize("spec", ["", "scene", "digits", "folder:", "voc", "npz:x"])
def test_an_unknown_spec_names_the_allowed_forms(spec):
    line = error_line(spec)
    assert f"unknown data set {spec!r} with label maps; " in line and "allowed: scenes, scenes:TRAIN" in line
    assert ("did you mean --data scenes?" in line) == ("did you mean" in line) == (spec == "scene")


def test_folders_that_cannot_be_used(tmp_path):
    assert "no such folder" in error_line(f"folder:{tmp_path}/nowhere")
    assert "there must be folders train and trainannot, or images and labels" in error_line(f"folder:{tmp_path}")
    assert "no list of training pictures" in error_line(f"voc:{tmp_path}")
    assert "it must be scenes or scenes:TRAIN,TEST,SIDE" in error_line("scenes:3,4")
    write(tmp_path, "train", "trainannot", 3, labels=(0,))
    assert "have 1 classes, there must be at least two" in error_line(f"folder:{tmp_path}")


def test_vocs_folders(tmp_path):
    write(tmp_path, "JPEGImages", "SegmentationClass", 6)
    for path in (tmp_path / "SegmentationClass").iterdir():  # with colours, as VOC has them
        image = Image.open(path)
        colours = Image.fromarray(np.asarray(image), "P")
        colours.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
        path.write_bytes(encode(colours))
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("picture0\npicture3\npicture9\n")
    (lists / "val.txt").write_text("picture1\npicture2\n")
    (lists / "test.txt").write_text("unknown\n")
    data = open_segmentation(f"voc:{tmp_path}")
    assert (len(data.train), len(data.test), data.validation) == (2, 2, None) and data.class_names == VOC
    assert len(VOC) == 21
    assert data.ignored == ("1 of train.txt without picture or label map, such as SegmentationClass/picture9.png; "
                            "1 of test.txt without picture or label map, such as SegmentationClass/unknown.png")
    assert set(np.unique(data.test[1]["label_map"])) == {0, 1, 2, 255}
    (lists / "test.txt").write_text("picture5\n")
    data = open_segmentation(f"voc:{tmp_path}")
    assert (len(data.validation), len(data.test)) == (2, 1)


def test_tfds_label_maps(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class TinyMasks(tfds.core.GeneratorBasedBuilder):
        """Five pictures with masks of the labels 1 and 2, as Oxford's pets have them."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
            mask = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(
                {"image": image, "segmentation_mask": mask}))

        def _split_generators(self, _):
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self):
            for i in range(5):
                yield i, {"image": encode(gradient(6, 8)),
                          "segmentation_mask": encode(np.full((6, 8), 1 + i % 2, np.uint8))}

    TinyMasks(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    data = open_segmentation(f"tfds:{tmp_path}/tiny_masks/1.0.0")
    assert (len(data.train), len(data.test)) == (5, 5) and data.class_names == ("0", "1", "2")
    found = sorted(int(data.train[i]["label_map"].max()) for i in range(5))
    assert found == [1, 1, 1, 2, 2] and data.train[0]["label_map"].shape == (6, 8)
    assert data.train.take(np.array([3, 4])).fingerprint != data.train.fingerprint
    data = open_segmentation(f"tfds:{tmp_path}/tiny_masks/1.0.0", ignore_label=1)
    assert {int(v) for i in range(5) for v in np.unique(data.train[i]["label_map"])} == {2, 255}
