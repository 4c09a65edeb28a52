"""Some hundred odd files through every door: each is read as Pillow reads it, or is a bad file that is named."""

import io
import json
import os
import socket
import tarfile
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from cvjax.data.bad_files import BadFiles
from cvjax.data.boxes import open_detection
from cvjax.data.crops import EvaluationCrop, RandomResizedCrop
from cvjax.data.decode import DecodeError, LazyImage, decode
from cvjax.data.label_maps import open_segmentation
from cvjax.data.label_maps.files import LabelledPhotos
from cvjax.data.picture import picture_of
from cvjax.data.pipeline import Stream, TrainBatches, eval_batches
from cvjax.data.sources import open_dataset
from cvjax.data.sources.packing import write_pack
from cvjax.errors import DataError
from tests.data.detection_folders import annotation
from tests.data.odd_files import Odd, odd_files
from tests.data.pictures import encode, gradient, photo, write_folder

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of what is odd

ODD = odd_files()
NAMES = {odd.name: odd for odd in ODD}


def test_there_are_enough_of_them_and_of_both_kinds():
    good = [odd for odd in ODD if odd.pixels is not None]
    assert len(ODD) == len(NAMES) > 350 and 150 < len(good) < len(ODD) - 150


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_a_file_is_read_as_pillow_reads_it_or_refused(odd):
    for read in (decode, lambda content: LazyImage(content, 3).pixels()):
        try:
            pixels = read(odd.content)
        except DecodeError as error:
            assert odd.pixels is None and str(error) and "\n" not in str(error)
        else:
            assert odd.pixels is not None, odd.name
            np.testing.assert_array_equal(pixels, odd.pixels)


def seen(image, rng=None, boxes=None, label_map=None, **_):
    """What a record shows, in numbers: height, width and checksum of its pixels, and of its annotation."""
    pixels = decode(image)
    noted = boxes if boxes is not None else label_map
    facts = [*pixels.shape[:2], zlib.crc32(pixels.tobytes()), 0 if noted is None else zlib.crc32(noted.tobytes())]
    return {"seen": np.array(facts, np.int64)}


def check(sources, annotated=None, files=ODD, where=lambda name: name):
    """Every odd file comes out of the sources right, or is among the bad files by its name, and nothing else is."""
    bad, right = BadFiles(len(files), 1.0), {}
    for source in sources:
        for batch in eval_batches(source, seen, batch_size=32, bad=bad):
            for index, facts in zip(batch["index"][batch["mask"]], batch["seen"][batch["mask"]]):
                right[where(source.name(int(index)))] = facts.tolist()
    expected = {odd.name for odd in files if odd.pixels is None}
    assert {where(name) for name in bad.reasons} == expected and all(bad.reasons.values())
    assert right.keys() == {odd.name for odd in files} - expected
    for name, facts in right.items():
        pixels = NAMES[name].pixels
        noted = 0 if annotated is None else zlib.crc32(annotated(pixels).tobytes())
        assert facts == [*pixels.shape[:2], zlib.crc32(pixels.tobytes()), noted], name


def stem(name) -> str:
    """The case's name of a path."""
    return os.path.basename(name).removesuffix(".jpg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd")
    (root / "photos").mkdir()
    for odd in ODD:
        (root / "photos" / f"{odd.name}.jpg").write_bytes(odd.content)  # whatever they are
    return root


def test_a_folder(folder):
    data = open_dataset(f"folder:{folder}/photos")
    check([data.train, data.test], where=stem)


def test_a_tar_file(folder):
    with tarfile.open(folder / "photos.tar", "w") as archive:
        archive.add(folder / "photos", "photos")
    data = open_dataset(f"tar:{folder}/photos.tar")
    check([data.train, data.test], where=lambda name: stem(name.split(": ")[1]))


def test_a_pack(folder):
    manifest = write_pack(f"{folder}/photos", folder / "pack", limit_fraction=1.0)
    bad = {stem(line.split("\t")[0]) for line in (folder / "pack/bad_files.txt").read_text().splitlines()}
    # A pack keeps all TIFFs: their pages may be channels.
    kept = [odd for odd in ODD if odd.name not in bad]
    assert {odd.name for odd in kept if odd.pixels is None} <= {"TIFF-frames", "TIFF-F"}
    assert not {odd.name for odd in ODD if odd.pixels is not None} & bad and manifest["unreadable"] == len(bad)
    data = open_dataset(f"packed:{folder}/pack")
    check([data.train, data.test], files=kept, where=lambda name: stem(name.split(": ")[1]))


def whole(pixels) -> np.ndarray:
    """A box around a picture."""
    return np.array([[0, 0, pixels.shape[1], pixels.shape[0]]], np.float32)


