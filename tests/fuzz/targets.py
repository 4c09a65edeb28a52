"""The parsers of our own, each as a function of bytes that must return or raise its documented error in one line.

A target has whole files to begin from, and words of its language. `spoilt` makes inputs of these by Hypothesis;
`python -m tests.fuzz --atheris` lets atheris do that, guided by the branches that are taken.
"""

import dataclasses
import functools
import io
import json
import pickle
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from hypothesis import strategies as st
from PIL import Image

from cvjax.data.boxes import open_detection
from cvjax.data.boxes.outlines import box_of
from cvjax.data.decode import DecodeError, LazyImage, decode, decode_numbers
from cvjax.data.label_maps import open_segmentation
from cvjax.data.sources import open_dataset
from cvjax.data.sources.packing import write_pack
from cvjax.data.stored import decode_stored
from cvjax.errors import CvjaxError
from cvjax.interop import open_published, read_state_dict
from tests.data.detection_folders import CAT_AND_DOG, annotation, write_coco, write_voc
from tests.data.pictures import encode, photo, write_folder


@dataclasses.dataclass(frozen=True)
class Target:
    """parse: the parser of bytes. seeds: whole files. words: of its language. errors: what it may raise. seconds,
    megabytes: what an input may take.
    """

    parse: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    words: tuple[bytes, ...] = ()
    errors: tuple[type[Exception], ...] = (CvjaxError,)
    seconds: float = 5
    megabytes: int = 300


class Broken(AssertionError):
    """A parser that did not keep its promise."""


def check(target: Target, content: bytes) -> None:
    """Broken unless the target returns or raises its error in one line, in time and within memory."""
    before, start = _reset_peak(), time.monotonic()
    try:
        target.parse(content)
    except target.errors as error:
        if not str(error) or "\n" in str(error):
            raise Broken(f"not one line: {str(error)[:300]!r}") from error
    seconds, megabytes = time.monotonic() - start, _peak() - before
    if seconds > target.seconds or megabytes > target.megabytes:
        raise Broken(f"took {seconds:.1f} s and {megabytes} MB")


def _reset_peak() -> int:
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Peak of this process's memory in MB; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


_ANY = (b"\0", b"\xff", b"\0" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80", b"..", b"/", b"\n",
        b"9" * 30)


@st.composite
def spoilt(draw: st.DrawFn, target: Target) -> bytes:
    """A whole file with up to eight changes: bits, words put in or over, parts left out, repeated or moved."""
    content = bytearray(draw(st.sampled_from(target.seeds())))
    words = st.sampled_from(_ANY + target.words) | st.binary(max_size=12)
    for _ in range(draw(st.integers(0, 8))):
        at = draw(st.integers(0, len(content)))
        end = min(len(content), at + draw(st.sampled_from((1, 4, 16, 100, 1000))))
        match draw(st.sampled_from(("flip", "put", "over", "cut", "repeat", "end"))):
            case "flip" if at < len(content):
                content[at] ^= 1 << draw(st.integers(0, 7))
            case "put":
                content[at:at] = draw(words) * draw(st.sampled_from((1, 1, 1, 100)))
            case "over":
                word = draw(words)
                content[at:at + len(word)] = word
            case "cut":
                del content[at:end]
            case "repeat":
                content[at:at] = content[at:end] * draw(st.sampled_from((1, 2, 50)))
            case "end":
                del content[at:]
    return bytes(content)


