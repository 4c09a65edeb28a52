"""Data sets of Hugging Face's `datasets`, saved in the test's own folder and read without a network."""

import pickle
import socket

import numpy as np
import pytest
from PIL import Image

from cvjax.data.bad_files import BadFiles
from cvjax.data.crops import RandomResizedCrop
from cvjax.data.decode import DecodeError, decode
from cvjax.data.pipeline import Stream, TrainBatches
from cvjax.data.sources import open_dataset
from cvjax.errors import DataError
from tests.data.pictures import encode
from tests.data.test_addresses import assert_resumes
from tests.data.test_tar import picture, shades

datasets = pytest.importorskip("datasets", reason="hf: needs datasets, which is an extra")
ANIMALS = datasets.ClassLabel(names=["cat", "dog", "owl"])


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a folder on this machine needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def records(numbers, features=None, **columns):
    """A split with a picture and a label for each number, and more columns."""
    features = {"image": datasets.Image(), "label": ANIMALS} | (features or {})
    made = {"image": encoded(numbers), "label": [n % 3 for n in numbers]} | columns
    return datasets.Dataset.from_dict({name: made[name] for name in features}, datasets.Features(features))


def encoded(numbers) -> list[dict]:
    return [{"bytes": picture(n), "path": None} for n in numbers]


def save(folder, **splits) -> str:
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return f"hf:{folder}"


def error_line(spec: str) -> str:
    with pytest.raises(DataError) as error:
        open_dataset(spec)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_splits_by_their_meaning_and_the_bytes_that_were_saved(tmp_path):
    spec = save(tmp_path / "a", training=records(range(12), {"words": datasets.Value("string")}, words=["a"] * 12),
                validation=records([4, 2], {"words": datasets.Value("string")}, words=["b"] * 2),
                extra=records([9], {"words": datasets.Value("string")}, words=["c"]))
    data = open_dataset(spec)
    assert shades(data.train) == list(range(12)) and shades(data.test) == [4, 2] and data.validation is None
    assert data.train[7] == {"image": picture(7), "label": 1, "index": 7}
    assert data.train.labels.tolist() == [n % 3 for n in range(12)] and data.train.labels.dtype == np.int32
    assert data.train.sizes.tolist() == [len(picture(n)) for n in range(12)]
    assert data.class_names == ("cat", "dog", "owl") and data.channels == 3 and not data.in_memory
    assert data.ignored == ("1 splits that are no parts (extra with 1 records); 1 columns that are not read (words)")
    assert data.train.name(7) == f"{spec} training index 7"
    assert data.noticed.startswith("2 of 2 test pictures are copies of training pictures")


def test_one_split_or_none_has_a_fifth_held_out(tmp_path):
    spec = save(tmp_path / "a", train=records(range(15)), test=records(range(5)))
    records(range(15)).save_to_disk(str(tmp_path / "b"))
    one, none = open_dataset(f"{spec}:train", seed=3), open_dataset(f"hf:{tmp_path / 'b'}", seed=3)
    for data in (one, none):
        assert (len(data.train), len(data.test)) == (12, 3) and sorted(data.test.labels) == [0, 1, 2]
        assert sorted(shades(data.train) + shades(data.test)) == list(range(15))
    assert shades(one.train) == shades(none.train) != shades(open_dataset(f"{spec}:train", seed=4).train)
    assert one.train.name(3) == f"{spec}:train index {one.train.positions[3]}"


def test_a_test_split_without_labels_is_left_out(tmp_path):
    spec = save(tmp_path / "a", train=records(range(9)), val=records(range(3)),
                test=records(range(4), label=[-1] * 4))
    data = open_dataset(spec)
    assert len(data.test) == 3 and data.ignored == "4 test pictures without labels, which cannot be judged (test)"


