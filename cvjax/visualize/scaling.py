"""A picture of a scaling ladder: loss over parameters and over data, with the fitted law."""

from collections.abc import Callable, Sequence
from os import PathLike

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from cvjax.visualize.sheet import save_figure


def plot_scaling(path: str | PathLike, rungs: Sequence[tuple[float, float, float]], law: Callable) -> None:
    """Save a PNG with two log-log panels, in which dots are measured and lines are the law.

    rungs: (parameters, training images, loss), all positive. law(parameters, images) -> loss, all arrays of one shape.
    """
    measured = np.asarray(rungs, np.float64)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    what = "parameters", "training images"
    for axes, (x, group) in zip(figure.subplots(1, 2, sharey=True), ((0, 1), (1, 0))):
        groups = np.unique(measured[:, group])
        for value, colour in zip(groups, colormaps["viridis"](np.linspace(0, 0.85, len(groups)))):
            rows = measured[measured[:, group] == value]
            line = np.geomspace(measured[:, x].min(), measured[:, x].max(), 50)
            held = np.full_like(line, value)
            axes.plot(line, law(line, held) if x == 0 else law(held, line), color=colour, linewidth=1)
            axes.plot(rows[:, x], rows[:, 2], "o", color=colour, label=f"{value:,.0f}")
        axes.set(xscale="log", yscale="log", xlabel=what[x], ylabel="test loss" if x == 0 else "")
        axes.legend(title=what[group], fontsize=8, title_fontsize=8)
        axes.grid(alpha=0.25, which="both")
    save_figure(figure, path, dpi=110)
