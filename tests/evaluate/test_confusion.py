"""Confusion matrices against scikit-learn, and by hand."""

import numpy as np
import pytest
from sklearn import metrics

from cvjax.evaluate.confusion import class_scores, class_table, confusion_matrix

# Class 0: 4 examples, 2 found; class 1: 2 examples, 1 found; class 2: never there; class 3: never predicted.
LABELS = np.array([0, 0, 0, 0, 1, 1, 3])
PREDICTIONS = np.array([0, 0, 1, 1, 1, 2, 0])
MATRIX = [[2, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_rows_are_true_classes():
    found = confusion_matrix(LABELS, PREDICTIONS, 4)
    np.testing.assert_array_equal(found, MATRIX)
    assert found.dtype == np.int64


def test_scores_by_hand():
    scores = class_scores(MATRIX)
    np.testing.assert_allclose(scores.precision, [2 / 3, 1 / 3, 0, 0])
    np.testing.assert_allclose(scores.recall, [1 / 2, 1 / 2, 0, 0])
    np.testing.assert_allclose(scores.f1, [4 / 7, 2 / 5, 0, 0])
    np.testing.assert_array_equal(scores.support, [4, 2, 0, 1])


@pytest.mark.parametrize("classes, count", [(2, 50), (7, 300), (12, 10)])
def test_scikit_learn(classes, count):
    rng = np.random.default_rng(classes)
    labels = rng.integers(classes, size=count).astype(np.int32)
    predictions = np.where(rng.uniform(size=count) < 0.6, labels, rng.integers(classes, size=count))
    matrix = confusion_matrix(labels, predictions, classes)
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(labels, predictions, labels=range(classes)))
    expected = metrics.precision_recall_fscore_support(labels, predictions, labels=range(classes), zero_division=0)
    for found, wanted in zip(class_scores(matrix), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_labels_of_few_bits_do_not_overflow():
    labels = np.full(5, 200, np.uint8)
    assert confusion_matrix(labels, labels, 201)[200, 200] == 5


def test_table():
    assert class_table(MATRIX, ["cat", "dog", "emu", "fox"]).splitlines() == [
        "class     precision   recall       F1  support",
        "cat         66.67 %  50.00 %  57.14 %        4",
        "dog         33.33 %  50.00 %  40.00 %        2",
        "emu          0.00 %   0.00 %   0.00 %        0",
        "fox          0.00 %   0.00 %   0.00 %        1",
        "mean        25.00 %  25.00 %  24.29 %        7",
        "accuracy                      42.86 %        7",
    ]
    assert class_table([[3]]).splitlines()[1].split() == ["0", "100.00", "%", "100.00", "%", "100.00", "%", "3"]


@pytest.mark.parametrize("call, message", [
    (lambda: confusion_matrix([], [], 3), "must be at least 1, received num_classes=3 and N=0"),
    (lambda: confusion_matrix([0], [0], 0), "must be at least 1, received num_classes=0 and N=1"),
    (lambda: confusion_matrix([0, 1], [0], 3), r"predictions must be integers of shape \(2,\), received int64"),
    (lambda: confusion_matrix([0.0], [0], 3), r"labels must be integers of shape \(1,\), received float64"),
    (lambda: confusion_matrix([0, 3], [0, 0], 3), r"labels must lie in \[0, 3\), received 0 to 3"),
    (lambda: confusion_matrix([0], [-1], 3), r"predictions must lie in \[0, 3\), received -1 to -1"),
    (lambda: class_scores([[1, 2]]), r"must be \(K, K\) with K > 0, received shape \(1, 2\)"),
    (lambda: class_scores([[0.5]]), "must be counts of 0 or more, received float64 from 0.5"),
    (lambda: class_scores([[-1]]), "must be counts of 0 or more, received int64 from -1"),
    (lambda: class_table(MATRIX, ["a"]), "names must be one for each of 4 classes, received 1"),
])
def test_what_cannot_be_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