def test_columns_are_told_by_their_features_or_named(tmp_path):
    more = {"photo": datasets.Image(), "coarse": datasets.ClassLabel(names=["a", "b"]),
            "number": datasets.Value("int64")}
    made = {"photo": encoded(range(12, 24)), "coarse": [n % 2 for n in range(12)], "number": [n % 4 for n in range(12)]}
    spec = save(tmp_path / "a", train=records(range(12), more, **made), test=records(range(12), more, **made))
    there = "its columns are image, label, photo, coarse, number"
    assert error_line(spec) == (f"{spec} has 2 columns of images, image and photo; {there}; one is named by "
                                "#image=COLUMN")
    assert error_line(f"{spec}#image=photo") == (f"{spec}#image=photo has the class labels label and coarse; {there}; "
                                                 "one is named by #label=COLUMN, and none by #label=")
    data = open_dataset(f"{spec}#image=photo&label=coarse")
    assert shades(data.train) == list(range(12, 24)) and data.class_names == ("a", "b")
    assert data.ignored == "3 columns that are not read (image, label, number)"
    data = open_dataset(f"{spec}#label=number&image=image")
    assert data.class_names == ("0", "1", "2", "3") and data.train.labels.tolist() == made["number"]
    data = open_dataset(f"{spec}#label=&image=image")
    assert data.class_names == () and (data.train.labels == -1).all()
    for options, words in (("#image=label", "has no column of images 'label'; its columns are"),
                           ("#image=image&label=photo", "has no column 'photo' of class labels or whole numbers; its"),
                           ("#images=image", "after # there may be image=COLUMN, label=COLUMN and config=NAME")):
        assert words in error_line(spec + options)


def test_columns_that_are_missing_or_are_numbers(tmp_path):
    text = datasets.Dataset.from_dict({"words": ["a"] * 9})
    assert "has no column of images; its columns are words" in error_line(save(tmp_path / "a", train=text, test=text))
    number = {"label": datasets.Value("int32")}
    spec = save(tmp_path / "b", train=records(range(9), number), test=records(range(3), number))
    assert "has a column label of numbers; its columns are image, label; one is named by #label=COL" in error_line(spec)
    assert open_dataset(f"{spec}#label=label").class_names == ("0", "1", "2")
    negative = records(range(9), number, label=[-2, *range(8)])
    assert "labels must be numbers from 0 on, below the number of classes, got -2 to 7" in error_line(
        save(tmp_path / "c", train=negative, test=negative) + "#label=label")
    assert "3 of 9 records have no label, such as index 1" in error_line(
        save(tmp_path / "d", train=records(range(9), label=[0, -1, 1, None, 0, 0, -1, 1, 1]), test=records([0])))
    other = {"label": datasets.ClassLabel(names=["dog", "cat"])}
    assert "the classes of test are not those of train" in error_line(
        save(tmp_path / "e", train=records(range(9)), test=records(range(3), other, label=[0, 1, 0])))


