import json
import pickle

import numpy as np
import pytest

from cvjax.data.bad_files import BadFiles
from cvjax.data.crops import RandomResizedCrop, ResizeCenterCrop
from cvjax.data.decode import DecodeError, decode
from cvjax.data.held_out import hold_out
from cvjax.data.pipeline import Stream, TrainBatches, eval_batches
from cvjax.data.sources import open_dataset
from cvjax.data.sources.packed import MANIFEST, open_packed
from cvjax.data.sources.packing import write_pack
from cvjax.errors import DataError
from tests.data.pictures import encode, photo, write_folder


def write_photos(root, classes, shape=(24, 31)):
    """Different JPEGs in root/CLASS/, and a PNG in each."""
    for number, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            kind = "PNG" if i == 1 else "JPEG"
            (root / name / f"{i:02}.{kind.lower()}").write_bytes(encode(photo(*shape, 100 * number + i), kind))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    write_photos(root, {"ant": 9, "bee": 7, "süß": 4})
    return root


@pytest.fixture(scope="module")
def pack(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("packs") / "pack"
    write_pack(str(folder), output, shard_bytes=4000)
    return output


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("seed", [0, 3])
def test_batches_are_those_of_the_folder(folder, pack, seed):
    data = [open_dataset(f"{kind}:{path}", seed=seed) for kind, path in (("folder", folder), ("packed", pack))]
    assert data[0].class_names == data[1].class_names == ("ant", "bee", "süß")
    data = [hold_out(each, 0.25, seed) for each in data]
    streams = [TrainBatches(each.train, RandomResizedCrop(12), Stream(5, seed, threads=2)) for each in data]
    for _ in range(6):  # twice around
        same(next(streams[0]), next(streams[1]))
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(data[0], part).labels, getattr(data[1], part).labels)
        parts = [list(eval_batches(getattr(each, part), ResizeCenterCrop(12), batch_size=4)) for each in data]
        assert len(parts[0]) == len(parts[1]) > 0
        for one, other in zip(*parts):
            same(one, other)
    for stream in streams:
        stream.close()


