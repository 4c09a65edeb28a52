"""A picture of the time of a step: a panel for each row, a bar for each side."""

from collections.abc import Sequence
from os import PathLike
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvjax.visualize.sheet import WRONG, save_figure

_OURS, _BEST, _OTHER = "tab:blue", "dimgrey", "lightgrey"
_CHARACTERS = 120  # that are shown of the reason why a bar is missing


class Bar(NamedTuple):
    """One side's step.

    seconds: lower quartile, median, upper quartile; None if the side failed. note: the text behind the bar, or why
    there is none. role: "ours"; "best", which ours is compared with; or "other".
    """

    side: str
    seconds: tuple[float, float, float] | None
    note: str
    role: str = "other"


def plot_throughput(path: str | PathLike, panels: Sequence[tuple[str, Sequence[Bar]]], *, clock: str = "") -> None:
    """Save a PNG with one panel below the other; each has its own axis, which begins at 0.

    panels: (title, bars from the top down); at least one panel, and at least one bar in each. clock: the kind of time,
    for the label of the axis.
    """
    if not panels or not all(bars for _, bars in panels):
        raise ValueError(f"panels must be one or more with at least one bar, received panels of "
                         f"{[len(bars) for _, bars in panels]} bars")
    heights = [0.9 + 0.32 * len(bars) for _, bars in panels]
    figure = Figure(figsize=(9.5, sum(heights) + 0.3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(panels), 1, height_ratios=heights)
    colours = {"ours": _OURS, "best": _BEST, "other": _OTHER}
    for number, (title, bars) in enumerate(panels):
        axes = figure.add_subplot(grid[number])
        longest = max([1e3 * bar.seconds[2] for bar in bars if bar.seconds], default=1.0)
        for place, bar in enumerate(bars):
            if bar.seconds is None:
                axes.text(0.01 * longest, place, _short(bar.note), va="center", fontsize=7.5, color=WRONG,
                          parse_math=False)
                continue
            low, median, high = (1e3 * seconds for seconds in bar.seconds)
            axes.barh(place, median, height=0.68, color=colours[bar.role])
            axes.errorbar(median, place, xerr=[[median - low], [high - median]], color="black", linewidth=1,
                          capsize=2.5)
            axes.annotate(bar.note, (high, place), (6, 0), textcoords="offset points", va="center", fontsize=8,
                          parse_math=False)
        axes.set_xlim(0, longest * 1.95)  # room for the notes
        axes.set_xticks([tick for tick in MaxNLocator(5).tick_values(0, longest) if tick <= longest])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_yticks(range(len(bars)), [bar.side for bar in bars], fontsize=8.5, parse_math=False)
        axes.set_title(title, fontsize=9.5, loc="left", parse_math=False)
        axes.tick_params(axis="x", labelsize=7.5)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        if number == len(panels) - 1:
            axes.set_xlabel(f"ms for a step{f', {clock}' if clock else ''}: median and quartiles", fontsize=8.5)
    save_figure(figure, path)


def _short(text: str) -> str:
    return text if len(text) <= _CHARACTERS else text[:_CHARACTERS - 1] + "…"