@pytest.mark.parametrize("name", ["../x", "a/../b", "a/b@../../c", "a/b#config=../../x"])
def test_names_that_lead_elsewhere_are_refused_before_anything_is_looked_for(name, monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", None)
    with pytest.raises(DataError, match="is no name on the hub|leads out of the folder|no such folder"):
        open_dataset(f"hf:{name}")


def test_what_cannot_be_opened_is_one_line(tmp_path, monkeypatch):
    spec = save(tmp_path / "a", test=records(range(6)), extra=records(range(3)))
    assert error_line(spec) == (f"{spec} has no split for training; it has test, extra; to train on one, name it: "
                                f"{spec}:test")
    assert error_line(f"{spec}:val") == f"{spec}:val has no split val; it has test, extra"
    (tmp_path / "b").mkdir()
    assert f"hf:{tmp_path / 'b'} cannot be opened: " in error_line(f"hf:{tmp_path / 'b'}")
    assert error_line(f"hf:{tmp_path / 'none'}") == f"no such folder: {tmp_path / 'none'}"
    for arrow in (tmp_path / "a" / "test").glob("*.arrow"):
        arrow.write_bytes(arrow.read_bytes()[:100])
    assert "cannot be opened: " in error_line(f"{spec}:test")


def test_a_data_set_of_the_hub_is_asked_for_by_name_split_and_configuration(tmp_path, monkeypatch):
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        whole = datasets.DatasetDict({"train": records(range(9)), "test": records(range(3))})
        return whole["train"] if split else whole

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(open_dataset("hf:owner/animals").test) == 3
    assert len(open_dataset("hf:owner/animals:train#config=small").test) == 3  # one of each class is held out
    assert len(open_dataset("hf:mnist").train) == 9
    open_dataset("hf:owner/animals:train[:50%]")
    assert asked == [("owner/animals", None, None), ("owner/animals", "small", "train"), ("mnist", None, None),
                     ("owner/animals", None, "train[:50%]")]

    (tmp_path / "a.png").write_bytes(picture(5))  # the Hub's folders of images stay files
    files = [{"bytes": None, "path": str(tmp_path / "a.png")}] * 3 + [{"bytes": None, "path": str(tmp_path / "b.png")}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(
        train=records(range(4), image=files), test=records(range(3))))
    source = open_dataset("hf:owner/files").train
    assert source[2]["image"] == picture(5) and source.sizes.tolist() == [-1] * 4
    with pytest.raises(FileNotFoundError):
        source[3]

    def fails(*_, **__):
        raise ConnectionError("no way to the Hub\nat all")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    assert error_line("hf:owner/animals") == "hf:owner/animals cannot be opened: no way to the Hub at all"


def test_pictures_of_any_kind_damaged_turned_and_missing_ones(tmp_path):
    turned = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6
    images = [{"bytes": encode(turned, "JPEG", exif=exif), "path": None}, {"bytes": b"no picture", "path": "a.jpg"},
              None, {"bytes": picture(3), "path": "b.png"}]
    made = records(range(4), image=images)
    source = open_dataset(save(tmp_path / "a", train=made, test=made)).train
    assert decode(source[0]["image"]).shape == (6, 4, 3)  # upright
    with pytest.raises(DecodeError, match="not a JPEG"):
        decode(source[1]["image"])
    with pytest.raises(DecodeError, match="the record has no picture"):
        source[2]
    assert source.sizes[2] == -1 and shades(source.take(np.array([3]))) == [3]
    bad = BadFiles(8, 0.5, tmp_path / "bad.txt")
    stream = TrainBatches(source, RandomResizedCrop(4), Stream(4, seed=0), bad)
    batch = next(stream)
    stream.close()
    assert bad.count == 2 and set(batch["index"]) == {0, 3}
    assert {line.split("\t")[0].split(" ", 1)[1] for line in bad.path.read_text().splitlines()} == {
        "train index 1", "train index 2"}


def test_records_pickle_are_told_apart_and_go_on_where_they_were_left(tmp_path):
    spec = save(tmp_path / "a", train=records(range(20)).shuffle(seed=1), test=records(range(3)))
    source = open_dataset(spec).train
    part = source.take(np.array([3, 1]))
    again = pickle.loads(pickle.dumps(part))
    assert shades(again) == [shades(source)[3], shades(source)[1]] and again.fingerprint == part.fingerprint
    assert shades(part.take(np.array([0]))) == [shades(source)[3]]
    assert len({source.fingerprint, part.fingerprint, source.take(np.array([1, 3])).fingerprint}) == 3
    assert open_dataset(spec).fingerprint == open_dataset(spec).fingerprint
    assert source.sizes.tolist() == [len(source[i]["image"]) for i in range(20)]
    cached = open_dataset(spec, cache=True).train
    np.testing.assert_array_equal(cached.images[:, 0, 0, 0] // 10, shades(source))
    assert_resumes(spec)
