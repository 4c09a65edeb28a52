"""Shares, held-out parts and folds of a training part, on data sets small enough to count."""

import numpy as np
import pytest

from cvjax.data.dataset import ArraySource, Dataset
from cvjax.data.held_out import fold_out, hold_out, take_share
from cvjax.data.sources import open_dataset
from cvjax.errors import DataError
from tests.data.pictures import write_folder


def dataset(*counts: int, names: str = "abcdef") -> Dataset:
    """`counts[k]` records of class k, mixed; the first pixel of an image is its number."""
    labels = np.random.default_rng(7).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    test = ArraySource(images[:1] + 200, labels[:1])
    return Dataset(ArraySource(images, labels), test, tuple(names[:len(counts)]), 1)


def numbers(source) -> list[int]:
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def counts(source) -> list[int]:
    return np.bincount(source.labels).tolist()


def error_line(function, *arguments, **options) -> str:
    with pytest.raises(DataError) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- a validation share


def test_a_share_of_each_class_is_held_out_and_nothing_is_lost():
    whole = dataset(40, 20, 10)
    found = hold_out(whole, 0.2, seed=0)
    assert counts(found.validation) == [8, 4, 2] and counts(found.train) == [32, 16, 8]
    assert sorted(numbers(found.train) + numbers(found.validation)) == list(range(70))
    assert found.test is whole.test and found.class_names == whole.class_names
    for source in (found.train, found.validation):  # images keep their labels
        assert source.labels.tolist() == whole.train.labels[numbers(source)].tolist()


def test_the_same_seed_holds_out_the_same_and_another_one_others():
    whole = dataset(30, 30)
    first, again, other = (numbers(hold_out(whole, 0.2, seed).validation) for seed in (0, 0, 1))
    assert first == again != other
    assert hold_out(whole, 0.2, 0).fingerprint == hold_out(whole, 0.2, 0).fingerprint != whole.fingerprint


@pytest.mark.parametrize("share", [1e-6, 0.999999])
def test_both_parts_have_a_record_of_each_class_whatever_the_share(share):
    found = hold_out(dataset(9, 2), share, seed=0)
    assert min(counts(found.train)) >= 1 and min(counts(found.validation)) >= 1


def test_a_class_of_one_record_cannot_be_held_out():
    assert "class 'b' has a single image" in error_line(hold_out, dataset(9, 1), 0.2, seed=0)


# --- a share of the training part


def test_a_share_keeps_the_classes_balance_and_larger_ones_contain_smaller_ones():
    whole, before = dataset(40, 20, 10), set()
    for share, expected in ((0.1, [4, 2, 1]), (0.5, [20, 10, 5]), (1.0, [40, 20, 10])):
        found = take_share(whole, share, seed=0)
        assert counts(found.train) == expected
        assert before < set(numbers(found.train)) and found.train.labels.tolist() == whole.train.labels[
            numbers(found.train)].tolist()
        before = set(numbers(found.train))
    assert numbers(take_share(whole, 0.5, 0).train) != numbers(take_share(whole, 0.5, 1).train)


def test_a_share_of_nothing_is_refused():
    assert "a share of 0.01 of 30 training images is none at all" in error_line(take_share, dataset(20, 10), 0.01, 0)


# --- folds


def test_folds_share_no_record_cover_all_and_are_even():
    whole = dataset(23, 11, 7)
    found = [fold_out(whole, 5, fold, seed=0) for fold in range(5)]
    assert sorted(sum((numbers(each.validation) for each in found), [])) == list(range(41))
    for each in found:
        assert sorted(numbers(each.train) + numbers(each.validation)) == list(range(41))
        assert each.test is whole.test
    per_class = np.array([counts(each.validation) for each in found])
    assert (np.ptp(per_class, axis=0) <= 1).all(), "each class as evenly as its count allows"
    assert np.ptp(per_class.sum(axis=1)) <= 1, "and so the folds themselves"


def test_more_folds_than_records_of_a_class():
    assert "5 folds need as many images of each class, class 'c' has 4" in error_line(
        fold_out, dataset(20, 9, 4), 5, 0, seed=0)


# --- every kind of source


def test_files_stay_files_and_keep_their_labels(tmp_path):
    write_folder(tmp_path / "train", {"ant": 10, "bee": 5})
    write_folder(tmp_path / "test", {"ant": 1})
    whole = open_dataset(f"folder:{tmp_path}")
    found = hold_out(whole, 0.2, seed=0)
    assert not found.in_memory and counts(found.train) == [8, 4] and counts(found.validation) == [2, 1]
    assert not set(found.train.files) & set(found.validation.files)
    record = found.validation[2]
    assert record["label"] == 1 and record["index"] == 2 and "/bee/" in found.validation.name(2)
    assert record["image"] == open(found.validation.name(2), "rb").read()
    for part in (found.train, found.validation):  # sizes go along, or a changed file would go unnoticed
        assert len(part.sizes) == len(part.files) == len(part.labels)


def test_where_labels_are_unknown_before_reading_records_are_drawn_regardless_of_class():
    class Unread(list):
        """As TFDS: the label comes with the record."""

        labels = None

        def take(self, positions):
            return Unread(self[i] for i in positions)

    whole = Dataset(Unread(range(40)), None, ("a", "b"), 1)
    found = fold_out(whole, 4, 0, seed=0)
    assert (len(found.train), len(found.validation)) == (30, 10)
    assert len(take_share(whole, 0.25, 0).train) == 10
    assert len(hold_out(whole, 0.1, 0).validation) == 4
    assert "50 folds need as many images of each class" in error_line(fold_out, whole, 50, 0, seed=0)


def test_a_part_of_a_part_is_counted_from_its_own_start():
    source = dataset(10).train
    assert numbers(source.take(np.array([8, 2, 5])).take(np.array([2, 0]))) == [5, 8]
