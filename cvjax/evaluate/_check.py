"""Checks of features, labels and predictions: each error says in one line what was received."""

import numpy as np
from numpy.typing import ArrayLike


def check_features(name: str, features: ArrayLike, labels: ArrayLike | None = None,
                   num_classes: int | None = None) -> None:
    """Raise ValueError unless `features` is finite `(N, D)`, with int labels `(N,)` in [0, num_classes), if given."""
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name} features must be (N, D) with N, D > 0, received shape {features.shape}")
    finite = np.isfinite(features.sum(axis=1, dtype=np.float64))  # one number per row: no (N, D) temporary
    if not finite.all():
        raise ValueError(f"{name} features must be finite, received NaN or inf in {(~finite).sum()} rows")
    if labels is not None:
        check_labels(f"{name} labels", labels, len(features), num_classes)


def check_labels(name: str, labels: ArrayLike, count: int, num_classes: int | None) -> None:
    """Raise ValueError unless `labels` is int `(count,)` in [0, num_classes); None: 0 or more."""
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name} must be integers of shape {(count,)}, received {labels.dtype} of shape {labels.shape}"
        )
    if labels.min() < 0 or num_classes is not None and labels.max() >= num_classes:
        bound = "inf" if num_classes is None else num_classes
        raise ValueError(f"{name} must lie in [0, {bound}), received {labels.min()} to {labels.max()}")


def check_same_dim(train: ArrayLike, test: ArrayLike) -> None:
    """Raise ValueError unless both are `(..., D)` with the same D."""
    shapes = np.shape(train), np.shape(test)
    if shapes[0][1] != shapes[1][1]:
        raise ValueError(f"train and test features must share D, received {shapes[0]} and {shapes[1]}")
