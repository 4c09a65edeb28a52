"""The reliability diagram: accuracy against confidence of a classifier.

Guo et al. 2017 (https://arxiv.org/abs/1706.04599), fig. 1; sec. 2, eq. 3, defines the expected calibration error.
"""

from os import PathLike

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from cvjax.visualize.sheet import in_percent, save_figure


def plot_reliability(path: str | PathLike, confidence: ArrayLike, accuracy: ArrayLike, count: ArrayLike, *,
                     title: str = "") -> None:
    """Save a PNG: the accuracy of each bin of confidence and its gap to the confidence, and the sizes of the bins.

    confidence, accuracy: `(M,)`, means over bin i, which holds the examples with a confidence from i / M to
    (i + 1) / M. Values of empty bins are not read. count: int `(M,)`, examples per bin, not all 0. Anything else raises
    ValueError.
    """
    confidence, accuracy, count = np.asarray(confidence, float), np.asarray(accuracy, float), np.asarray(count)
    _check(confidence, accuracy, count)
    bins, filled = len(count), count > 0
    edges, width = np.arange(bins) / bins, 1 / bins
    weight = count[filled] / count.sum()
    error = float((weight * np.abs(accuracy - confidence)[filled]).sum())
    mean = {"confidence": float(weight @ confidence[filled]), "accuracy": float(weight @ accuracy[filled])}

    figure = Figure(figsize=(5, 6.4), dpi=120, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(edges[filled], accuracy[filled], width, align="edge", color="tab:blue", edgecolor="black",
              linewidth=0.6, label="accuracy")
    # The gap between accuracy and mean confidence is drawn on top of the accuracy, or as a part of it.
    sure = filled & (confidence > accuracy)
    unsure = filled & (confidence < accuracy)
    for bars, low, high, colour, edge, label in (
            (sure, accuracy, confidence, "#f6bcbc", "tab:red", "confidence above it: too sure"),
            (unsure, confidence, accuracy, "#bcdcf6", "tab:blue", "part above confidence: too unsure")):
        if bars.any():
            upper.bar(edges[bars], (high - low)[bars], width, low[bars], align="edge", color=colour, hatch="//",
                      edgecolor=edge, linewidth=0.6, label=label)
    upper.plot([0, 1], [0, 1], "--", color="dimgrey", linewidth=1, label="perfect")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.legend(loc="upper left", fontsize=8)
    upper.set_title("\n".join(filter(None, [title, f"expected calibration error {100 * error:.2f} %"])), fontsize=10,
                    wrap=True, parse_math=False, pad=10)  # above the highest number at the axis
    lower.bar(edges, count / count.sum(), width, align="edge", color="lightgrey", edgecolor="black", linewidth=0.6)
    for (name, place), style in zip(mean.items(), ("--", "-")):
        lower.axvline(place, color="black", linestyle=style, linewidth=1.2, label=f"mean {name} {100 * place:.1f} %")
    lower.set(ylim=(0, 1), xlabel="confidence", ylabel="share of examples")
    lower.legend(loc="upper left", fontsize=8)
    in_percent(upper.yaxis, lower.xaxis, lower.yaxis)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _check(confidence: np.ndarray, accuracy: np.ndarray, count: np.ndarray) -> None:
    if count.ndim != 1 or not np.issubdtype(count.dtype, np.integer) or not count.any() or count.min() < 0:
        raise ValueError(f"count must be integers (M,), 0 or more, not all 0, received {count.dtype} {count.tolist()}")
    if confidence.shape != count.shape or accuracy.shape != count.shape:
        raise ValueError(f"confidence and accuracy must be {count.shape} like count, received {confidence.shape} "
                         f"and {accuracy.shape}")
    filled = count > 0
    if not np.all((accuracy[filled] >= 0) & (accuracy[filled] <= 1)):
        raise ValueError(f"accuracy must lie in [0, 1], received {accuracy[filled]}")
    low = np.arange(len(count)) / len(count)
    inside = np.abs(confidence - low - 0.5 / len(count)) <= 0.5 / len(count) + 1e-3  # probabilities are rounded
    if not inside[filled].all():
        wrong = int(np.flatnonzero(filled & ~inside)[0])
        raise ValueError(f"confidence must lie in its bin, received {confidence[wrong]:.3g} in bin {wrong} "
                         f"of {len(count)}")
