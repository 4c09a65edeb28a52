"""TFDS data sets with objects, prepared in the test's own folder, without TensorFlow."""

import pickle
import shutil

import numpy as np
import pytest

from cvjax.data.boxes import open_detection
from cvjax.errors import DataError
from tests.data.pictures import encode, gradient

tfds = pytest.importorskip("tensorflow_datasets")

COUNTS = {"train": 6, "validation": 3, "test": 2}
SIZE = 16, 32  # powers of two, so that relative boxes are exact


class TinyObjects(tfds.core.GeneratorBasedBuilder):
    """Pictures with objects."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        objects = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                   "is_difficult": np.bool_}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "objects": tfds.features.Sequence(objects)}))

    def _split_generators(self, _):
        return {part: self._generate_examples(count) for part, count in COUNTS.items()}

    def _generate_examples(self, count):
        for i in range(count):
            # i objects of height i + 1; the first has no width.
            boxes = [tfds.features.BBox(2 / 16, (4 + k) / 32, (2 + i + 1) / 16, (4 + 2 * k) / 32) for k in range(i)]
            yield i, {"image": encode(gradient(*SIZE)), "objects": [
                {"bbox": box, "label": k % 2, "is_difficult": k == 1} for k, box in enumerate(boxes)]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    TinyObjects(data_dir=root, file_format="array_record").download_and_prepare()
    return root / "tiny_objects" / "1.0.0"


def by_height(source):
    return {int(r["boxes"][0, 3] - r["boxes"][0, 1]) if len(r["boxes"]) else 0: r
            for r in (source[i] for i in range(len(source)))}


def test_objects_become_boxes_in_pixels(prepared):
    data = open_detection(f"tfds:{prepared}")
    assert data.class_names == ("cat", "dog") and (len(data.train), len(data.test)) == (6, 3)
    record = by_height(data.train)[5]
    np.testing.assert_array_equal(record["boxes"], np.float32([[5, 2, 6, 7], [6, 2, 8, 7], [7, 2, 10, 7]]))
    assert record["box_label"].tolist() == [1, 0, 1] and record["box_difficult"].tolist() == [True, False, False]
    assert isinstance(record["image"], bytes) and record["label"] == -1
    # Without an object, and with one that has no width.
    assert sorted(len(data.train[i]["boxes"]) for i in range(6)) == [0, 0, 1, 2, 3, 4]
    truth = data.train.ground_truth()
    assert truth.extents.tolist() == [list(SIZE)] * 6 and truth is data.train.ground_truth()
    for i in range(6):
        for name, value in truth[i].items():
            np.testing.assert_array_equal(value, data.train[i][name])


def test_parts_and_pickles(prepared):
    data = open_detection(f"tfds:{prepared}")
    some = pickle.loads(pickle.dumps(data.train.take(np.array([4, 2]))))
    assert len(some) == 2 and some.fingerprint != data.train.fingerprint != data.test.fingerprint
    np.testing.assert_array_equal(some[0]["boxes"], data.train[4]["boxes"])
    assert some.name(0).endswith("index 4") and some[1]["index"] == 1


def test_voc_counts_pixels_from_one_and_trains_on_its_validation_part(prepared, tmp_path):
    copy = tmp_path / "voc" / "1.0.0"
    shutil.copytree(prepared, copy)
    for file in list(copy.iterdir()):
        if file.suffix == ".json":
            file.write_text(file.read_text().replace("tiny_objects", "voc"))
        else:
            file.rename(copy / file.name.replace("tiny_objects", "voc"))
    data = open_detection(f"tfds:{copy}")
    assert (len(data.train), len(data.test)) == (9, 2)
    boxes = max((data.train[i]["boxes"] for i in range(9)), key=len)
    np.testing.assert_array_equal(boxes, np.float32([[4, 1, 6, 8], [5, 1, 8, 8], [6, 1, 10, 8], [7, 1, 12, 8]]))


def test_without_objects_it_is_refused(prepared, monkeypatch):
    class Info:
        features = {"image": None, "label": None}

    class Builder:
        info = Info

    monkeypatch.setattr("cvjax.data.boxes.tfds.open_builder", lambda name: Builder)
    with pytest.raises(DataError, match="no `objects`.*it has image, label"):
        open_detection("tfds:mnist")
