"""Images in tar files: what is found in them, and that the very bytes come back."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest

from cvjax.data import BadFiles, DataError, RandomResizedCrop, open_dataset, train_batches
from cvjax.data.decode import decode
from tests.data.pictures import encode, write_folder


def picture(number: int) -> bytes:
    return encode(np.full((6, 8, 3), 10 * (number % 25), np.uint8))


def write_tar(path, members: dict, mode: str = "w"):
    """A tar file of members name -> bytes, in this order."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def webdataset(numbers, label=lambda number: number % 3, extension="cls") -> dict:
    """Examples as WebDataset writes them: an image, and its label in a file of its own."""
    made = {}
    for n in numbers:
        text = str(label(n)) if extension == "cls" else json.dumps({"label": label(n), "caption": "a picture"})
        made |= {f"{n:04}.png": picture(n), f"{n:04}.{extension}": text.encode()}
    return made


def shades(source) -> list[int]:
    return [int(decode(source[i]["image"], 3)[0, 0, 0]) // 10 for i in range(len(source))]


@pytest.mark.parametrize("extension", ["cls", "json"])
def test_examples_of_several_files_with_labels_as_numbers(tmp_path, extension):
    write_tar(tmp_path / "train-000001.tar", webdataset(range(5, 9), extension=extension))
    write_tar(tmp_path / "train-000000.tar", webdataset(range(5), extension=extension) | {"0000.txt": b"a caption"})
    write_tar(tmp_path / "val-000000.tar", webdataset([4, 2], extension=extension))
    write_tar(tmp_path / "more.tar", webdataset([9]))
    dataset = open_dataset(f"tar:{tmp_path}")
    assert shades(dataset.train) == list(range(9)) and shades(dataset.test) == [4, 2]
    assert dataset.train.labels.tolist() == [n % 3 for n in range(9)] and dataset.test.labels.tolist() == [1, 2]
    assert dataset.train[7] == {"image": picture(7), "label": 1, "index": 7}
    assert dataset.train.name(7) == f"{tmp_path / 'train-000001.tar'}: 0007.png"
    assert dataset.class_names == ("0", "1", "2") and dataset.channels == 3
    assert dataset.ignored == "1 .txt members, 1 other tar files"
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n")
    assert open_dataset(f"tar:{tmp_path}").class_names == ("cat", "dog", "owl")


def test_a_label_may_come_before_its_image_and_a_name_may_have_dots(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"./x.cls": b"1", "./x.left.PNG": picture(3), "./x.right.png": picture(4),
                                          "./y.png": picture(5), "./y.json": b"{}", "./y.cls": b" 0\n",
                                          "./z.png": picture(6), "./z.cls": b"0", "./.hidden.png": picture(7)})
    source = open_dataset(f"tar:{path}", seed=1)
    both = [(shade, label) for part in (source.train, source.test) for shade, label in zip(shades(part), part.labels)]
    assert sorted(both) == [(3, 1), (4, 1), (5, 0), (6, 0)]
    assert source.ignored == "1 hidden or linked members"


def test_a_folder_in_a_tar_file_is_that_folder(tmp_path):
    write_folder(tmp_path / "photos", {"train/cat": 6, "train/dog": 5, "test/cat": 2, "test/dog": 3})
    for part in ("train", "test"):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as archive:
            archive.add(tmp_path / "photos" / part, part)
    folder, tar = open_dataset(f"folder:{tmp_path / 'photos'}"), open_dataset(f"tar:{tmp_path}")
    assert tar.class_names == folder.class_names == ("cat", "dog")
    for ours, theirs in ((tar.train, folder.train), (tar.test, folder.test)):
        found, wanted = ({(r["image"], r["label"]) for r in map(s.__getitem__, range(len(s)))} for s in (ours, theirs))
        assert found == wanted
    alone = open_dataset(f"tar:{tmp_path / 'train.tar'}")  # a fifth is held out
    assert (len(alone.train), len(alone.test), alone.class_names) == (9, 2, ("cat", "dog"))


