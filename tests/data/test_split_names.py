"""Which part is which: one vocabulary for all readers, and a refusal where it cannot be told."""

import numpy as np
import pytest

from cvjax.data.held_out import fold_out, hold_out
from cvjax.data.parts import folders_of_parts, part_in, part_of
from cvjax.data.sources import open_dataset
from cvjax.data.sources.packing import write_pack
from cvjax.errors import DataError
from tests.data.pictures import write_folder
from tests.data.test_tar import webdataset, write_tar

CLASSES = ("cat", "dog")


def write_parts(root, parts, count=6):
    """`count` pictures of each class in each part, all of them different."""
    for i, part in enumerate(parts):
        write_folder(root / part, dict.fromkeys(CLASSES, count))
        for file in (root / part).glob("*/*.png"):  # what follows a PNG's end is no part of the picture
            file.write_bytes(file.read_bytes() + bytes(i))


@pytest.mark.parametrize("part, names", [
    ("train", "train Train TRAINING training_set train-images TrainSet trainset train2017 01_train images.train trn"),
    ("val", "val valid Validation val_images valset dev evaluation VALID-SET val2017"),
    ("test", "test Testing TEST_DATA testset tst holdout"),
    (None, "cat station train_station latest contest validity trainer testimony 2017 images set unlabeled train_test"),
])
def test_names_of_parts(part, names):
    assert {name: part_of(name) for name in names.split()} == dict.fromkeys(names.split(), part)


def test_words_in_names_of_files():
    assert [part_in(name, "") for name in ("imagenet1k-train-0000", "imagenet1k-validation-00", "a.TEST.b", "latest-3",
                                           "cats_testing", "data-0")] == ["train", "val", "test", None, "test", None]
    with pytest.raises(DataError, match="train-or-test has the words of several parts, test and train"):
        part_in("train-or-test", "")


def test_folders_with_more_words_are_parts_if_they_share_them():
    assert folders_of_parts(["pets_train", "pets_val", "readme"], "") == {"train": "pets_train", "val": "pets_val"}
    assert folders_of_parts(["train_station", "test_tube", "car"], "") == {}
    with pytest.raises(DataError, match="Train and training both mean the part train"):
        folders_of_parts(["Train", "training", "test"], "")


@pytest.mark.parametrize("train, other", [("Training", "Testing"), ("Train", "Test"), ("train", "valid"),
                                          ("training", "validation"), ("TRAIN", "val_set"),
                                          ("pets_train", "pets_test")])
def test_folders_of_parts_under_other_names(tmp_path, train, other):
    write_parts(tmp_path / "photos", (train, other))
    packed = tmp_path / "pack"
    write_pack(str(tmp_path / "photos"), packed)
    for form in ("folder:", "packed:"):
        data = open_dataset(f"{form}{packed if form == 'packed:' else tmp_path / 'photos'}")
        assert (data.class_names, len(data.train), len(data.test)) == (CLASSES, 12, 12)
        assert data.validation is None and data.ignored == "" and data.noticed == ""
        assert train in data.train.name(0) or form == "packed:"


def test_val_beside_test_is_the_validation_part(tmp_path):
    write_parts(tmp_path / "photos", ("train", "val", "Test"))
    write_pack(str(tmp_path / "photos"), tmp_path / "pack")
    for spec in (f"folder:{tmp_path / 'photos'}", f"packed:{tmp_path / 'pack'}"):
        data = open_dataset(spec)
        assert [len(data.train), len(data.validation), len(data.test)] == [12, 12, 12] and data.ignored == ""
        for hold in (lambda d: hold_out(d, 0.2, 0), lambda d: fold_out(d, 3, 0, 0)):
            with pytest.raises(DataError, match="brings a validation part of 12 images; leave out"):
                hold(data)
        cached = open_dataset(spec, cache=True) if spec.startswith("folder") else None
        assert cached is None or cached.validation.images.shape == (12, 12, 12, 3)


def test_a_test_part_without_labels_is_left_out_where_val_has_them(tmp_path):
    write_parts(tmp_path, ("train", "val"))
    write_folder(tmp_path, {"test": 5})
    data = open_dataset(f"folder:{tmp_path}")
    assert (len(data.test), data.validation) == (12, None) and (data.test.labels >= 0).all()
    assert data.ignored == "5 test pictures without labels, which cannot be judged (test)"


def test_what_lies_beside_the_parts_is_named(tmp_path):
    write_parts(tmp_path, ("train", "test"))
    write_folder(tmp_path, {"unlabelled": 3})
    (tmp_path / "README.md").write_text("")
    assert open_dataset(f"folder:{tmp_path}").ignored == (
        "1 folders beside the parts (unlabelled with 3 images); 1 files beside the parts (README.md)")


