"""A picture of how costs grow with the size of the image."""

from collections.abc import Mapping
from os import PathLike

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from cvjax.visualize.sheet import save_figure


def plot_costs(path: str | PathLike, costs: Mapping[str, Mapping[str, Mapping[int, float]]]) -> None:
    """Save a PNG with a panel for each kind of cost and a curve for each model, on logarithmic axes.

    costs: kind ("GFLOPs") -> model -> side of the image in pixels -> cost, more than 0. Each curve has a dotted line
    that starts where it starts and grows as the image's area.
    """
    figure = Figure(figsize=(4.4 * len(costs), 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for number, (kind, curves) in enumerate(costs.items(), start=1):
        axes = figure.add_subplot(1, len(costs), number)
        for model, curve in curves.items():
            own = sorted(curve)
            line, = axes.loglog(own, [curve[side] for side in own], marker="o", markersize=4, label=model)
            axes.loglog(own, [curve[own[0]] * (side / own[0]) ** 2 for side in own], ":", linewidth=1.2,
                        color=line.get_color())
        sides = sorted({side for curve in curves.values() for side in curve})
        axes.loglog([], [], ":", color="dimgrey", label="linear in area")
        axes.set_xticks(sides, [str(side) for side in sides])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("side of the image, pixels", fontsize=9)
        axes.set_ylabel(kind, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    save_figure(figure, path)
