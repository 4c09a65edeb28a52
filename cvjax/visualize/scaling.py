"""A picture of a scaling ladder: loss against parameters and against data, with the fitted law."""

from collections.abc import Callable, Sequence
from os import PathLike

import numpy as np

from cvjax.visualize.sheet import save_figure


def plot_scaling(path: str | PathLike, rungs: Sequence[tuple[float, float, float]], law: Callable) -> None:
    """Save a PNG of two log-log panels; dots are measured, lines are the law.

    rungs: (parameters, training images, loss), all positive. law(parameters, images) -> loss.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rungs = np.asarray(rungs, np.float64)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    what = "parameters", "training images"
    for axes, (x, group) in zip(figure.subplots(1, 2, sharey=True), ((0, 1), (1, 0))):
        groups = np.unique(rungs[:, group])
        for value, colour in zip(groups, colormaps["viridis"](np.linspace(0, 0.85, len(groups)))):
            rows = rungs[rungs[:, group] == value]
            line = np.geomspace(rungs[:, x].min(), rungs[:, x].max(), 50)
            held = np.full_like(line, value)
            axes.plot(line, law(line, held) if x == 0 else law(held, line), color=colour, linewidth=1)
            axes.plot(rows[:, x], rows[:, 2], "o", color=colour, label=f"{value:,.0f}")
        axes.set(xscale="log", yscale="log", xlabel=what[x], ylabel="test loss" if x == 0 else "")
        axes.legend(title=what[group], fontsize=8, title_fontsize=8)
        axes.grid(alpha=0.25, which="both")
    save_figure(figure, path, dpi=110)
