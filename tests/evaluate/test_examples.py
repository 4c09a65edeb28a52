"""Functions that no experiment calls show how they are called: the examples in their docstrings run."""

import doctest
import sys

import pytest

from cvjax.evaluate.calibration import fit_temperature
from cvjax.evaluate.knn import knn_scores
from cvjax.evaluate.label_propagation import propagate_video
from cvjax.evaluate.retrieval import revisited_retrieval
from cvjax.evaluate.saliency import smooth_grad
from cvjax.ops.boxes import generalized_iou


@pytest.mark.parametrize("function", [fit_temperature, generalized_iou, knn_scores, propagate_video,
                                      revisited_retrieval, smooth_grad], ids=lambda function: function.__name__)
def test_the_example_in_the_docstring_runs(function):
    found = doctest.DocTestFinder(recurse=False).find(function, globs=vars(sys.modules[function.__module__]).copy())
    assert found and found[0].examples
    assert doctest.DocTestRunner().run(found[0]).failed == 0
