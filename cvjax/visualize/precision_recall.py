"""Precision over recall of a detector, class by class."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from matplotlib.figure import Figure

from cvjax.evaluate.shares import in_words
from cvjax.visualize.colours import class_colours
from cvjax.visualize.sheet import class_labels, in_percent, legend, save_figure


def plot_precision_recall(path: str | PathLike, curves: Sequence[Sequence[np.ndarray] | None],
                          names: Sequence[str], *, title: str = "") -> None:
    """Save a PNG with a line for each class, whose legend has the area under it. Precision is made non-increasing.

    curves: for each class its recall, which rises, and precision, `(D,)` in [0, 1] (further fields are not read). None
    for a class without objects, which is left out. names: one per class. Anything else raises ValueError.
    """
    if len(curves) != len(names) or not any(curve is not None for curve in curves):
        raise ValueError(f"there must be a curve or None for each of {len(names)} classes, and at least one curve, "
                         f"received {sum(c is not None for c in curves)} curves and {len(curves)} entries")
    lines = []
    for label, curve in enumerate(curves):
        if curve is not None:
            recall, precision = _checked(curve[0], curve[1], names[label])
            area = float((np.diff(recall, prepend=0) * precision).sum())
            lines.append((area, label, recall, precision))
    figure = Figure(figsize=(7.2, 4.8), dpi=120, layout="constrained")
    axes, words, colours = figure.subplots(), class_labels(names), class_colours(len(names))
    for area, label, recall, precision in sorted(lines, key=lambda line: -line[0]):
        # The line starts at a recall of 0, and falls to a precision of 0 if objects were not found.
        x, y = np.concatenate([[0], recall]), np.concatenate([precision[:1], precision]) if len(recall) else [0.0]
        if x[-1] < 1:
            x, y = np.append(x, x[-1]), np.append(y, 0)
        axes.plot(x, y, color=colours[label], linewidth=1.6, label=f"{words[label]}  {in_words('ap', area)}",
                  drawstyle="steps-pre")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall", ylabel="precision")
    in_percent(axes.xaxis, axes.yaxis)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    drawn = axes.get_lines()
    legend(figure, drawn, [str(line.get_label()) for line in drawn], loc="outside right upper", fontsize=8,
           title="average precision", title_fontsize=8, ncols=1 + len(lines) // 24)
    if title:
        axes.set_title(title, fontsize=10, wrap=True, parse_math=False)
    save_figure(figure, path)


def _checked(recall: np.ndarray, precision: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Recall, and the best precision from each recall on."""
    recall, precision = np.asarray(recall, float), np.asarray(precision, float)
    if recall.shape != precision.shape or recall.ndim != 1 or (np.diff(recall) < 0).any():
        raise ValueError(f"recall of {name}, which rises, and precision must be (D,), received {recall.shape} and "
                         f"{precision.shape}")
    for values in (recall, precision):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"recall and precision of {name} must lie in [0, 1], received {values.min()} to "
                             f"{values.max()}")
    return recall, np.maximum.accumulate(precision[::-1])[::-1]