def test_boxes_of_voc(folder, tmp_path):
    for name in ("Annotations", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "JPEGImages").symlink_to(folder / "photos")
    files = [odd for odd in ODD if odd.pixels is None or min(odd.pixels.shape[:2]) > 1]  # one pixel is no box there
    for odd in files:
        height, width = (5, 5) if odd.pixels is None else odd.pixels.shape[:2]
        (tmp_path / f"Annotations/{odd.name}.xml").write_text(annotation([("a", (1, 1, width, height))],
                                                                         (height, width)))
    (tmp_path / "ImageSets/Main/train.txt").write_text("".join(f"{odd.name}\n" for odd in files))
    (tmp_path / "ImageSets/Main/test.txt").write_text("JPEG-RGB\n")
    check([open_detection(f"voc:{tmp_path}").train], whole, files, stem)


def test_boxes_of_coco(folder, tmp_path):
    (tmp_path / "images").symlink_to(folder / "photos")
    images, boxes = [], []
    for number, odd in enumerate(ODD):
        height, width = (5, 5) if odd.pixels is None else odd.pixels.shape[:2]
        images.append({"id": number, "file_name": f"{odd.name}.jpg", "height": height, "width": width})
        boxes.append({"image_id": number, "category_id": 1, "bbox": [0, 0, width, height]})
    (tmp_path / "instances_train.json").write_text(json.dumps(
        {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}))
    data = open_detection(f"coco:{tmp_path}")
    check([data.train, data.test], whole, where=stem)


def halves(pixels) -> np.ndarray:
    """A label map for a picture."""
    labels = np.zeros(pixels.shape[:2], np.uint8)
    labels[:, pixels.shape[1] // 2:] = 1
    return labels


def test_pictures_with_label_maps(folder, tmp_path):
    (tmp_path / "images").symlink_to(folder / "photos")
    (tmp_path / "labels").mkdir()
    for odd in ODD:
        pixels = np.zeros((5, 5, 3)) if odd.pixels is None else odd.pixels
        (tmp_path / f"labels/{odd.name}.png").write_bytes(encode(halves(pixels)))
    data = open_segmentation(f"folder:{tmp_path}")
    check([data.train, data.test], halves, where=stem)


def numbers(odd: Odd) -> np.ndarray | None:
    """The label map that an odd file is; None if it is none."""
    if odd.pixels is None or not odd.content.startswith(b"\x89PNG"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(odd.content))
        values = np.asarray(image).astype(int)
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        return None
    return values if values.max() < 256 else None


def test_odd_files_as_label_maps(folder):
    with_numbers = {odd.name: found for odd in ODD if (found := numbers(odd)) is not None}
    assert len(with_numbers) > 8
    names = tuple((f"photos/{odd.name}.jpg", f"photos/{odd.name}.jpg") for odd in ODD)
    source = LabelledPhotos(str(folder), names, np.zeros((len(ODD), 2), np.int64))
    for index, odd in enumerate(ODD):
        try:
            labels = source[index]["label_map"]
        except DecodeError as error:
            assert odd.name not in with_numbers or "-turned-" in odd.name, error
        else:
            if "-turned-" not in odd.name:
                np.testing.assert_array_equal(labels, with_numbers.pop(odd.name))


def test_a_single_picture_for_a_trained_model(folder):
    for odd in ODD:
        content = picture_of(folder / "photos" / f"{odd.name}.jpg")
        assert content == odd.content


def test_every_crop_of_a_picture_of_one_row_or_column_is_small():
    for height, width in ((1, 60_000), (60_000, 1), (1, 1)):
        for crop in (EvaluationCrop(32), RandomResizedCrop(32)):
            assert crop(encode(photo(height, width)), np.random.default_rng(0)).shape == (32, 32, 3)


@pytest.fixture
def strange(tmp_path):
    """A folder with three pictures and everything that a folder can hold besides; the names that must be counted."""
    root = tmp_path / "photos"
    write_folder(tmp_path, {"photos": 3})
    (root / "folder.jpg").mkdir()
    (root / "broken.jpg").symlink_to("nothing")
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "zero.jpg").symlink_to("/dev/zero")
    (root / "tty.jpg").symlink_to("/dev/tty")
    os.mkfifo(root / "fifo.jpg")
    here = os.open(".", os.O_RDONLY)
    os.chdir(root)  # a socket's whole path is perhaps too long
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket.jpg")
    os.fchdir(here)
    os.close(here)
    yield root
    listening.close()


