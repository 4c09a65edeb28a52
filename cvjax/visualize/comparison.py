"""A comparison of runs: a panel for each metric with a dot for each run."""

from collections.abc import Mapping, Sequence
from os import PathLike

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvjax.evaluate.shares import in_words, is_share
from cvjax.visualize.sheet import in_percent, save_figure

_CHARACTERS = 44  # of a row's label
_ACROSS = 4  # panels side by side


def plot_comparison(path: str | PathLike, columns: Mapping[str, str],
                    rows: Mapping[str, Sequence[tuple[float, float | None] | None]]) -> None:
    """Save a PNG with one panel per column, each with its own axis. Each dot has its number above it.

    columns: name -> title; the name says whether the numbers are shares (see `cvjax.evaluate.shares`), which are read
    as percent. rows: label -> for each column (value, standard deviation or None), or None if there is no number. Rows
    are drawn from top to bottom, and a deviation is a bar to both sides. Long labels lose their middle. ValueError
    unless each row has an entry for each of one or more columns.
    """
    if not columns or not rows or any(len(cells) != len(columns) for cells in rows.values()):
        raise ValueError(f"rows must have a cell for each of one or more columns, received {len(columns)} columns and "
                         f"rows of {[len(cells) for cells in rows.values()]}")
    across, down = min(len(columns), _ACROSS), -(-len(columns) // _ACROSS)
    figure = Figure(figsize=(3.6 + 2.6 * across, (1.2 + 0.42 * len(rows)) * down), dpi=110, layout="constrained")
    for number, (column, title) in enumerate(columns.items()):
        axes = figure.add_subplot(down, across, number + 1)
        for place, cells in enumerate(rows.values()):
            cell = cells[number]
            if cell is None:
                continue
            value, deviation = cell
            axes.errorbar([value], [place], xerr=None if deviation is None else [deviation], fmt="o", markersize=5,
                          capsize=3, color=f"C{place % 10}")
            axes.annotate(in_words(column, value), (value, place), (0, 5), textcoords="offset points", ha="center",
                          fontsize=7)
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.set_ylim(len(rows) - 0.5, -0.7)
        axes.set_yticks(range(len(rows)), [_short(label) if number % across == 0 else "" for label in rows], fontsize=8,
                        parse_math=False)
        axes.margins(x=0.25)  # room for the numbers
        axes.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
        if is_share(column):
            in_percent(axes.xaxis)
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _short(label: str) -> str:
    half = (_CHARACTERS - 1) // 2
    return label if len(label) <= _CHARACTERS else f"{label[:half]}…{label[-half:]}"