def test_one_folder_is_no_class(tmp_path):
    path = write_tar(tmp_path / "a.tar", {f"images/{n}.png": picture(n) for n in range(5)})
    dataset = open_dataset(f"tar:{path}")
    assert dataset.class_names == () and (dataset.train.labels == -1).all()


def test_parts_pickle_and_are_told_apart(tmp_path):
    source = open_dataset(f"tar:{write_tar(tmp_path / 'a.tar', webdataset(range(20)))}").train
    part = source.take(np.array([3, 1]))
    again = pickle.loads(pickle.dumps(part))
    assert shades(again) == [shades(source)[3], shades(source)[1]] and again.fingerprint == part.fingerprint
    assert len({source.fingerprint, part.fingerprint, source.take(np.array([1, 3])).fingerprint}) == 3
    cached = open_dataset(f"tar:{tmp_path / 'a.tar'}", cache=True).train
    np.testing.assert_array_equal(cached.images[:, 0, 0, 0] // 10, shades(source))


def test_batches_of_a_tar_file_and_a_damaged_image_in_it(tmp_path):
    spoilt = webdataset(range(20)) | {"0003.png": b"no picture"}
    source = open_dataset(f"tar:{write_tar(tmp_path / 'a.tar', spoilt)}").train
    stream = train_batches(source, RandomResizedCrop(4), batch_size=len(source), seed=0, bad=BadFiles(20, 0.1))
    batch = next(stream)
    stream.close()
    np.testing.assert_array_equal(batch["label"], source.labels[batch["index"]])
    broken = [i for i, name in enumerate(source.files) if name == "0003.png"]
    assert stream.bad.count == len(broken) and not set(broken) & set(batch["index"])


@pytest.mark.parametrize("members, words", [
    ({"a.txt": b"x"}, "no images .* found 1 .txt members"),
    (webdataset(range(3)) | {"9.png": picture(1)}, "1 of 4 images in .*a.tar have no label, such as 9.png"),
    (webdataset(range(3)) | {"0001.cls": b"cat"}, "0001.cls must hold a label, a number from 0 on; it holds b'cat'"),
    (webdataset(range(3), label=lambda n: -n), "it holds b'-1'"),
    (webdataset(range(3), label=lambda n: 0.5, extension="json"), "0000.json must hold a label"),
    (webdataset(range(3)) | {"0001.json": b"[1]"}, "0001.json must hold a label"),
])
def test_what_cannot_be_read_is_one_line(tmp_path, members, words):
    with pytest.raises(DataError, match=words) as caught:
        open_dataset(f"tar:{write_tar(tmp_path / 'a.tar', members)}")
    assert "\n" not in str(caught.value)


def test_files_that_are_none_or_do_not_fit(tmp_path):
    def refuse(words, place=tmp_path):
        with pytest.raises(DataError, match=words):
            open_dataset(f"tar:{place}")

    refuse("no such file or folder", tmp_path / "missing")
    refuse("no .tar files in")
    write_tar(tmp_path / "val.tar", webdataset(range(3)))
    (tmp_path / "more.tar").write_bytes(b"")
    refuse("has val.tar but no file that begins with train")
    write_tar(tmp_path / "train.tar", webdataset(range(3)), mode="w:gz")
    refuse("train.tar cannot be read as a tar file that is not compressed")
    write_tar(tmp_path / "train.tar", webdataset(range(30)))
    whole = (tmp_path / "train.tar").read_bytes()
    for length in (0, 1000, 512 * 60, 512 * 60 + 100, 512 * 61, 512 * 61 + 30):  # in headers, in data and between
        (tmp_path / "train.tar").write_bytes(whole[:length])
        refuse("train.tar cannot be read as a tar file that is not compressed: ")
    write_tar(tmp_path / "train.tar", {"cat/1.png": picture(1), "dog/1.png": picture(2)})
    refuse("one of training and test files has labels as numbers, and the other has not")
    write_tar(tmp_path / "val.tar", {"cat/1.png": picture(1), "owl/1.png": picture(2)})
    refuse("the test part has classes that train has not: owl$")
    write_tar(tmp_path / "train.tar", webdataset(range(3)))
    write_tar(tmp_path / "val.tar", webdataset(range(4), label=int))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    refuse("classes.txt names 2 classes, the labels need 4")
