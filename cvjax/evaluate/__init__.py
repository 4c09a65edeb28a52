"""Measure a finished model."""

from cvjax.evaluate.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)
from cvjax.evaluate.confusion import class_scores, class_table, confusion_matrix
from cvjax.evaluate.features import extract_features
from cvjax.evaluate.knn import knn_accuracy, knn_scores
from cvjax.evaluate.linear_probe import LinearProbeResult, linear_probe

__all__ = [
    "LinearProbeResult", "class_scores", "class_table", "confusion_matrix", "expected_calibration_error",
    "extract_features", "fit_temperature", "knn_accuracy", "knn_scores", "linear_probe", "negative_log_likelihood",
    "reliability",
]