def test_records_are_the_files(folder, pack):
    manifest = json.loads((pack / MANIFEST).read_text())
    assert len(manifest["splits"]["train"]["shards"]) > 2 and not list(pack.parent.glob("*.partial"))
    assert sum(shard["records"] for shard in manifest["splits"]["train"]["shards"]) == 20
    train, test = open_packed(str(pack)).train, open_packed(str(pack)).test
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*/*")}
    for source in (train, test):
        for i in range(len(source)):
            place, name = source.name(i).split(": ")
            assert place == str(pack) and source[i]["image"] == files.pop(name) and source[i]["index"] == i
            assert source[i]["label"] == ["ant", "bee", "süß"].index(name.split("/")[0]) == source.labels[i]
    assert not files


def test_sources_pickle_and_tell_themselves_apart(pack):
    data = open_packed(str(pack))
    data.train[0]  # with files open
    again = pickle.loads(pickle.dumps(data.train))
    assert again[3] == data.train[3] and again.fingerprint == data.train.fingerprint != data.test.fingerprint
    assert open_packed(str(pack)).fingerprint == data.fingerprint != open_packed(str(pack), seed=1).fingerprint
    few = data.train.take(np.array([4, 2])).take(np.array([1]))
    assert len(few) == 1 and few[0] == data.train[2] | {"index": 0} and few.labels[0] == data.train.labels[2]


def test_splits_unlabelled_images_and_the_cache(tmp_path):
    write_folder(tmp_path / "split" / "train", {"a": 3, "b": 2})
    write_folder(tmp_path / "split" / "val", {"b": 2})
    write_pack(str(tmp_path / "split"), tmp_path / "one")
    data = open_dataset(f"packed:{tmp_path / 'one'}", cache=True)
    assert data.in_memory and data.train.labels.tolist() == [0, 0, 0, 1, 1] and data.test.labels.tolist() == [1, 1]
    folder = open_dataset(f"folder:{tmp_path / 'split'}", cache=True)
    np.testing.assert_array_equal(data.test.images, folder.test.images)
    write_folder(tmp_path / "loose", {".": 5})
    write_pack(str(tmp_path / "loose"), tmp_path / "two")
    data = open_packed(str(tmp_path / "two"))
    assert data.class_names == () and data.train[0]["label"] == -1 and (len(data.train), len(data.test)) == (4, 1)


def test_smaller_images(tmp_path):
    write_photos(tmp_path / "folder", {"a": 2}, shape=(40, 61))
    (tmp_path / "folder" / "a" / "9.jpg").write_bytes(small := encode(photo(20, 15), "JPEG", quality=30))
    sizes = []
    for quality in (40, 95):
        options = {"image_size": 20, "quality": quality}
        manifest = write_pack(str(tmp_path / "folder"), tmp_path / "pack", **options, overwrite=True)
        assert manifest["options"] == options
        whole = open_packed(str(tmp_path / "pack"))
        images = {source.name(i)[-6:]: source[i]["image"] for source in (whole.train, whole.test)
                  for i in range(len(source))}
        assert images["/9.jpg"] == small
        assert all(images[name].startswith(b"\xff\xd8\xff") for name in images)
        assert decode(images["0.jpeg"]).shape == decode(images["01.png"]).shape == (20, 30, 3)
        sizes.append(len(images["0.jpeg"]))
    assert sizes[0] < 0.7 * sizes[1]


def test_unreadable_files_are_left_out_named_and_limited(tmp_path):
    write_photos(tmp_path / "folder", {"a": 6, "b": 6})
    (tmp_path / "folder" / "a" / "03.jpeg").write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(DataError, match="1 of 12 files cannot be read"):
        write_pack(str(tmp_path / "folder"), tmp_path / "pack", limit_fraction=0)
    assert not (tmp_path / "pack").exists()
    manifest = write_pack(str(tmp_path / "folder"), tmp_path / "pack", limit_fraction=0.1)
    assert manifest["unreadable"] == 1 and manifest["splits"]["train"]["records"] == 11
    name, reason = (tmp_path / "pack" / "bad_files.txt").read_text().strip().split("\t")
    assert name == str(tmp_path / "folder" / "a" / "03.jpeg") and reason
    for path in (tmp_path / "folder").glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the 12 images"):
        write_pack(str(tmp_path / "folder"), tmp_path / "none", limit_fraction=1)


def test_a_pack_that_was_not_finished_is_none(folder, tmp_path, monkeypatch):
    written = []

    def die(*_):
        written.append(1)
        if len(written) == 7:
            raise KeyboardInterrupt
        return encode(photo(8, 8), "JPEG"), ""

    monkeypatch.setattr("cvjax.data.sources.packing._WINDOW", 1)
    with monkeypatch.context() as patch:
        patch.setattr("cvjax.data.sources.packing._prepare", lambda *args, **_: die(*args))
        with pytest.raises(KeyboardInterrupt):
            write_pack(str(folder), tmp_path / "pack", shard_bytes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["pack.partial"]
    assert (tmp_path / "pack.partial" / "train-00005.array_record").is_file()
    for name in ("pack", "pack.partial"):
        with pytest.raises(DataError, match=f"no pack in .*{MANIFEST}"):
            open_packed(str(tmp_path / name))
    write_pack(str(folder), tmp_path / "pack")
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]
    assert len(open_packed(str(tmp_path / "pack")).train) == 16


def test_what_is_there_is_replaced_only_when_told_and_only_a_pack(folder, tmp_path):
    write_folder(tmp_path / "few", {"a": 3})
    write_pack(str(folder), tmp_path / "pack")
    with pytest.raises(DataError, match="is there already; --overwrite"):
        write_pack(str(tmp_path / "few"), tmp_path / "pack")
    assert open_packed(str(tmp_path / "pack")).class_names == ("ant", "bee", "süß")
    write_pack(str(tmp_path / "few"), tmp_path / "pack", overwrite=True)
    assert open_packed(str(tmp_path / "pack")).class_names == ("a",)
    with pytest.raises(DataError, match="is no pack"):
        write_pack(str(folder), tmp_path / "few", overwrite=True)
    with pytest.raises(DataError, match="no such folder"):
        write_pack(str(tmp_path / "nowhere"), tmp_path / "pack", overwrite=True)
    assert open_packed(str(tmp_path / "pack")).class_names == ("a",)


@pytest.fixture
def copy(folder, tmp_path):
    write_pack(str(folder), tmp_path / "pack")
    return tmp_path / "pack"


def spoil(path, at, content=b"\xff\x00\xff"):
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at:at + len(content)] = content
    path.write_bytes(data)


def change(pack, **fields):
    path = pack / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_shard(pack, **fields):
    splits = json.loads((pack / MANIFEST).read_text())["splits"]
    splits["train"]["shards"][0] |= fields
    change(pack, splits=splits)


@pytest.mark.parametrize("damage, message", [
    (lambda pack: (pack / MANIFEST).write_text("{"), "manifest.json cannot be read"),
    (lambda pack: (pack / MANIFEST).write_text("[" * 100_000), "manifest.json cannot be read: maximum recursion"),
    (lambda pack: (pack / MANIFEST).write_bytes(b"\xff"), "manifest.json cannot be read: .* is not UTF-8"),
    (lambda pack: change(pack, version=3), "not of a pack of version 2"),
    (lambda pack: change(pack, class_names=["bee", "ant", "süß"]), "its classes or contents are not those"),
    (lambda pack: change(pack, class_names=7), "manifest.json is damaged: TypeError"),
    (lambda pack: change(pack, splits=[1]), "manifest.json is damaged: AttributeError"),
    (lambda pack: change_shard(pack, file="../train-00000.array_record"), "names a file '../train-00000.array_record'"),
    (lambda pack: change_shard(pack, file="/etc/passwd"), "names a file '/etc/passwd', which no pack has"),
    (lambda pack: change_shard(pack, records=19), "it has 20 records, and was written with 19"),
    (lambda pack: change_shard(pack, records="20"), "manifest.json is damaged|was written with"),
    (lambda pack: (pack / "train-checksums.npy").unlink(), "train-checksums.npy cannot be read"),
    (lambda pack: np.save(pack / "train-checksums.npy", np.zeros(20, np.uint32)), "train-checksums.npy is damaged"),
    (lambda pack: spoil(pack / "train-00000.array_record", -2**16, bytes(2**16)), "00000.array_record is damaged: "),
    (lambda pack: change(pack, splits={}), "manifest.json is damaged"),
    (lambda pack: (pack / "train-00000.array_record").unlink(), "train-00000.array_record is missing"),
    (lambda pack: (pack / "train-00000.array_record").write_bytes(b"short"), "train-00000.array_record has 5 bytes"),
    (lambda pack: (pack / "train-labels.npy").write_bytes(b"labels"), "train-labels.npy cannot be read"),
    (lambda pack: np.save(pack / "train-labels.npy", np.zeros(20, np.int32)), "train-labels.npy is damaged"),
])
def test_a_damaged_pack_is_one_line(copy, damage, message):
    damage(copy)
    with pytest.raises(DataError, match=message) as error:
        open_packed(str(copy))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(10))
def test_flipped_bits_are_noticed_wherever_they_are(copy, seed):
    """Each record is read as it was, or is a bad file; what all records need is refused."""
    whole = open_packed(str(copy))
    before = [[part._read(i) for i in range(len(part))] for part in (whole.train, whole.test)]
    rng = np.random.default_rng(seed)
    files = sorted(path for path in copy.iterdir() if path.name != "bad_files.txt")
    file = files[seed % len(files)]
    content = np.frombuffer(file.read_bytes(), np.uint8).copy()
    end = 20_000 if file.suffix == ".array_record" else content.size  # where the records are; the rest is mostly empty
    np.bitwise_xor.at(content, rng.integers(end, size=30), 1 << rng.integers(8, size=30).astype(np.uint8))
    file.write_bytes(content)
    try:
        data = open_packed(str(copy))
    except DataError as error:
        assert file.name in str(error) and "\n" not in str(error)
        return
    damaged = 0
    for part, right in zip((data.train, data.test), before):
        for i, record in enumerate(right):
            try:
                assert part._read(i) == record
            except DecodeError:
                damaged += 1
    assert damaged


def test_exchanged_files_and_records_are_noticed(folder, tmp_path):
    """ArrayRecord's own hashes are right then."""
    write_pack(str(folder), tmp_path / "pack", shard_bytes=1)
    sizes = [len(open_packed(str(tmp_path / "pack")).train[i]["image"]) for i in range(10)]
    first = tmp_path / "pack/train-00000.array_record"
    same_size = next(path for path in sorted(first.parent.glob("*.array_record"))[1:]
                     if path.stat().st_size == first.stat().st_size)
    content = first.read_bytes()
    first.write_bytes(same_size.read_bytes())
    same_size.write_bytes(content)
    data, bad = open_packed(str(tmp_path / "pack")), BadFiles(20, 0.5)
    for part in (data.train, data.test):
        list(eval_batches(part, ResizeCenterCrop(8), batch_size=4, bad=bad))
    assert sizes and bad.count == 2 and all("another checksum" in reason for reason in bad.reasons.values())
    assert sorted(name.split(": ")[1].split(" record ")[0] for name in bad.reasons) == ["train", "train"]


def test_a_pack_without_checksums_is_read_with_a_word(copy):
    splits = json.loads((copy / MANIFEST).read_text())["splits"]
    del splits["train"]["checksums"]
    (copy / "train-checksums.npy").unlink()
    change(copy, version=1, splits=splits)
    data = open_packed(str(copy))
    assert data.noticed == (f"{copy} is a pack without checksums, in which an exchanged record is not noticed; "
                            "python -m experiments.pack makes it anew")
    assert decode(data.train[0]["image"]).shape == (24, 31, 3)


def test_a_damaged_record_is_a_bad_file(copy):
    """ArrayRecord's hash finds it; training goes on with the next one, until they are too many."""
    shard = copy / "train-00000.array_record"
    image = open_packed(str(copy)).test[0]["image"]
    spoil(shard, shard.read_bytes().index(image) + 40)
    source, bad = open_packed(str(copy)).test, BadFiles(4, 0.5)
    batches = list(eval_batches(source, ResizeCenterCrop(8), batch_size=4, bad=bad))
    assert batches[0]["mask"].tolist() == [False, True, True, True]
    ((name, reason),) = bad.reasons.items()
    assert name.startswith(f"{copy}: train record ") and "hash mismatch" in reason
    with pytest.raises(DataError, match="1 of 4 files cannot be read"):
        list(eval_batches(source, ResizeCenterCrop(8), batch_size=4, bad=BadFiles(4, 0)))


@pytest.mark.slow
def test_worker_processes_read_packs(pack):
    source = open_packed(str(pack)).train
    streams = [TrainBatches(source, RandomResizedCrop(12), Stream(5, seed=1, workers=n)) for n in (0, 2)]
    for _ in range(4):
        same(next(streams[0]), next(streams[1]))
    for stream in streams:
        stream.close()
