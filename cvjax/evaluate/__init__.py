"""Measure a finished model."""

from cvjax.evaluate.features import extract_features
from cvjax.evaluate.knn import knn_accuracy, knn_scores
from cvjax.evaluate.linear_probe import LinearProbeResult, linear_probe

__all__ = ["LinearProbeResult", "extract_features", "knn_accuracy", "knn_scores", "linear_probe"]
