"""Measure a finished model."""

from cvjax.evaluate.attention_maps import best_head_jaccard, class_attention, mass_mask
from cvjax.evaluate.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)
from cvjax.evaluate.confusion import class_scores, class_table, confusion_matrix
from cvjax.evaluate.copy_detection import (
    CopyDetectionResult,
    Whitening,
    copy_detection,
    copy_features,
    fit_whitening,
    generalized_mean,
)
from cvjax.evaluate.features import extract_features
from cvjax.evaluate.few_shot import FewShotResult, few_shot
from cvjax.evaluate.knn import knn_accuracy, knn_scores, nearest_neighbours
from cvjax.evaluate.label_propagation import grid_labels, pixel_labels, propagate, propagate_video, start_memory
from cvjax.evaluate.linear_probe import LinearProbeResult, linear_probe
from cvjax.evaluate.mask_scores import boundary_f, davis_summary, frame_statistics, jaccard, video_scores
from cvjax.evaluate.multi_label import average_precision, label_scores, label_table, multi_label_scores
from cvjax.evaluate.regression import column_errors, regression_scores, regression_table
from cvjax.evaluate.retrieval import RetrievalResult, class_retrieval, revisited_retrieval

__all__ = [
    "CopyDetectionResult", "FewShotResult", "LinearProbeResult", "RetrievalResult", "Whitening", "average_precision",
    "best_head_jaccard", "boundary_f", "class_attention", "class_retrieval", "class_scores", "class_table",
    "column_errors", "confusion_matrix", "copy_detection", "copy_features", "davis_summary",
    "expected_calibration_error", "extract_features", "few_shot", "fit_temperature", "fit_whitening",
    "frame_statistics", "generalized_mean", "grid_labels", "jaccard", "knn_accuracy", "knn_scores", "label_scores",
    "label_table", "linear_probe", "mass_mask", "multi_label_scores", "nearest_neighbours", "negative_log_likelihood",
    "pixel_labels", "propagate", "propagate_video", "regression_scores", "regression_table", "reliability",
    "revisited_retrieval", "start_memory", "video_scores",
]
