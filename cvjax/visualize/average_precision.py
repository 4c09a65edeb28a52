"""Average precision of each label as bars, from the best label to the worst."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from cvjax.evaluate.shares import in_words
from cvjax.visualize.sheet import class_labels, in_percent, save_figure, shortened

_MOST = 60  # bars that stay readable


def plot_average_precision(path: str | PathLike, precisions: ArrayLike, support: ArrayLike, names: Sequence[str], *,
                           title: str = "") -> None:
    """Save a PNG with a bar for each label and a line at their mean. Of more than 60 labels it shows the worst.

    precisions: `(K,)` in [0, 1], nan for a label without images, which is left out. support: int `(K,)`, images of each
    label. names: one per label. Anything else raises ValueError.
    """
    precisions, support = np.asarray(precisions, np.float64), np.asarray(support)
    if not precisions.shape == support.shape == (len(names),):
        raise ValueError(f"there must be a precision and a support for each of {len(names)} labels, received "
                         f"{precisions.shape} and {support.shape}")
    known = np.flatnonzero(~np.isnan(precisions))
    if not ((precisions[known] >= 0) & (precisions[known] <= 1)).all():
        raise ValueError(f"precisions must lie in [0, 1], received {precisions.min():.3g} to {precisions.max():.3g}")
    order = known[np.argsort(precisions[known], kind="stable")][:_MOST]
    words = class_labels(names)
    figure = Figure(figsize=(7.2, 1.4 + 0.22 * max(len(order), 3)), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(order)), precisions[order], color="#4c78a8", height=0.75)
    axes.set_yticks(range(len(order)), [f"{shortened(words[k])}  ({support[k]:,})" for k in order], fontsize=8,
                    parse_math=False)
    if len(known):
        mean = precisions[known].mean()
        axes.axvline(mean, color="black", linewidth=1, linestyle="--")
        shown = f"the worst {len(order)} of {len(known)} labels" if len(known) > len(order) else f"{len(known)} labels"
        axes.set_title(f"{title}{': ' * bool(title)}mean {in_words('ap', mean)}, {shown}", fontsize=10, wrap=True,
                       parse_math=False)
    axes.set(xlim=(0, 1), xlabel="average precision", ylim=(-0.6, max(len(order), 1) - 0.4))
    in_percent(axes.xaxis)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
