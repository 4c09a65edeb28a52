"""Lists of files with labels: joined to files and to arrays, and refused in one line when they do not fit."""

import pickle

import numpy as np
import pytest

from cvjax.data.decode import decode
from cvjax.data.sources import open_dataset
from cvjax.data.sources.file_list import add_labelled_files
from cvjax.errors import DataError
from tests.data.pictures import encode, write_folder


@pytest.fixture
def photos(tmp_path):
    write_folder(tmp_path / "photos" / "train", {"ant": 4, "bee": 3})
    write_folder(tmp_path / "photos" / "test", {"ant": 1, "bee": 1})
    write_folder(tmp_path, {"more": 3})
    return tmp_path


def write_list(folder, *lines: str, name: str = "list.csv") -> str:
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def test_files_join_the_training_part_alone(photos):
    whole = open_dataset(f"folder:{photos}/photos")
    listed = write_list(photos, "file,label,probability", f"{photos}/more/002.png,bee,0.99",
                        f"{photos}/more/000.png,ant,1")
    found = add_labelled_files(whole, listed)
    assert len(found.train) == 9 and found.test is whole.test and found.class_names == ("ant", "bee")
    assert found.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0]
    assert [found.train[i]["label"] for i in range(9)] == found.train.labels.tolist()
    assert [found.train[i]["index"] for i in range(9)] == list(range(9))
    assert found.train[6]["image"] == whole.train[6]["image"]
    assert found.train.name(7) == f"{photos}/more/002.png" and found.train.name(0) == whole.train.name(0)
    assert found.train[7]["image"] == (photos / "more" / "002.png").read_bytes()
    assert found.fingerprint != whole.fingerprint
    assert found.fingerprint == add_labelled_files(whole, listed).fingerprint
    other = write_list(photos, "file,label", f"{photos}/more/002.png,ant", f"{photos}/more/000.png,ant", name="b.csv")
    assert found.fingerprint != add_labelled_files(whole, other).fingerprint, "labels count"
    assert pickle.loads(pickle.dumps(found.train)).name(8) == f"{photos}/more/000.png", "workers get it"


def test_a_data_set_in_memory_gets_pixels(photos):
    whole = open_dataset(f"folder:{photos}/photos", cache=True)
    found = add_labelled_files(whole, write_list(photos, "label,file", f"bee,{photos}/more/001.png"))
    assert found.in_memory and found.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    np.testing.assert_array_equal(found.train.images[7], decode((photos / "more" / "001.png").read_bytes(), 3))
    np.testing.assert_array_equal(found.train.images[:7], whole.train.images)


def test_an_unreadable_file_is_left_out_of_memory_and_named(photos):
    (photos / "more" / "001.png").write_bytes(b"no picture")
    listed = write_list(photos, "file,label", *(f"{photos}/more/00{i}.png,ant" for i in range(3)))
    found = add_labelled_files(open_dataset(f"folder:{photos}/photos", cache=True), listed)
    assert len(found.train) == 9 and [name for name, _ in found.train.dropped] == [f"{photos}/more/001.png"]


def test_relative_names_start_from_the_working_folder(photos, monkeypatch):
    monkeypatch.chdir(photos)
    found = add_labelled_files(open_dataset("folder:photos"), write_list(photos, "file,label", "more/000.png,bee"))
    assert found.train.name(7) == f"{photos}/more/000.png"


@pytest.mark.parametrize("lines, message", [
    (["file,label"], "needs the columns file and label and at least one row"),
    ([""], "needs the columns file and label and at least one row"),
    (["picture,label", "x.png,ant"], "needs the columns file and label"),
    (["file,label", "{more}/000.png,wasp"], "labels that the data set does not know: wasp"),
    (["file,label", "{more}/000.png"], "labels that the data set does not know: None"),
    (["label,file", "ant"], "names 1 files that are not there"),
    (["file,label", "{more}/000.png,ant", "{more}/gone.png,ant"], "1 files that are not there, such as"),
    (["file,label", "{more},ant"], "1 files that are not there"),
])
def test_a_list_that_does_not_fit_is_one_line(photos, lines, message):
    listed = write_list(photos, *(line.format(more=photos / "more") for line in lines))
    with pytest.raises(DataError, match=message) as error:
        add_labelled_files(open_dataset(f"folder:{photos}/photos"), listed)
    assert listed in str(error.value) and "\n" not in str(error.value)


def test_a_list_that_cannot_be_read_is_one_line(photos):
    whole = open_dataset(f"folder:{photos}/photos")
    (photos / "binary.csv").write_bytes(b"\xff\xfe\x00")
    unreadable, no_list = "is not a readable list of files and labels", "a list needs the columns file and label"
    for name, message in (("missing.csv", unreadable), ("", unreadable), ("binary.csv", no_list)):
        with pytest.raises(DataError, match=message) as error:
            add_labelled_files(whole, str(photos / name))
        assert "\n" not in str(error.value)


def test_images_of_another_size_do_not_join_arrays(photos):
    (photos / "more" / "000.png").write_bytes(encode(np.zeros((5, 6, 3), np.uint8)))
    with pytest.raises(DataError, match=r"its images are \(5, 6, 3\), the data set's are \(12, 12, 3\)"):
        add_labelled_files(open_dataset(f"folder:{photos}/photos", cache=True),
                           write_list(photos, "file,label", f"{photos}/more/000.png,ant"))


def test_a_data_set_without_classes_takes_no_labels(photos):
    write_folder(photos, {"plain": 5})
    with pytest.raises(DataError, match="labels that the data set does not know: ant"):
        add_labelled_files(open_dataset(f"folder:{photos}/plain"),
                           write_list(photos, "file,label", f"{photos}/more/000.png,ant"))