@pytest.mark.timeout(20)
def test_what_is_no_file_is_counted_and_named_and_not_waited_for(strange):
    ignored = open_dataset(f"folder:{strange}").ignored
    assert "2 broken links (broken.jpg, loop.jpg)" in ignored
    assert "4 FIFOs, sockets and devices (fifo.jpg, socket.jpg, tty.jpg, and 1 more)" in ignored
    assert "1 folders without images (folder.jpg)" in ignored


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name, reason", [
    ("fifo.jpg", "is a FIFO, not a file"), ("socket.jpg", "is a socket, not a file"), ("zero.jpg", "is a device"),
    ("folder.jpg", "is a folder"), ("loop.jpg", "Too many levels"), ("broken.jpg", "No such file")])
def test_names_in_lists_that_lead_to_no_file_are_bad_files(strange, tmp_path, name, reason):
    """Lists name their files, so these are asked for by name: they are bad, or are not there."""
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "JPEGImages").symlink_to(strange)
    chosen = ["000", "001", "002", name.removesuffix(".jpg")]
    for each in chosen:
        (tmp_path / f"Annotations/{each}.xml").write_text(annotation([("a", (1, 1, 9, 9))], (12, 12)))
    (tmp_path / "ImageSets/Main/train.txt").write_text("\n".join(chosen))
    (tmp_path / "ImageSets/Main/test.txt").write_text("000\n")
    data = open_detection(f"voc:{tmp_path}")
    bad = BadFiles(4, 0.5)
    list(eval_batches(data.train, seen, batch_size=4, bad=bad))
    ((path, why),) = bad.reasons.items()
    assert path.endswith(f"JPEGImages/{name}") and reason in why
    with pytest.raises(OSError, match=reason):
        picture_of(strange / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_that_must_not_be_read_is_a_bad_file(tmp_path):
    write_folder(tmp_path, {"photos": 4})
    for path in (tmp_path / "photos").iterdir():
        path.chmod(0)
    source, bad = open_dataset(f"folder:{tmp_path}/photos").train, BadFiles(4, 1)
    list(eval_batches(source, seen, batch_size=4, bad=bad))
    assert bad.count == len(source) and all("Permission denied" in reason for reason in bad.reasons.values())


STRANGE = ("a\nb", "\x1b[2J\x1b[31mred", "<script>alert(1)</script>".replace("/", "\u2215"), "caf\udce9", "\u202egpj",
           "$x$", "%s", "-rf", "a\tb", "'\"", "x" * 240)


def test_names_of_any_kind_are_read_and_bad_ones_are_named_on_one_line(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for number, name in enumerate(STRANGE):
        (root / f"{name}.jpg").write_bytes(encode(gradient(9, 9 + number), "JPEG"))
        (root / f"bad {name}.jpg").write_bytes(b"<html>")
    data, bad = open_dataset(f"folder:{root}"), BadFiles(2 * len(STRANGE), 1, tmp_path / "bad_files.txt")
    widths = []
    for source in (data.train, data.test):
        for batch in eval_batches(source, seen, batch_size=4, bad=bad):
            widths += batch["seen"][batch["mask"], 1].tolist()
    assert sorted(widths) == list(range(9, 9 + len(STRANGE)))
    lines = (tmp_path / "bad_files.txt").read_text().splitlines()  # UTF-8, and one a line
    assert len(lines) == len(STRANGE) and all(line.count("\t") == 1 for line in lines)
    assert f"{root}/bad a\\nb.jpg" in bad.reasons and f"{root}/bad \\x1b[2J\\x1b[31mred.jpg" in bad.reasons
    assert f"{root}/bad caf\\xe9.jpg" in bad.reasons and f"{root}/bad \\u202egpj.jpg" in bad.reasons
    write_pack(str(root), tmp_path / "pack", limit_fraction=1)
    packed = open_dataset(f"packed:{tmp_path}/pack")
    assert {packed.train.name(i).partition(": ")[2] for i in range(len(packed.train))} <= {
        f"{name}.jpg" for name in STRANGE}


def test_files_that_vanish_or_change_while_they_are_read_are_bad_files(tmp_path):
    write_folder(tmp_path, {"photos": 40})
    source = open_dataset(f"folder:{tmp_path}/photos").train
    stream = TrainBatches(source, RandomResizedCrop(8), Stream(8, seed=0, threads=2), BadFiles(40, 0.5))
    next(stream)
    gone = [source.name(i) for i in (1, 5, 9)]
    os.unlink(gone[0])
    os.unlink(gone[1])
    os.mkfifo(gone[1])
    os.unlink(gone[2])
    os.symlink("/dev/zero", gone[2])
    for _ in range(8):
        next(stream)
    stream.close()
    reasons = stream.bad.reasons
    assert sorted(reasons) == sorted(gone)
    assert "No such file" in reasons[gone[0]] and "is a FIFO" in reasons[gone[1]] and "a device" in reasons[gone[2]]
    with pytest.raises(DataError, match="0 may be by --data-max-bad 0: .*No such file"):
        list(eval_batches(source, seen, batch_size=8, bad=BadFiles(40, 0)))
