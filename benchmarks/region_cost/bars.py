"""A picture of the costs of each detector."""

from collections.abc import Mapping, Sequence
from os import PathLike

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from cvjax.visualize.sheet import save_figure


def plot_region_costs(path: str | PathLike, methods: Sequence[str], costs: Mapping[str, Sequence[float]], *,
                      title: str = "") -> None:
    """Save a PNG with a panel for each kind of cost and a bar for each method, the first on top, on logarithmic axes.

    costs: kind ("GFLOPs") -> one number above 0 for each method, which is written at the end of its bar.
    """
    for kind, values in costs.items():
        if len(values) != len(methods) or not values or min(values) <= 0:
            raise ValueError(f"{kind} must be a number above 0 for each of {len(methods)} methods, received "
                             f"{list(values)}")
    figure = Figure(figsize=(3.4 * len(costs) + 1.2, 0.42 * len(methods) + 1.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    first: Axes | None = None
    for number, (kind, values) in enumerate(costs.items(), start=1):
        axes = figure.add_subplot(1, len(costs), number, sharey=first)
        first = first or axes
        places = range(len(methods))
        low, high = min(values) / 3, max(values)
        axes.barh(places, values, left=0, height=0.62, color=[f"C{place}" for place in places])
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(low, high * (high / low) ** 0.3)  # room for the numbers
        for place, value in zip(places, values):
            axes.text(value, place, f" {value:,.0f}" if value >= 100 else f" {value:.3g}", va="center", fontsize=8)
        axes.set_xlabel(kind, fontsize=9)
        axes.set_yticks(places, methods, fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", left=False, labelleft=number == 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.3, linewidth=0.6)
        axes.set_axisbelow(True)
    if first is not None:
        first.invert_yaxis()
    if title:
        figure.suptitle(title, fontsize=10)
    save_figure(figure, path)
