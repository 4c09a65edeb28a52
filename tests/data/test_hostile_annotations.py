"""Annotations that nobody writes by mistake, and those that many do: one line each, or counted, within seconds."""

import io
import json
import os
import re
import resource
import tarfile
import time
import zipfile

import numpy as np
import pytest

from cvjax.data.boxes import open_detection
from cvjax.data.boxes.outlines import box_of
from cvjax.data.label_maps import open_segmentation
from cvjax.data.sources import open_dataset
from cvjax.errors import DataError
from tests.data.detection_folders import CAT_AND_DOG, annotation, write_coco, write_voc
from tests.data.pictures import encode, write_folder


def short(value) -> str | None:
    """The start of a value; None for functions and files, which differ from process to process: by place and time."""
    return None if callable(value) or isinstance(value, bytes) else repr(value)[:40]


ONE = [[(1, (1, 1, 5, 5))]]


def refusal(reader, spec, **options) -> str:
    """The line by which a data set is refused within ten seconds and 200 MB."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError) as error:
        reader(spec, **options)
    assert time.monotonic() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert "\n" not in str(error.value)
    return str(error.value)


LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
BOX = annotation([("cat", (1, 1, 5, 5))], (15, 20))


@pytest.mark.parametrize("content, reason", [
    (f'<?xml version="1.0" encoding="klingon"?>{BOX}'.encode(), "klingon"),
    (f'<?xml version="1.0" encoding="utf-16"?>{BOX}'.encode(), "encoding"),
    (b"\xff" + BOX.encode(), "not well-formed"),
    (b"\0" * 100, "no element found|not well-formed"),
    (b"", "no element found"),
    (BOX.replace(">15<", ">inf<").encode(), "its height must be a number of pixels up to 67,108,864, got 'inf'"),
    (BOX.replace(">20<", ">1e30<").encode(), "its width must be a number of pixels up to 67,108,864, got '1e30'"),
    (BOX.replace(">20<", ">-1<").encode(), "its width must be"),
    (BOX.replace(">20<", ">nan<").encode(), "its width must be"),
    (BOX.replace(">20<", ">" + "9" * 5000 + "<").encode(), "its width must be"),
    (BOX.replace("<xmin>1", "<xmin>left").encode(), "could not convert"),
    (f'<!DOCTYPE a [<!ENTITY a0 "ha">{LAUGHS}]><annotation>&a9;</annotation>'.encode(), "declarations"),
    ((f'<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY a0 "ha">{LAUGHS}]>'
      '<annotation>&a9;</annotation>').encode("utf-16"), "declarations"),
    (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "declarations"),
    (b"<a>" * 200_000, "no element found"),
    (b" " * 2**22 + BOX.encode(), "has 4,194,[0-9]* bytes, the limit is 4,194,304"),
], ids=short)
def test_an_annotation_of_voc_that_cannot_be_read_is_named(tmp_path, content, reason):
    write_voc(tmp_path, {"a": CAT_AND_DOG, "b": CAT_AND_DOG}, {"train": ["a"], "test": ["b"]})
    (tmp_path / "Annotations/a.xml").write_bytes(content)
    line = refusal(open_detection, f"voc:{tmp_path}", max_bad=0)
    assert line.startswith("1 of 2 files cannot be read, 0 may be by --data-max-bad 0: a.xml (")
    assert re.search(reason, line), line


def test_numbers_of_voc_that_no_box_has_are_counted(tmp_path):
    objects = [("cat", (1, 1, 5, 5)), ("cat", ("inf", 1, 2, 2)), ("cat", ("nan", 1, 2, 2)), ("cat", (1, 1, "1e300", 9))]
    write_voc(tmp_path, {"a": objects, "b": CAT_AND_DOG}, {"train": ["a"], "test": ["b"]})
    data = open_detection(f"voc:{tmp_path}")
    assert "2 boxes that are not finite, left out (a)" in data.ignored and len(data.train[0]["boxes"]) == 2


def test_names_in_voc_s_lists_lead_nowhere_else(tmp_path):
    root = tmp_path / "voc"
    write_voc(root, {"a": CAT_AND_DOG, "b": CAT_AND_DOG}, {"train": ["a", "../../x", f"{tmp_path}/x"], "test": ["b"]})
    (tmp_path / "x.xml").write_text(BOX)
    (tmp_path / "x.jpg").write_bytes(encode(np.zeros((15, 20, 3), np.uint8)))
    ignored = open_detection(f"voc:{root}", max_bad=0.9).ignored
    assert ignored.startswith("2 unreadable annotations, whose pictures are left out: ../../x.xml (No such file")


@pytest.mark.parametrize("spoil, message", [
    (lambda root: (root / "classes.txt").write_bytes(b"cat\ncaf\xe9\n"), "classes.txt is not UTF-8: byte 0xe9 in line"),
    (lambda root: (root / "ImageSets/Main/train.txt").unlink() or os.mkfifo(root / "ImageSets/Main/train.txt"),
     "train.txt cannot be read: is a FIFO, not a file"),
    (lambda root: (root / "ImageSets/Main/train.txt").unlink() or (root / "ImageSets/Main/train.txt").mkdir(),
     "train.txt cannot be read: is a folder, not a file"),
    (lambda root: (root / "Annotations/a.xml").unlink() or os.mkfifo(root / "Annotations/a.xml"),
     r"a.xml \(is a FIFO, not a file\)"),
    (lambda root: (root / "Annotations/a.xml").unlink() or (root / "Annotations/a.xml").symlink_to("/dev/zero"),
     r"a.xml \(is a device, not a file\)"),
    (lambda root: (root / "Annotations/a.xml").unlink() or (root / "Annotations/a.xml").symlink_to("a.xml"),
     r"a.xml \(Too many levels of symbolic links\)")])
@pytest.mark.timeout(20)
def test_files_of_voc_that_are_none(tmp_path, spoil, message):
    write_voc(tmp_path, {"a": CAT_AND_DOG, "b": CAT_AND_DOG}, {"train": ["a"], "test": ["b"]})
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        open_detection(f"voc:{tmp_path}", max_bad=0)


def spoilt_coco(root, change) -> str:
    """A data set of two pictures, whose training file is what `change` makes of its JSON."""
    write_coco(root, {"train": ONE * 2, "val": ONE}, [(1, "cat")])
    file = root / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    changed = change(content)
    file.write_bytes(changed if isinstance(changed, bytes) else json.dumps(content).encode())
    return f"coco:{root}"


def set_in(*path_and_value):
    *path, last, value = path_and_value

    def change(content):
        for key in path:
            content = content[key]
        content[last] = value

    return change


@pytest.mark.parametrize("change, message", [
    (lambda content: b"[" * 100_000, "instances_train.json is not readable JSON: maximum recursion depth"),
    (lambda content: b'{"images":' + b"9" * 10_000 + b"}", "is not readable JSON: Exceeds the limit"),
    (lambda content: b"\xff\xfe", "instances_train.json is not readable JSON"),
    (lambda content: b"[]", "has no list 'images'"),
    (set_in("images", 0, "id", [1]), r"images\[0\] must have a number or a word as id, got '\[1\]'"),
    (set_in("images", 0, "id", None), r"images\[0\] must have a number or a word as id, got 'None'"),
    (set_in("annotations", 1, "image_id", {"a": 1}), r"annotations\[1\] must have a number or a word as image_id"),
    (set_in("annotations", 1, "category_id", [2]), r"annotations\[1\] must have a number or a word as category_id"),
    (set_in("categories", 0, "name", ["cat"]), r"categories\[0\] must have a number or a word as name"),
    (set_in("images", 1, "id", 1000), r"images\[0\] and images\[1\] have the same id, 1000"),
    (lambda content: content["categories"].append({"id": 1, "name": "dog"}),
     r"categories\[0\] and categories\[1\] have the same id, 1"),
    (set_in("images", 0, "height", "abc"), r"images\[0\]: its height must be a number of pixels up to .*, got 'abc'"),
    (set_in("images", 0, "width", 2**70), r"images\[0\]: its width must be .* got '1180591620717411303424'"),
    (set_in("images", 0, "width", [3]), r"images\[0\]: its width must be .* got '\[3\]'"),
    (set_in("images", 0, "width", -3), r"images\[0\]: its width must be"),
    (set_in("images", 0, "file_name", "a\0b.png"), r"images\[0\]: the name 'a\\x00b.png' leads out of the folder, or"),
    (set_in("images", 0, "file_name", "/etc/passwd"), r"images\[0\]: the name '/etc/passwd' leads out"),
    (set_in("images", 0, "file_name", "../val/val_0.png"), r"images\[0\]: the name '../val/val_0.png' leads out"),
    (set_in("images", 0, "file_name", "a\\..\\..\\b.png"), r"leads out"),
    (set_in("images", 0, "file_name", "C:\\b.png"), r"leads out"),
    (set_in("images", 0, "file_name", ""), r"leads out of the folder, or to no file"),
    (set_in("images", 0, "file_name", ["a"]), r"must have a number or a word as file_name"),
], ids=short)
def test_json_of_coco_that_cannot_be_meant_is_refused_by_its_place(tmp_path, change, message):
    line = refusal(open_detection, spoilt_coco(tmp_path, change))
    assert re.search(message, line) and "instances_train.json" in line, line


def test_names_that_are_longer_than_a_file_may_have_are_not_there(tmp_path):
    data = open_detection(spoilt_coco(tmp_path, set_in("images", 0, "file_name", "x" * 5000)))
    assert len(data.train) == 1 and [reason for _, reason in data.lost] == ["no such file"]


@pytest.mark.parametrize("form", ["labels", "tar", "folder"])
def test_a_link_to_itself_is_no_file(tmp_path, form):
    write_folder(tmp_path / "data", {"a": 4, "b": 4})
    write_members(tmp_path / "data/a.tar", {f"{n}.png": encode(np.full((4, 4, 3), n, np.uint8)) for n in range(4)})
    (tmp_path / "data/labels.csv").write_text("file,y\n" + "".join(f"a/00{n}.png,{n}.5\n" for n in range(4)))
    for name in ("loop", "loop.csv", "loop.tar", "loop.png"):
        (tmp_path / "data" / name).symlink_to(name)
    assert len(open_dataset(f"{form}:{tmp_path}/data").train) >= 3


@pytest.mark.parametrize("box", [[float("nan")] * 4, [1e400, 0, 1, 1], [10**400, 0, 1, 1], "abcd", [1, 2, 3], [[]] * 4,
                                 None, {}, [1, 2, 3, True, 5]], ids=short)
def test_boxes_of_coco_that_are_none_are_counted(tmp_path, box):
    data = open_detection(spoilt_coco(tmp_path, set_in("annotations", 0, "bbox", box)))
    assert "1 boxes that are not finite, left out (train_" in data.ignored


@pytest.mark.parametrize("field", ["area", "iscrowd", "id", "segmentation"])
@pytest.mark.parametrize("value", [10**400, [[[]]], {"a": 1}, "x" * 10**6, float("nan")], ids=short)
def test_other_fields_of_coco_hold_anything(tmp_path, field, value):
    data = open_detection(spoilt_coco(tmp_path, set_in("annotations", 0, field, value)))
    assert sum(len(data.train[i]["boxes"]) for i in range(2)) == 2
    assert len(data.ignored) < 300


@pytest.mark.parametrize("outline", [
    {"size": [2**31, 2**31], "counts": [0, 2**62]}, {"size": [2**31, 2**31], "counts": [2**62]},
    {"size": [2, 2], "counts": [-1, 5]}, {"size": [2, 2], "counts": [2**63, 2**63]}, {"size": [0, 5], "counts": [0]},
    {"size": [5, 5], "counts": "o" * 10**6}, {"size": [10**400, 1], "counts": [1]}, [[1e400] * 4], [["a", "b"]]],
                         ids=short)
def test_outlines_without_a_box(outline):
    start = time.monotonic()
    found = box_of(outline)
    assert time.monotonic() - start < 1 and not np.isfinite(found).all()


def test_the_box_around_runs_is_that_of_the_picture_that_they_fill():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 7, 2)
        picture = rng.random((height, width)) < rng.random()
        down = picture.T.ravel()
        ends = [0, *np.flatnonzero(np.diff(down)) + 1, down.size]
        counts = [*([0] if down[0] else []), *np.diff(ends).tolist()]
        found = box_of({"size": [int(height), int(width)], "counts": counts})
        rows, columns = np.flatnonzero(picture.any(1)), np.flatnonzero(picture.any(0))
        if not rows.size:
            assert np.isnan(found).all()
        else:
            assert found == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


@pytest.mark.parametrize("text, message", [
    ("file,label\n../secret.png,cat\n0.png,dog\n", "line 2: the name '../secret.png' leads out of the folder"),
    ("file,label\nx/../../secret.png,cat\n0.png,dog\n", "line 2: the name '../secret.png' leads out of the folder"),
    ("file,label\n/etc/passwd,cat\n0.png,dog\n", "line 2: the name '/etc/passwd' leads out of the folder"),
    ("file,label\na\0b.png,cat\n0.png,dog\n", "line 2: the name 'a.x00b.png' leads out|NUL"),
    ("file,label\n" + "x" * 200_000 + ",cat\n", "is not a readable list: field larger than field limit"),
    ("file,label\n\"0.png,cat\n", "is not a readable list: unexpected end of data"),
    ("file,label\n" + "x" * 5000 + ",cat\ny,dog\n", "none of the 2 files of the part train"),
    ("file,y\n0.png,1e400\n1.png,2\n", "1e400, which is no finite number"),
    ("file,y\n0.png," + "9" * 5000 + "\n1.png,2\n", "which is no finite number"),
], ids=short)
def test_lists_of_labels(tmp_path, text, message):
    root = tmp_path / "data"
    write_folder(root, {".": 2})
    for n in range(2):
        (root / f"00{n}.png").rename(root / f"{n}.png")
    (tmp_path / "secret.png").write_bytes(encode(np.zeros((9, 9, 3), np.uint8)))
    (root / "labels.csv").write_text(text)
    assert re.search(message, refusal(open_dataset, f"labels:{root}"))


def test_a_list_in_a_folder_names_files_beside_that_folder(tmp_path):
    write_folder(tmp_path, {"images": 4, "train": 0, "test": 0})
    (tmp_path / "train/labels.csv").write_text("file,y\n../images/000.png,1\n../images/001.png,2\n")
    (tmp_path / "test/labels.csv").write_text("file,y\n../images/002.png,1.5\n")
    assert len(open_dataset(f"labels:{tmp_path}").train) == 2
    assert "leads out of the folder" in refusal(open_dataset, f"labels:{tmp_path}/train/labels.csv")


def write_members(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("name, content", [
    ("0.json", b"[" * 100_000), ("0.json", b'{"label": ' + b"9" * 10_000 + b"}"), ("0.json", b'{"label": 1e999}'),
    ("0.json", b'{"label": NaN}'), ("0.json", b'{"label": true}'), ("0.json", b'{"label": [1]}'), ("0.json", b"\xff"),
    ("0.json", b'{"label": 1180591620717411303424}'), ("0.json", b'{"label": 2147483647}'), ("0.cls", b"9" * 10_000),
    ("0.cls", b"2147483647"), ("0.cls", b"-1"), ("0.cls", b"1.5"), ("0.cls", b""), ("0.cls", b"\0"),
    ("0.cls", b"1" + b" " * 2**24)], ids=short)
def test_labels_in_tar_files(tmp_path, name, content):
    write_members(tmp_path / "a.tar", {"0.png": encode(np.zeros((4, 4, 3), np.uint8)), name: content})
    assert f"a.tar: {name} " in (line := refusal(open_dataset, f"tar:{tmp_path}/a.tar")) and len(line) < 400


def header(name, size, kind=b"0", extra=b"") -> bytes:
    """A header of tar whose size is as given: digits or bytes."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136], block[156:157] = size, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + extra


