"""Images in tar files: what is found in them, and that the very bytes come back."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest

from cvjax.data.bad_files import BadFiles
from cvjax.data.crops import RandomResizedCrop
from cvjax.data.decode import decode
from cvjax.data.pipeline import Stream, TrainBatches
from cvjax.data.sources import open_dataset, tar
from cvjax.errors import DataError
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
    assert dataset.ignored == "1 tar files whose name says no part (more.tar); 1 .txt members (0000.txt)"
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n")
    assert open_dataset(f"tar:{tmp_path}").class_names == ("cat", "dog", "owl")


def test_a_label_may_come_before_its_image_and_a_name_may_have_dots(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"./x.a.cls": b"1", "./x.a.PNG": picture(3), "./x.b.png": picture(4),
                                          "./x.b.cls": b"1",
                                          "./y.png": picture(5), "./y.json": b"{}", "./y.cls": b" 0\n",
                                          "./z.png": picture(6), "./z.cls": b"0", "./.hidden.png": picture(7)})
    source = open_dataset(f"tar:{path}", seed=1)
    both = [(shade, label) for part in (source.train, source.test) for shade, label in zip(shades(part), part.labels)]
    assert sorted(both) == [(3, 1), (4, 1), (5, 0), (6, 0)]
    assert source.ignored == "1 hidden or linked members (.hidden.png)"


def labelled(source) -> list[tuple[int, int]]:
    """(shade, label) of all records, both parts together."""
    return sorted((shade, int(label)) for part in (source.train, source.test)
                  for shade, label in zip(shades(part), part.labels))


def test_keys_with_dots_that_have_no_picture_of_their_own(tmp_path):
    members = {}
    for i in range(10):
        members |= {f"img.{i}.jpg": picture(i), f"img.{i}.cls": b"%d" % (i % 2)}
    assert labelled(open_dataset(f"tar:{write_tar(tmp_path / 'a.tar', members)}")) == [(i, i % 2) for i in range(10)]
    plain = {f"{name}/photo.2024.{i}.png": picture(i) for i in range(4) for name in ("cat", "dog")}
    data = open_dataset(f"tar:{write_tar(tmp_path / 'b.tar', plain)}")
    assert data.class_names == ("cat", "dog") and len(data.train) + len(data.test) == 8 and data.ignored == ""


def test_masks_are_other_fields_and_no_photos(tmp_path):
    members = {}
    for i in range(10):
        members |= {f"{i}.seg.png": picture(20), f"{i}.jpg": picture(i), f"{i}.cls": b"%d" % (i % 2),
                    f"{i}.meta.json": b'{"label": "none"}'}
    data = open_dataset(f"tar:{write_tar(tmp_path / 'a.tar', members)}")
    assert labelled(data) == [(i, i % 2) for i in range(10)]
    some = "0.{0}, 1.{0}, 2.{0}, and 7 more"
    assert data.ignored == (f"10 pictures in other fields of a key that has one of its own ({some.format('seg.png')}); "
                            f"10 .json members ({some.format('meta.json')})")


def test_a_label_without_a_picture_and_members_about_the_file_are_named(tmp_path):
    more = {"7.cls": b"1", "8.cls": b"cat", "__meta__/9.png": picture(9)}
    data = open_dataset(f"tar:{write_tar(tmp_path / 'a.tar', webdataset(range(6)) | more)}")
    assert len(labelled(data)) == 6
    assert data.ignored == ("1 members about the tar file itself (__meta__/9.png); 2 labels without a picture (7.cls, "
                            "8.cls)")


def test_a_named_field_is_the_label_or_the_picture(tmp_path):
    members = {}
    for i in range(6):
        members |= {f"{i}.left.png": picture(i), f"{i}.Right.png": picture(i + 6), f"{i}.cls": b"7",
                    f"{i}.json": json.dumps({"label": "a word", "class_id": i % 3}).encode()}
    path = write_tar(tmp_path / "a.tar", members)
    data = open_dataset(f"tar:{path}#label=class_id&image=RIGHT.png")
    assert labelled(data) == [(i + 6, i % 3) for i in range(6)]
    assert data.ignored.startswith("6 .png members (0.left.png, ") and "6 .cls members (0.cls, " in data.ignored
    for fields, words in (("#label=class&image=left.png", "0.json must hold a label in its field class, a number from"),
                          ("", "each key has the pictures left.png and right.png, and none is the key's own; name the"),
                          ("#labels=class_id", "after # there may be image=FIELD and label=FIELD"),
                          ("#label", "after # there may be image=FIELD and label=FIELD"),
                          ("#label=", "a field is named after =, got none")):
        with pytest.raises(DataError, match=words):
            open_dataset(f"tar:{path}{fields}")


@pytest.mark.parametrize("members, words", [
    ([("0.jpg", picture(1)), ("0.png", picture(2)), ("0.cls", b"1")], "the key 0 has two pictures, 0.jpg and 0.png"),
    ([("0.jpg", picture(1)), ("./0.jpg", picture(2)), ("0.cls", b"1")], "the key 0 has two pictures, 0.jpg and 0.jpg"),
    ([("0.jpg", picture(1)), ("0.JPG", picture(2))], "the key 0 has two pictures, 0.jpg and 0.JPG"),
    ([("a/x.l.png", picture(1)), ("a/x.r.png", picture(2)), ("a/x.cls", b"1")],
     "the key a/x has two pictures, a/x.l.png and a/x.r.png, and one label; name the pictures' field"),
    ([("0.jpg", picture(1)), ("0.cls", b"1"), ("0.json", b'{"label": 2}')],
     "the key 0 has two labels, 1 in 0.cls and 2 in 0.json"),
    ([("0.jpg", picture(1)), ("0.cls", b"1"), ("0.cls", b"1")], "the key 0 has two labels, 1 in 0.cls and 1 in 0.cls"),
])
def test_a_key_with_two_pictures_or_two_labels_is_named(tmp_path, members, words):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match=words):
        open_dataset(f"tar:{tmp_path / 'a.tar'}")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_headers_are_read_as_tarfile_reads_them(tmp_path, form):
    """And those that are not plain, of long names, links and the like, are left to it."""
    def both(members):
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w", format=form) as archive:
            for name, kind, content in members:
                member = tarfile.TarInfo(name)
                member.type, member.size, member.linkname = kind, len(content), "x" if kind == tarfile.SYMTYPE else ""
                archive.addfile(member, io.BytesIO(content))
        with open(path, "rb") as file, tarfile.open(path, encoding="utf-8") as archive:
            return tar.plain_headers(file, path.stat().st_size), list(tar.all_headers(archive, path.stat().st_size))

    file = tarfile.REGTYPE
    plain = [("a", tarfile.DIRTYPE, b""), ("a/0.jpg", file, b"x" * 700), ("a/0.cls", file, b"1"), ("b", file, b""),
             ("c", file, bytes(512)), ("n" * 90, file, b"y")]
    quick, slow = both(plain)
    assert quick == slow and len(slow) == 5
    for other in (("m" * 60 + "/" + "n" * 90, file, b"z"), ("link", tarfile.SYMTYPE, b"")):
        quick, slow = both([*plain, other])
        assert quick is None and len(slow) == 6
    both(plain)
    whole = (tmp_path / "a.tar").read_bytes()
    for place in (0, 150, 512 + 3, 512 + 124):  # bytes of the first two headers; their sums tell
        spoilt = bytearray(whole)
        spoilt[place] ^= 1
        assert tar.plain_headers(io.BytesIO(spoilt), len(spoilt)) is None, place
    for length in (0, 511, 512, 1030, 2000, 2048):
        assert tar.plain_headers(io.BytesIO(whole[:length]), length) is None, length


def test_a_folder_in_a_tar_file_is_that_folder(tmp_path):
    write_folder(tmp_path / "photos", {"train/cat": 6, "train/dog": 5, "test/cat": 2, "test/dog": 3})
    for part in ("train", "test"):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as archive:
            archive.add(tmp_path / "photos" / part, part)
    folder, packed = open_dataset(f"folder:{tmp_path / 'photos'}"), open_dataset(f"tar:{tmp_path}")
    assert packed.class_names == folder.class_names == ("cat", "dog")
    for ours, theirs in ((packed.train, folder.train), (packed.test, folder.test)):
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
    stream = TrainBatches(source, RandomResizedCrop(4), Stream(len(source), seed=0), BadFiles(20, 0.1))
    batch = next(stream)
    stream.close()
    np.testing.assert_array_equal(batch["label"], source.labels[batch["index"]])
    broken = [i for i, name in enumerate(source.files) if name == "0003.png"]
    assert stream.bad.count == len(broken) and not set(broken) & set(batch["index"])


@pytest.mark.parametrize("members, words", [
    ({"a.txt": b"x"}, "no images .* found 1 .txt members"),
    (webdataset(range(3)) | {"9.png": picture(1)}, "1 of 4 images in .*a.tar have no label, such as 9.png"),
    (webdataset(range(3)) | {"0001.cls": b"cat"},
     "0001.cls must hold a label, a number from 0 to 1,048,575; it holds b'cat'"),
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
    refuse("has val.tar but no file with train in its name")
    write_tar(tmp_path / "train.tar", webdataset(range(3)), mode="w:gz")
    refuse("train.tar cannot be read as a tar file that is not compressed")
    write_tar(tmp_path / "train.tar", webdataset(range(30)))
    whole = (tmp_path / "train.tar").read_bytes()
    for length in (0, 1000, 512 * 60, 512 * 60 + 100, 512 * 61, 512 * 61 + 30):  # in headers, in data and between
        (tmp_path / "train.tar").write_bytes(whole[:length])
        refuse("train.tar cannot be read as a tar file that is not compressed: ")
    write_tar(tmp_path / "train.tar", {"cat/1.png": picture(1), "dog/1.png": picture(2)})
    refuse("labels must be numbers in both the training and the test files, or in neither")
    write_tar(tmp_path / "val.tar", {"cat/1.png": picture(1), "owl/1.png": picture(2)})
    refuse("the val part has classes that are not in train: owl$")
    write_tar(tmp_path / "train.tar", webdataset(range(3)))
    write_tar(tmp_path / "val.tar", webdataset(range(4), label=int))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    refuse("classes.txt names 2 classes, the labels need 4")
