"""TFDS data sets, prepared in the test's own folder, without TensorFlow."""

import subprocess
import sys

import numpy as np
import pytest

from cvjax.data.crops import ResizeCenterCrop
from cvjax.data.decode import decode
from cvjax.data.pipeline import eval_batches
from cvjax.data.sources import open_dataset
from cvjax.errors import DataError
from tests.data.pictures import encode, gradient

tfds = pytest.importorskip("tensorflow_datasets")


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Twelve PNG files in two classes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train": self._generate_examples(8), "test": self._generate_examples(4)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": encode(gradient(8 + i, 10)), "label": i % 2}


class OtherNames(TinyPictures):
    """The same in splits of other names, one of them of no part."""

    def _split_generators(self, _):
        return {"training": self._generate_examples(8), "dev": self._generate_examples(4),
                "extra": self._generate_examples(2)}


def test_splits_by_their_meaning(tmp_path):
    OtherNames(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    data = open_dataset(f"tfds:{tmp_path}/other_names/1.0.0")
    check(data)
    assert data.ignored == "splits extra with 2 records" and data.validation is None


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    builder = TinyPictures(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return root


def error_line(spec):
    with pytest.raises(DataError) as error:
        open_dataset(spec)
    assert "\n" not in str(error.value)
    return str(error.value)


def check(data):
    assert data.class_names == ("cat", "dog") and data.channels == 3 and not data.in_memory
    assert (len(data.train), len(data.test)) == (8, 4)
    record = data.train[0]
    assert isinstance(record["image"], bytes)
    height = decode(record["image"]).shape[0]
    np.testing.assert_array_equal(decode(record["image"]), gradient(height, 10))
    assert record["label"] == height % 2
    (batch,) = eval_batches(data.test, ResizeCenterCrop(8), batch_size=4)
    assert sorted(batch["label"]) == [0, 0, 1, 1] and batch["mask"].all()


def test_reads_by_folder(prepared):
    check(open_dataset(f"tfds:{prepared}/tiny_pictures/1.0.0"))


@pytest.mark.parametrize("name", ["tiny_pictures", "tiny_pictures:1.0.0"])
def test_reads_by_name(prepared, monkeypatch, name):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(prepared))
    check(open_dataset(f"tfds:{name}"))


def test_reading_imports_no_tensorflow(prepared):
    code = (
        "import sys; from cvjax.data.sources import open_dataset\n"
        f"open_dataset('tfds:{prepared}/tiny_pictures/1.0.0').train[3]\n"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_unknown_names_get_near_matches():
    assert "cifar10" in error_line("tfds:cifar1")
    assert "none of a similar name" in error_line("tfds:qqqqqqqqqqqq")
    assert "64x" in error_line("tfds:imagenet_resized/64x")
    assert "9.9.9" in error_line("tfds:cifar10:9.9.9")


def test_not_prepared_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    line = error_line("tfds:cifar10")
    assert "not prepared" in line and "array_record" in line and "download_and_prepare()" in line
    if "tensorflow" not in sys.modules:
        assert "pip install tensorflow" in line


def test_prepared_as_tfrecord_says_so(prepared, tmp_path):
    source = prepared / "tiny_pictures" / "1.0.0"
    copy = tmp_path / "tiny_pictures" / "1.0.0"
    copy.mkdir(parents=True)
    for file in source.iterdir():
        content = file.read_bytes().replace(b"array_record", b"tfrecord")
        (copy / file.name.replace("array_record", "tfrecord")).write_bytes(content)
    line = error_line(f"tfds:{copy}")
    assert "TFRECORD" in line and "array_record" in line


def test_a_damaged_record_is_a_bad_file(prepared, tmp_path):
    source = prepared / "tiny_pictures" / "1.0.0"
    for file in source.iterdir():
        content = bytearray(file.read_bytes())
        if "test.array_record" in file.name:
            content[-40] ^= 0xFF
            content[len(content) // 2] ^= 0xFF
        (tmp_path / file.name).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        list(eval_batches(open_dataset(f"tfds:{tmp_path}").test, ResizeCenterCrop(8), batch_size=4))