@pytest.mark.parametrize("content", [
    header("a.png", b"\xff" * 8 + b"\xff\xff\xfe\0"),  # -512
    header("a.png", b"\xff" * 12, b"L") * 3,
    header("a.png", b"\x80" + b"\x7f" * 11),
    header("a.png", b"00000001000\0", b"L", b"x" * 512) * 3000,  # a name for a name for a name
    header("x", b"00004000000\0", b"x", b"1" * 2**20),
    header("x", b"00000001000\0", b"x", b"15 size=-1000000\n".ljust(512, b"\0")) + header("a.png", b"00000000000\0"),
    header("x", b"77777777777\0", b"x"), header("x", b"00000001000\0", b"S", b"\xff" * 512),
    b"\xff" * 5120, b"\0" * 100], ids=short)
@pytest.mark.timeout(30)
def test_headers_of_tar_that_lead_nowhere(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content.ljust(10240, b"\0"))
    assert "a.tar" in refusal(open_dataset, f"tar:{tmp_path}/a.tar")


def test_members_of_a_tar_file_are_written_nowhere_and_links_in_it_lead_nowhere(tmp_path):
    picture = encode(np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "secret.png").write_bytes(picture)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("../../up.png", "/root.png", "a/../../b.png", "plain.png"):
            member = tarfile.TarInfo(name)
            member.size = len(picture)
            archive.addfile(member, io.BytesIO(picture))
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "secret.png"
            archive.addfile(member)
    before = sorted(tmp_path.rglob("*"))
    data = open_dataset(f"tar:{tmp_path}/a.tar")
    assert len(data.train) + len(data.test) == 4 and "2 hidden or linked members" in data.ignored
    assert data.train[0]["image"] == picture and sorted(tmp_path.rglob("*")) == before


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def declared(shape, size=10, kind="|u1") -> bytes:
    """An .npz whose image array says that it has another shape than it holds."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(size)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", member)
    return buffer.getvalue()


IMAGES = np.zeros((6, 4, 4, 3), np.uint8)
WHOLE = npz(train_images=IMAGES, train_labels=np.arange(6) % 2)


@pytest.mark.parametrize("content", [
    b"", b"PK", WHOLE[:-30], WHOLE[:200], WHOLE[:100] + b"\xff" * 50 + WHOLE[150:], np.arange(3).tobytes(),
    npz(train_images=np.array([{}, []], object)), npz(train_images=IMAGES, train_labels=np.array(["a"] * 6, object)),
    npz(train_images=IMAGES, train_labels=np.arange(6) / 2), npz(train_images=IMAGES, train_labels=np.arange(6) * 1j),
    npz(train_images=IMAGES, train_labels=np.full(6, 2**31 - 1)),
    npz(train_images=IMAGES, train_labels=np.arange(6) - 1),
    npz(train_images=IMAGES, train_labels=np.arange(6).astype("m8[s]")), npz(train_images=IMAGES.astype("M8[s]")),
    npz(train_images=IMAGES.astype(complex)), npz(train_images=IMAGES.astype(str)), npz(train_images=IMAGES[:0]),
    npz(train_images=IMAGES.astype(np.float32), range=np.array([1j, 2])), npz(train_images=np.array(3)),
    npz(train_images=IMAGES.astype(np.float32), range=np.array([["a", "b"]])),
    declared((2**20, 2**20, 2**10, 3)), declared((2**62, 4, 4)), declared((-1, 4, 4)), declared((2**31, 4, 4, 3)),
    declared((4, 4, 4, 3), kind="|O"), declared((4, 4, 4, 3), kind="[" * 5000)], ids=short)
def test_arrays_that_are_none(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    assert "a.npz" in refusal(open_dataset, f"npz:{tmp_path}/a.npz")


def test_arrays_larger_than_the_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    (tmp_path / "a.npz").write_bytes(WHOLE)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 10, "SC_PHYS_PAGES": 40}.__getitem__)
    assert "a.npz holds 0.0 GiB of arrays, this machine has" in refusal(open_dataset, f"npz:{tmp_path}/a.npz")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("form", ["npz", "labels", "tar", "packed"])
def test_a_data_set_that_is_a_fifo(tmp_path, form):
    os.mkfifo(tmp_path / f"a.{form}")
    refusal(open_dataset, f"{form}:{tmp_path}/a.{form}")


@pytest.mark.timeout(20)
def test_lists_of_label_maps_that_are_none(tmp_path):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    os.mkfifo(tmp_path / "ImageSets/Segmentation/train.txt")
    assert "train.txt cannot be read: is a FIFO" in refusal(open_segmentation, f"voc:{tmp_path}")
    (tmp_path / "ImageSets/Segmentation/train.txt").unlink()
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("../a\n/etc/passwd\nb\n")
    for name in ("a", "b"):
        (tmp_path / f"JPEGImages/{name}.jpg").symlink_to("/dev/zero")
        (tmp_path / f"SegmentationClass/{name}.png").symlink_to("nothing")
    assert "none of 1 training label maps can be used" in refusal(open_segmentation, f"voc:{tmp_path}")