@functools.cache
def _scratch() -> Path:
    """A folder of this process."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz")
    _scratch.kept = folder  # type: ignore[attr-defined]  # deleted with the process
    return Path(folder.name)


@functools.cache
def _voc() -> Path:
    root = _scratch() / "voc"
    write_voc(root, {"a": CAT_AND_DOG, "b": CAT_AND_DOG}, {"train": ["a"], "test": ["b"]})
    (root / "SegmentationClass").mkdir()
    (root / "ImageSets/Segmentation").mkdir()
    for name in "ab":
        (root / f"SegmentationClass/{name}.png").write_bytes(encode(np.eye(15, 20, dtype=np.uint8)))
    return root


def _annotation(content: bytes) -> None:
    (_voc() / "Annotations/a.xml").write_bytes(content)
    open_detection(f"voc:{_voc()}", max_bad=1.0)


def _list(content: bytes) -> None:
    for kind in ("Main", "Segmentation"):
        (_voc() / f"ImageSets/{kind}/train.txt").write_bytes(content)
    (_voc() / "Annotations/a.xml").write_text(annotation(CAT_AND_DOG, (15, 20)))
    try:
        open_detection(f"voc:{_voc()}", max_bad=1.0)
    finally:
        open_segmentation(f"voc:{_voc()}", seed=0)


def _classes(content: bytes) -> None:
    root = _scratch() / "classes"
    if not root.exists():
        write_voc(root, {"a": CAT_AND_DOG, "b": CAT_AND_DOG}, {"train": ["a"], "test": ["b"]})
    (root / "classes.txt").write_bytes(content)
    open_detection(f"voc:{root}")


@functools.cache
def _coco() -> Path:
    root = _scratch() / "coco"
    write_coco(root, {"train": [[(1, (1, 1, 5, 5))], [(2, (0, 0, 9, 9), True)]], "val": [[(1, (1, 1, 5, 5))]]},
               [(1, "cat"), (2, "dog")])
    return root


@functools.cache
def _coco_seeds() -> list[bytes]:
    return [(_coco() / "annotations/instances_val.json").read_bytes(),
            (_coco() / "annotations/instances_train.json").read_bytes()]


def _json(content: bytes) -> None:
    _coco_seeds()
    (_coco() / "annotations/instances_train.json").write_bytes(content)
    open_detection(f"coco:{_coco()}")


def _outline(content: bytes) -> None:
    try:
        outline = json.loads(content)
    except (ValueError, RecursionError):
        return
    assert len(box_of(outline)) == 4


def _tar_seeds() -> list[bytes]:
    members = {"0.png": encode(photo(3, 4)), "0.cls": b"1", "1.png": encode(photo(3, 4, 1)), "1.json": b'{"label": 0}',
               (long := "x" * 150 + ".txt"): b""}
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        if form == tarfile.USTAR_FORMAT:  # it has no room for the name
            members.pop(long)
        else:
            members[long] = b"a long name"
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(content), 0.5 if form == tarfile.PAX_FORMAT else 0
                archive.addfile(member, io.BytesIO(content))
        made.append(buffer.getvalue())
    return made


def _tar(content: bytes) -> None:
    path = _scratch() / "a.tar"
    path.write_bytes(content)
    data = open_dataset(f"tar:{path}")
    for part in (data.train, data.test):
        for index in range(min(len(part), 3)):
            assert part is not None and isinstance(part[index]["image"], bytes)


def _table(content: bytes) -> None:
    root = _scratch() / "labels"
    if not root.exists():
        write_folder(_scratch(), {"labels": 4})
    (root / "labels.csv").write_bytes(content)
    open_dataset(f"labels:{root}")


def _npz_seeds() -> list[bytes]:
    images, made = np.arange(6 * 4 * 4 * 3, dtype=np.uint16).astype(np.uint8).reshape(6, 4, 4, 3), []
    floats = {"x_train": images / 255, "x_test": images / 255, "range": np.array([0, 1])}
    for save in (np.savez, np.savez_compressed):
        for arrays in ({"train_images": images, "train_labels": np.arange(6) % 2}, floats):
            buffer = io.BytesIO()
            save(buffer, **arrays)
            made.append(buffer.getvalue())
    return made


def _npz(content: bytes) -> None:
    path = _scratch() / "a.npz"
    path.write_bytes(content)
    open_dataset(f"npz:{path}")


@functools.cache
def _pack() -> Path:
    write_folder(_scratch() / "packed", {"a": 3, "b": 3})
    write_pack(str(_scratch() / "packed"), _scratch() / "pack")
    shutil.copytree(_scratch() / "pack", _scratch() / "whole")
    return _scratch() / "pack"


def _packed(name: str, content: bytes) -> None:
    """A pack of which one file is another; a record that is read must be as it was packed."""
    path = _pack() / name
    path.write_bytes(content)
    try:
        data = open_dataset(f"packed:{_pack()}")
        for part in (data.train, data.test):
            assert part is not None
            for index in range(len(part)):
                try:
                    image, file = part[index]["image"], part.name(index).partition(": ")[2]
                except DecodeError as error:
                    if "\n" in str(error):
                        raise Broken("not one line") from error
                    continue
                if image != (_scratch() / "packed" / file).read_bytes():
                    raise Broken(f"record {index} is another one")
    finally:
        shutil.copy(_scratch() / "whole" / name, path)


def _weights(ending: str, content: bytes) -> None:
    path = _scratch() / f"w.{ending}"
    path.write_bytes(content)
    for array in read_state_dict(path).values():
        assert isinstance(array, np.ndarray)


def _pickle(content: bytes) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", bytes(24))
    _weights("pth", buffer.getvalue())


_CHECKPOINT = Path(__file__).parents[1] / "goldens" / "checkpoint.pth"


def _programs() -> list[bytes]:
    with zipfile.ZipFile(_CHECKPOINT) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        whole = archive.read(name)
    tensor = (b"(dS'w'\nctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI6\ntQI0\n"
              b"(I2\nI3\nt(I3\nI1\ntI00\n(dtRs.")
    return [tensor, whole, pickle.dumps({"model": {}, "epoch": 3, "lr": np.float64(0.1)})]


def _safetensors() -> list[bytes]:
    return [safetensors.numpy.save({"a": np.zeros((2, 3), np.float32), "b": np.arange(4)}, {"image_size": "3x4"})]


_CONFIG = {"architecture": "resnet50", "num_classes": 3, "label_names": ["a", "b", "c"], "pretrained_cfg": {
    "input_size": [3, 224, 224], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9}}


def _config(content: bytes) -> None:
    folder = _scratch() / "published"
    if not folder.exists():
        folder.mkdir()
        (folder / "w.safetensors").write_bytes(_safetensors()[0].replace(b"3x4", b"8x8"))
    (folder / "config.json").write_bytes(content)
    found = open_published(folder / "w.safetensors")
    assert isinstance(found.class_names, tuple) and (found.image_size, found.num_classes) is not None
    found.preprocessing("resnet50")


def _images() -> list[bytes]:
    rgb = Image.fromarray(photo(20, 30))
    return [encode(rgb, "JPEG"), encode(rgb, "JPEG", progressive=True), encode(rgb, "PNG"), encode(rgb, "WEBP"),
            encode(rgb, "GIF"), encode(rgb, "BMP"), encode(rgb, "TIFF", compression="tiff_lzw"),
            encode(rgb.quantize(4), "PNG", bits=2), encode(np.arange(12, dtype=np.uint16).reshape(3, 4))]


def _image(content: bytes) -> None:
    """What training reads, evaluation reads, and in the same size."""
    shapes = []
    for read in (decode, lambda content: _fast(content)):
        try:
            shapes.append(read(content).shape)
        except DecodeError as error:
            if not str(error) or "\n" in str(error):
                raise Broken("not one line") from error
            shapes.append(None)
    if shapes[0] != shapes[1]:
        raise Broken(f"evaluation reads {shapes[0]}, training {shapes[1]}")
    for read in (decode_numbers, lambda content: decode_stored(content, 3)):
        try:
            read(content)
        except DecodeError:
            pass


def _fast(content: bytes) -> np.ndarray:
    with LazyImage(content, 3) as lazy:
        return lazy.pixels()


_JSON = (b"[", b"{", b"]", b"}", b"null", b"1e999", b"NaN", b"-1", b'"a"', b"[[[[", b"1180591620717411303424",
         b"\\u0000", b'"../a"', b",", b":", b"true")
_ZIP = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")
_XML = (b"<object>", b"</object>", b"<bndbox>", b"<!DOCTYPE a [", b'<!ENTITY b "c">', b"&b;", b"<![CDATA[", b"inf",
        b"1e30", b'<?xml version="1.0" encoding="utf-16"?>', b"<size>", b"<difficult>x</difficult>")
_HEADERS = (b"ustar\0", b"ustar  \0", b"77777777777\0", b"L", b"K", b"x", b"g", b"S", b"\x80\0\0\0",
            b"15 size=-100000\n", b"20 path=../../a.png\n", b"22 GNU.sparse.major=1\n")
_OPCODES = (b"(", b"t", b"\x86", b"\x87", b"s", b"u", b"d", b"}", b"]", b"a", b"e", b"R", b"b", b"Q", b"2", b"h\0",
            b"q\0", b"r\xff\xff\xff\x7f", b"\x81", b"\x93", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n",
            b"I9999999999\n", b"\x8f", b"\x96", b"cargparse\nNamespace\n", b"cnumpy\ndtype\n", b".", b"0", b"1",
            b"\x80\x05", b"N", b"\x8c\x01a")
_MARKERS = (b"\xff\xda", b"\xff\xc0", b"\xff\xc2", b"\xff\xe1\0\x10Exif\0\0", b"IHDR", b"IDAT", b"PLTE", b"tRNS",
            b"VP8L", b"ANMF", b"\x2c", b"\xff\xd8\xff")


def _in_pack(name: str, *words: bytes) -> Target:
    return Target(lambda content: _packed(name, content), lambda: [(_pack() / name).read_bytes()], words)


def _texts(*seeds: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [text.encode() for text in seeds]


TARGETS: dict[str, Target] = {
    "voc": Target(_annotation, _texts(annotation(CAT_AND_DOG, (15, 20)), annotation([], None)), _XML),
    "lists": Target(_list, _texts("a\nb\n", "a.jpg 1\nb -1\n", "\ufeffä\n"), (b"../", b"a", b" -1", b".xml")),
    "classes": Target(_classes, _texts("cat\ndog\n", "Cat\ncat\n\ufeff"), (b"cat", b"\r\n")),
    "coco": Target(_json, _coco_seeds, (*_JSON, b'"id"', b'"bbox"', b'"image_id"', b'"file_name"', b'"segmentation"')),
    "outlines": Target(_outline, _texts("[[1, 2, 3, 4, 5, 6]]", '{"size": [5, 6], "counts": [3, 4, 23]}',
                                        '{"size": [5, 6], "counts": "34o0"}'), (*_JSON, b'"counts"', b'"size"')),
    "tar": Target(_tar, _tar_seeds, _HEADERS),
    "labels": Target(_table, _texts("file,label\n000.png,cat\n001.png,dog;cat\n002.png,\n",
                                    "file,split,x\n000.png,train,1.5\n001.png,test,2\n"),
                     (b",", b'"', b";", b"1e999", b"../", b"split", b"000.png")),
    "npz": Target(_npz, _npz_seeds, (*_ZIP, b"'descr'", b"|O", b"(99999999999,)", b"<f8", b"train_images.npy",
                                     b"\x93NUMPY"), megabytes=600),
    "manifest": _in_pack("manifest.json", *_JSON, b'"file"', b"../train-00000.array_record", b'"records"'),
    "shard": _in_pack("train-00000.array_record"),
    "checksums": _in_pack("train-checksums.npy", b"|O", b"(99999999999,)"),
    "safetensors": Target(lambda content: _weights("safetensors", content), _safetensors,
                          (*_JSON, b'"F32"', b'"shape"', b'"data_offsets"', b"__metadata__"), (ValueError,)),
    "pth": Target(lambda content: _weights("pth", content), lambda: [_CHECKPOINT.read_bytes()], (*_ZIP, b"data.pkl"),
                  (ValueError,)),
    "pickle": Target(_pickle, _programs, _OPCODES, (ValueError,)),
    "config": Target(_config, _texts(json.dumps(_CONFIG), json.dumps(_CONFIG["pretrained_cfg"])),
                     (*_JSON, b'"mean"', b'"input_size"'), (ValueError,)),
    "images": Target(_image, _images, _MARKERS, seconds=60, megabytes=1000),
}
