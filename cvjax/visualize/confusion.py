"""A picture of the confusion matrix."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from cvjax.visualize.sheet import class_labels, in_percent, save_figure, shortened

_NUMBERED = 20  # classes up to which the cells show their counts


def plot_confusion(path: str | PathLike, matrix: ArrayLike, names: Sequence[str], *, title: str = "") -> None:
    """Save a PNG: a row per true class, a column per predicted class, coloured by the share of the row's examples.

    With up to 20 classes, each cell that is not empty shows its count. The row of a class without examples is grey.

    matrix: int `(K, K)`, [i, j] counts the examples of class i that were predicted as j. names: one per class. Anything
    else raises ValueError.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or len(matrix) != matrix.shape[1] or not matrix.size:
        raise ValueError(f"matrix must be (K, K) with K > 0, received shape {matrix.shape}")
    if not np.issubdtype(matrix.dtype, np.integer) or matrix.min() < 0:
        raise ValueError(f"matrix must be counts of 0 or more, received {matrix.dtype} from {matrix.min()}")
    if len(names) != len(matrix):
        raise ValueError(f"names must be one for each of {len(matrix)} classes, received {len(names)}")
    words = list(map(shortened, class_labels(names)))
    examples = matrix.sum(axis=1, keepdims=True)
    share = np.where(examples > 0, matrix / np.maximum(examples, 1), np.nan)
    count = len(matrix)
    numbered = count <= _NUMBERED
    cell = max(0.45 if numbered else 0.15, 0.1 * len(str(matrix.max())) if numbered else 0)  # inches
    side = max(cell * count, 2.0)
    figure = Figure(figsize=(side + 3.4, side + 2.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(share, vmin=0, vmax=1, cmap=colormaps["Blues"].with_extremes(bad="lightgrey"))
    size = 9 if numbered else 7
    axes.set_xticks(range(count), words, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), words, fontsize=size, parse_math=False)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=10, wrap=True, parse_math=False)
    if numbered:
        for (row, column), number in np.ndenumerate(matrix):
            if number:
                axes.text(column, row, str(number), ha="center", va="center", fontsize=8,
                          color="white" if share[row, column] > 0.5 else "black")
    bar = figure.colorbar(picture, ax=axes, shrink=0.6, aspect=25, fraction=0.05, label="share of the true class")
    in_percent(bar.ax.yaxis)
    save_figure(figure, path)
