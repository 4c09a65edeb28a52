"""Predicted numbers over true ones, a panel for each column."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from cvjax.visualize.sheet import class_labels, save_figure, shortened

_MOST = 12  # panels


def plot_predictions(path: str | PathLike, truth: ArrayLike, predictions: ArrayLike, names: Sequence[str], *,
                     title: str = "") -> None:
    """Save a PNG with a dot for each image; on the line, a prediction is the truth. Of more than 12 columns the first.

    truth, predictions: finite `(N, K)`, N > 0. names: one per column. Anything else raises ValueError.
    """
    truth, predictions = np.asarray(truth, np.float64), np.asarray(predictions, np.float64)
    if truth.shape != predictions.shape or truth.ndim != 2 or truth.shape[1] != len(names) or not truth.size:
        raise ValueError(f"truth and predictions must be (N, {len(names)}) with N > 0, received {truth.shape} and "
                         f"{predictions.shape}")
    if not (np.isfinite(truth).all() and np.isfinite(predictions).all()):
        raise ValueError("truth and predictions must be finite")
    count = min(len(names), _MOST)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(3.4 * columns, 4.2), 3.5 * rows + 0.4), dpi=110, layout="constrained")
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if place >= count:
            axes.set_visible(False)
            continue
        x, y = truth[:, place], predictions[:, place]
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        margin = 0.05 * (high - low) or 1.0
        ends = low - margin, high + margin
        axes.plot(ends, ends, color="grey", linewidth=1)
        axes.plot(x, y, "o", color="#4c78a8", markersize=4, markeredgewidth=0, alpha=max(0.15, min(0.8, 60 / len(x))))
        axes.set(xlim=ends, ylim=ends, aspect="equal", xlabel="true", ylabel="predicted")
        axes.set_title(shortened(class_labels(names)[place]), fontsize=9, parse_math=False)
        axes.locator_params(nbins=5)
        axes.grid(alpha=0.25)
    more = f", the first {count} of {len(names)} columns" if len(names) > count else ""
    figure.suptitle(f"{title}{': ' * bool(title)}{len(truth):,} images{more}", fontsize=10, parse_math=False)
    save_figure(figure, path)
