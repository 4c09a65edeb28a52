"""Features, labels and predictions are checked once, early, with one line that says what was received."""

import numpy as np


def check_features(name: str, features, labels=None, num_classes: int | None = None) -> None:
    """Raise ValueError unless `features` is finite `(N, D)`, with int labels `(N,)` in [0, num_classes)."""
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name} features must be (N, D) with N, D > 0, received shape {features.shape}")
    finite = np.isfinite(features.sum(axis=1, dtype=np.float64))  # one number per row: no (N, D) temporary
    if not finite.all():
        raise ValueError(f"{name} features must be finite, received NaN or inf in {(~finite).sum()} rows")
    if labels is not None:
        check_labels(f"{name} labels", labels, len(features), num_classes)


def check_labels(name: str, labels, count: int, num_classes: int) -> None:
    """Raise ValueError unless `labels` is int `(count,)` in [0, num_classes)."""
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name} must be integers of shape {(count,)}, received {labels.dtype} of shape {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"{name} must lie in [0, {num_classes}), received {labels.min()} to {labels.max()}")


def check_same_dim(train, test) -> None:
    """Raise ValueError unless both are `(..., D)` with one D."""
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"train and test features must share D, received {train.shape} and {test.shape}")
