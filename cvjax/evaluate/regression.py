"""Errors of predicted numbers: MAE, RMSE and R2 of each column."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cvjax.evaluate.table import aligned


class ColumnErrors(NamedTuple):
    """Per column, float64 `(K,)` each, in its own units."""

    mae: np.ndarray  # mean absolute error
    rmse: np.ndarray  # root of the mean squared error
    r2: np.ndarray  # 1 - squared error / squared distance from the mean, at most 1; nan where all truths are equal


def column_errors(predictions: ArrayLike, truth: ArrayLike) -> ColumnErrors:
    """The errors of finite predictions `(N, K)` of the truth `(N, K)`, N, K > 0; anything else raises ValueError."""
    predictions, truth = np.asarray(predictions, np.float64), np.asarray(truth, np.float64)
    if predictions.shape != truth.shape or truth.ndim != 2 or not truth.size:
        raise ValueError(f"predictions and truth must be (N, K) with N, K > 0, received {predictions.shape} and "
                         f"{truth.shape}")
    if not (np.isfinite(predictions).all() and np.isfinite(truth).all()):
        raise ValueError("predictions and truth must be finite")
    errors = predictions - truth
    squares, spread = np.square(errors).sum(axis=0), np.square(truth - truth.mean(axis=0)).sum(axis=0)
    varies = (truth != truth[0]).any(axis=0)
    r2 = np.where(varies, 1 - squares / np.where(varies, spread, 1), np.nan)
    return ColumnErrors(np.abs(errors).mean(axis=0), np.sqrt(squares / len(truth)), r2)


def regression_scores(predictions: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """`mae`, `rmse` and `r2`: the means over the columns; R2 over those whose truths differ, nan if none do."""
    errors = column_errors(predictions, truth)
    return {"mae": float(errors.mae.mean()), "rmse": float(errors.rmse.mean()), "r2": _mean_r2(errors)}


def regression_table(predictions: ArrayLike, truth: ArrayLike, names: Sequence[str]) -> str:
    """A row for each column as text, with the mean and the deviation of its truths; and the mean over several columns.

    Columns without an R2 are named below.
    """
    errors, truth = column_errors(predictions, truth), np.asarray(truth, np.float64)
    rows: list[tuple[str, ...]] = [("column", "MAE", "RMSE", "R2", "mean", "deviation")]
    rows += [(name, f"{mae:.4g}", f"{rmse:.4g}", "-" if np.isnan(r2) else f"{r2:.4f}", f"{column.mean():.4g}",
              f"{column.std():.4g}") for name, mae, rmse, r2, column in zip(names, *errors, truth.T, strict=True)]
    if len(names) > 1:
        r2 = _mean_r2(errors)
        rows.append(("mean", f"{errors.mae.mean():.4g}", f"{errors.rmse.mean():.4g}",
                     "-" if np.isnan(r2) else f"{r2:.4f}", "", ""))
    without = [name for name, r2 in zip(names, errors.r2, strict=True) if np.isnan(r2)]
    left_out = f"\nall truths are equal, so that there is no R2: {', '.join(without)}" if without else ""
    return aligned(rows) + left_out


def _mean_r2(errors: ColumnErrors) -> float:
    known = errors.r2[~np.isnan(errors.r2)]
    return float(known.mean()) if known.size else np.nan