def refusal(spec):
    with pytest.raises(DataError) as error:
        open_dataset(spec)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folders_that_may_be_parts_or_classes_are_refused(tmp_path):
    write_folder(tmp_path / "a", {"train": 2, "car": 2, "bus": 2})
    assert "train beside bus, car may be the training part or a class; if it is a class, put" in refusal(
        f"folder:{tmp_path}/a")
    write_folder(tmp_path / "b", {"control": 2, "test": 2})
    assert "has test but no train folder; if it is a class" in refusal(f"folder:{tmp_path}/b")
    write_folder(tmp_path / "c" / "train", {"train": 2, "test": 2})
    assert "the classes would be test, train, which are names of parts" in refusal(f"folder:{tmp_path}/c")
    write_folder(tmp_path / "d", {"Train/cat": 2, "train/dog": 2, "test/cat": 2})
    assert "Train and train both mean the part train" in refusal(f"folder:{tmp_path}/d")
    write_folder(tmp_path / "e", {"cat/train": 2, "cat/test": 2, "dog/train": 2, "dog/test": 2})
    assert "the folder cat has the parts test, train within it" in refusal(f"folder:{tmp_path}/e")
    write_parts(tmp_path / "f" / "images", ("train", "val"))
    assert f"give folder:{tmp_path}/f/images" in refusal(f"folder:{tmp_path}/f")
    # In a folder of their own these are classes.
    write_folder(tmp_path / "g" / "train", {"train": 2, "car": 2})
    write_folder(tmp_path / "h" / "train", {"valid": 2, "invalid": 2})
    assert open_dataset(f"folder:{tmp_path}/g").class_names == ("car", "train")
    assert open_dataset(f"folder:{tmp_path}/h").class_names == ("invalid", "valid")


@pytest.mark.parametrize("train, other", [("imagenet1k-train-0000", "imagenet1k-validation-00"),
                                          ("Training", "valid-3"), ("x_TRAIN_1", "x_testing_1")])
def test_tar_files_by_a_word_in_their_names(tmp_path, train, other):
    write_tar(tmp_path / f"{train}.tar", webdataset(range(10)))
    write_tar(tmp_path / f"{other}.tar", webdataset(range(10, 16)))
    data = open_dataset(f"tar:{tmp_path}")
    assert (len(data.train), len(data.test), data.ignored) == (10, 6, "")
    write_tar(tmp_path / "train-and-val.tar", webdataset(range(3)))
    assert "train-and-val has the words of several parts, train and val" in refusal(f"tar:{tmp_path}")


def test_three_parts_of_tar_files(tmp_path):
    for i, part in enumerate(("train", "val", "test")):
        write_tar(tmp_path / f"{part}-0.tar", webdataset(range(8 * i, 8 * i + 8)))
    data = open_dataset(f"tar:{tmp_path}")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [8, 8, 8] and data.ignored == ""


def test_folders_of_parts_within_a_tar_file(tmp_path):
    members = {}
    for shift, part in ((0, "Training"), (12, "valid")):
        for i in range(12):
            members[f"pets/{part}/{CLASSES[i % 2]}/{i}.png"] = webdataset([shift + i])[f"{shift + i:04}.png"]
    data = open_dataset(f"tar:{write_tar(tmp_path / 'a.tar', members)}")
    assert (data.class_names, len(data.train), len(data.test)) == (CLASSES, 12, 12)
    assert all("/Training/" in name for name in data.train.files) and all("/valid/" in name for name in data.test.files)
    swapped = {"/".join([name.split("/")[2], name.split("/")[1], name.split("/")[3]]): content
               for name, content in members.items()}
    write_tar(tmp_path / "b.tar", swapped)
    assert "the classes would be Training, valid, which are names of parts" in refusal(f"tar:{tmp_path / 'b.tar'}")


IMAGES = np.arange(10 * 4 * 4 * 3, dtype=np.uint8).reshape(10, 4, 4, 3)


@pytest.mark.parametrize("names", ["train_images train_labels val_images val_labels", "x_train y_train x_test y_test",
                                   "X_Train Y_Train X_Valid Y_Valid",
                                   "images_training labels_training data_dev target_dev"])
def test_arrays_under_other_names(tmp_path, names):
    values = IMAGES, np.arange(10) % 3, 255 - IMAGES[:4], np.arange(4) % 3
    np.savez(tmp_path / "a.npz", **dict(zip(names.split(), values)))
    data = open_dataset(f"npz:{tmp_path / 'a.npz'}")
    assert (len(data.train), len(data.test), data.num_classes, data.ignored) == (10, 4, 3, "")
    np.testing.assert_array_equal(data.test.images, values[2])
    np.testing.assert_array_equal(data.test.labels, values[3])


def test_arrays_that_are_named_twice_or_without_images(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=IMAGES, x_train=IMAGES)
    assert "train_images and x_train both mean the same array" in refusal(f"npz:{tmp_path / 'a.npz'}")
    np.savez(tmp_path / "b.npz", train_images=IMAGES, test_labels=np.arange(10), extra=IMAGES)
    assert open_dataset(f"npz:{tmp_path / 'b.npz'}").ignored.endswith("b.npz: extra, test_labels")
