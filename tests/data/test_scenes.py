import pickle

import numpy as np
import pytest

from cvjax.data.scenes import MOST, open_scenes, paint
from cvjax.data.sources.digits import open_digits
from cvjax.errors import DataError


@pytest.fixture(scope="module")
def scenes():
    return open_scenes("boxes", train=60, test=20)


@pytest.fixture(scope="module")
def maps():
    return open_scenes("label_map", train=60, test=20)


def test_a_record_has_the_annotations_of_its_kind(scenes, maps):
    assert scenes.class_names == tuple("0123456789") and maps.class_names == ("background", *"0123456789")
    boxed, mapped = scenes.train[7], maps.train[7]
    assert set(boxed) == {"image", "label", "index", "boxes", "box_label", "box_difficult"}
    assert set(mapped) == {"image", "label", "index", "label_map"}
    np.testing.assert_array_equal(boxed["image"], mapped["image"])
    count = len(boxed["boxes"])
    assert boxed["image"].shape == (96, 96, 3) and boxed["image"].dtype == np.uint8
    assert boxed["boxes"].shape == (count, 4) and boxed["boxes"].dtype == np.float32
    assert boxed["box_label"].shape == (count,) and boxed["box_label"].dtype == np.int32
    assert not boxed["box_difficult"].any() and boxed["box_difficult"].dtype == bool
    assert mapped["label_map"].shape == (96, 96) and mapped["label_map"].dtype == np.uint8
    assert (boxed["label"], boxed["index"]) == (-1, 7)


def test_boxes_are_around_the_pixels_of_the_label_map(scenes, maps):
    counts = scenes.train.counts
    assert counts.min() == 0 and counts.max() == MOST
    for i in range(len(scenes.train)):
        record, label_map = scenes.train[i], maps.train[i]["label_map"]
        covered = np.zeros((96, 96), bool)
        for (x1, y1, x2, y2), label in zip(record["boxes"].astype(int), record["box_label"]):
            mine = label_map[y1:y2, x1:x2] == label + 1
            # Each of the four sides touches a pixel of the digit.
            assert mine[0].any() and mine[-1].any() and mine[:, 0].any() and mine[:, -1].any()
            covered[y1:y2, x1:x2] = True
        assert not label_map[~covered].any()
        assert set(np.unique(label_map)) == {0, *(record["box_label"] + 1)}


def test_digits_overlap_little(scenes):
    for i in range(len(scenes.train)):
        boxes = scenes.train[i]["boxes"]
        for first in range(len(boxes)):
            for second in range(first):
                a, b = boxes[first], boxes[second]
                common = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
                areas = (a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()
                # A box may have shrunk since its place was chosen, by what was painted over: hence not 0.1.
                assert common <= 0.15 * min(areas)


def test_label_maps_are_of_the_painted_pixels_alone(monkeypatch):
    """On black ground a digit is at least 77 levels from it, in three channels, and noise is at most 12 in each."""
    monkeypatch.setattr("cvjax.data.scenes._ground", lambda rng, side: np.zeros((side, side, 3), np.float32))
    alone = 0
    for i in range(200):
        image, label_map, boxes, _ = paint(np.random.default_rng(i), open_digits().train, 96)
        if len(boxes) == 1:  # else one may be dark where it is on another
            alone += 1
            np.testing.assert_array_equal(label_map > 0, image.max(-1) > 20)
    assert alone > 20


def test_what_is_painted_stands_out(maps):
    for i in range(len(maps.train)):
        record = maps.train[i]
        digit = record["label_map"] > 0
        if digit.any():
            # A digit's pixels have one colour but for ink and noise; neighbours outside are of the ground.
            grown = np.pad(digit, 2)
            shifts = (2, 0), (-2, 0), (0, 2), (0, -2)
            near = np.any([np.roll(grown, shift, (0, 1))[2:-2, 2:-2] for shift in shifts], 0)
            image = record["image"].astype(float)
            assert np.linalg.norm(image[digit].mean(0) - image[near & ~digit].mean(0)) > 10


def test_a_scene_depends_on_seed_part_and_number_alone(scenes):
    again, longer, other = (open_scenes("boxes", train=count, test=20, seed=seed)
                            for count, seed in ((60, 0), (70, 0), (60, 1)))
    assert again.fingerprint == scenes.fingerprint != other.fingerprint
    np.testing.assert_array_equal(longer.train.images[:60], scenes.train.images)
    assert (other.train.images[:20] != scenes.train.images[:20]).any((1, 2, 3)).all()
    assert (scenes.test.images != scenes.train.images[:20]).any((1, 2, 3)).all()


def test_parts_are_made_of_their_own_digits(monkeypatch):
    """With all training digits zeros and all test digits ones, so are the scenes."""
    digits = open_digits()
    zeros, ones = digits.train.take(np.flatnonzero(digits.train.labels == 0)), digits.test.take(
        np.flatnonzero(digits.test.labels == 1))
    monkeypatch.setattr("cvjax.data.scenes.open_digits", lambda: type(digits)(zeros, ones, digits.class_names, 1))
    found = open_scenes("boxes", train=8, test=8)
    assert {int(label) for i in range(8) for label in found.train[i]["box_label"]} == {0}
    assert {int(label) for i in range(8) for label in found.test[i]["box_label"]} == {1}


def test_parts_of_parts_and_pickles(scenes):
    some = scenes.train.take(np.array([5, 2]))
    copy = pickle.loads(pickle.dumps(some))
    assert len(copy) == 2 and copy.fingerprint == some.fingerprint != scenes.train.fingerprint
    for key, value in scenes.train[2].items():
        np.testing.assert_array_equal(copy[1][key], value if key != "index" else 1)
    assert scenes.train.name(3) == "scene 3"
    np.testing.assert_array_equal(scenes.train.labels, np.full(60, -1))


def test_other_sizes():
    image, label_map, boxes, labels = paint(np.random.default_rng(1), open_digits().train, 160)
    assert image.shape == (160, 160, 3) and label_map.shape == (160, 160) and len(boxes) == len(labels)


@pytest.mark.parametrize("annotations, options, words", [
    ("masks", {}, "'masks'"), ("boxes", {"train": 0}, "0 and 500"), ("boxes", {"side": 31}, "of 31")])
def test_what_cannot_be_is_refused(annotations, options, words):
    with pytest.raises(DataError, match=words) as error:
        open_scenes(annotations, **options)
    assert "\n" not in str(error.value)
