"""Which metrics are read as percent."""

import math

import pytest

from cvjax.evaluate.shares import in_words, is_share


@pytest.mark.parametrize("metric", [
    "test/top1", "validation/top5", "top1/width=8", "top1", "test/miou", "test/iou/sky", "iou of each class",
    "ap50", "test/ap50/dog", "test/ap50_11point", "colour/miou", "knn/dino", "knn/dino/k=20",
    "few_shot/mae/shots=5/deviation", "retrieval/x/p@10",
    "folds/top1_mean", "proposals/recall", "test/map", "test/ece", "linear_probe/mae/top5",
    "jaccard", "jf_mean", "j_recall", "f_decay"])
def test_shares(metric):
    assert is_share(metric) and in_words(metric, 0.81111) == "81.11 %"


@pytest.mark.parametrize("metric", ["test/loss", "linear_probe/mae/loss", "linear_probe/loss", "test/mae", "test/r2",
                                    "law/alpha", "proposals/per_picture", "learning_rate", "test/age/recall"])
def test_other_numbers(metric):
    assert not is_share(metric) and in_words(metric, 0.81111) == "0.8111"


def test_numbers_that_are_none():
    assert [in_words("test/top1", value) for value in (None, math.nan, math.inf, -math.inf)] == [
        "not a number", "not a number", "infinite", "minus infinite"]
    assert in_words("proposals/per_picture", 123456.7) == "123,457"
