"""Mean IoU and its companions, by hand and against slow twins."""

import numpy as np
import pytest

from cvjax.evaluate.mask_scores import boundary_f
from cvjax.evaluate.mean_iou import class_boundary_f, class_iou, iou_table, pixel_confusion, segmentation_scores

# 10 pixels: class 0 has 6 (5 found, 1 said to be 1), class 1 has 4 (2 found, 2 said to be 0), class 2 none at all.
MATRIX = np.array([[5, 1, 0], [2, 2, 0], [0, 0, 0]])
NAMES = ("road", "tree", "boat")


def test_scores_by_hand():
    scores = segmentation_scores(MATRIX, NAMES)
    assert scores == pytest.approx({"miou": (5 / 8 + 2 / 5) / 2, "pixel_accuracy": 0.7,
                                    "mean_accuracy": (5 / 6 + 2 / 4) / 2, "iou/road": 5 / 8, "iou/tree": 2 / 5})
    np.testing.assert_allclose(class_iou(MATRIX), [5 / 8, 2 / 5, np.nan])


def test_a_class_that_is_said_and_never_true_counts_in_the_iou_alone():
    matrix = MATRIX.copy()
    matrix[0, 2] = 1
    scores = segmentation_scores(matrix, NAMES)
    assert scores["iou/boat"] == 0 and scores["miou"] == pytest.approx((5 / 9 + 2 / 5) / 3)
    assert scores["mean_accuracy"] == pytest.approx((5 / 7 + 2 / 4) / 2)


def test_no_pixel_that_counts():
    assert all(np.isnan(value) for value in segmentation_scores(np.zeros((3, 3), int), NAMES).values())


def test_scores_equal_those_of_masks():
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 4, (3, 9, 8)), rng.integers(0, 4, (3, 9, 8))
    truth[rng.random(truth.shape) < 0.2] = 255
    scores = segmentation_scores(sum(pixel_confusion(t, s, 4) for t, s in zip(truth, said)), "abcd")
    counted = truth != 255
    ious = [(counted & (truth == c) & (said == c)).sum() / (counted & ((truth == c) | (said == c))).sum()
            for c in range(4)]
    assert scores["miou"] == pytest.approx(np.mean(ious)) and scores["iou/b"] == pytest.approx(ious[1])
    assert scores["pixel_accuracy"] == pytest.approx((truth == said)[counted].mean())
    assert scores["mean_accuracy"] == pytest.approx(np.mean([(said == c)[truth == c].mean() for c in range(4)]))


def test_confusion_has_the_true_class_by_row_and_leaves_void_out():
    truth, said = np.array([[0, 1], [255, 1]], np.uint8), np.array([[1, 1], [9, 0]], np.uint8)
    assert pixel_confusion(truth, said, 2).tolist() == [[0, 1], [1, 1]]
    assert not pixel_confusion(np.full((2, 2), 255), said, 2).any()


@pytest.mark.parametrize("function, message", [
    (lambda: pixel_confusion(np.zeros((2, 2), int), np.zeros((2, 3), int), 2), r"share a shape, received \(2, 2\)"),
    (lambda: pixel_confusion(np.full((2, 2), 2), np.zeros((2, 2), int), 2), r"in \[0, 2\)"),
    (lambda: class_iou(np.zeros((2, 3), int)), r"must be integers \(K, K\), received int64 \(2, 3\)"),
    (lambda: class_iou(np.zeros((2, 2))), "received float64"),
    (lambda: segmentation_scores(MATRIX, "ab"), "one for each of 3 classes, received 2")])
def test_errors_say_what_came(function, message):
    with pytest.raises(ValueError, match=message):
        function()


def test_boundaries_are_those_of_the_classes_in_either_map():
    truth, said = np.zeros((20, 30), int), np.zeros((20, 30), int)
    truth[5:15, 5:15], said[5:15, 7:17] = 2, 2
    said[0, 0], truth[19, :] = 5, 255
    found = class_boundary_f(truth, said, tolerance=0.01)
    assert len(found) == 3 and found[2] == 0, "class 5 is not in the truth"
    void = truth == 255
    assert found[1] == pytest.approx(boundary_f(said == 2, truth == 2, void, tolerance=0.01)) and 0 < found[1] < 1
    # A diagonal of 36 pixels: two pixels to the side are within 3, and all but the stray corner is found.
    assert class_boundary_f(truth, said, tolerance=0.07)[1] == 1
    assert class_boundary_f(truth, truth).tolist() == [1, 1]


def test_a_class_that_fills_one_map_and_is_not_in_the_other_is_wrong():
    assert class_boundary_f(np.zeros((4, 4), int), np.ones((4, 4), int)).tolist() == [0, 0]


def test_the_table_says_what_the_scores_say():
    lines = iou_table(MATRIX, NAMES).splitlines()
    assert lines[1].split() == ["road", "62.50", "%", "83.33", "%", "60.00", "%"]
    assert lines[3].split() == ["boat", "-", "-", "0.00", "%"]
    assert lines[4].split() == ["mean", "51.25", "%", "66.67", "%"] and lines[5] == "pixel accuracy 70.00 %"
