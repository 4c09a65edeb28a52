"""Curves as small inline pictures (SVG): they need no script, have the page's colours, and say in words what they show.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cvjax.evaluate.shares import in_words, is_share
from cvjax.visualize.curves import FEW_POINTS, MOST_NAMED, Series, group_curves, on_log_scale
from cvjax.workflow.report.html import details, text

_WIDTH, _HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 10, 10, 26  # margins, with room for the numbers at the axes
_MOST_POINTS = 400  # of a curve; a longer one is drawn by the least and the greatest value of each stretch
_DASHES = ("", "7 3", "2 3")  # so that curves differ without their colours, too
_PARTS = ("train", "test", "validation")
_SPEED = ("images_per_second", "input_wait")


def plots(lines: Iterable[Mapping[str, Any]]) -> str:
    """All curves of a log's lines (see `cvjax.visualize.curves`): one picture for each group, "" where there is none.

    Those of the learning rate and the like, of single classes and of the speed are folded away.
    """
    groups, skipped = group_curves(lines)
    drawn = {group: plot(f"curve-{i}", group, curves, skipped.get(group, 0))
             for i, (group, curves) in enumerate(groups.items())}

    def grid(chosen: Sequence[str]) -> str:
        return f'<div class="grid">{"".join(drawn[group] for group in chosen)}</div>' if chosen else ""

    each = [group for group in groups if group.endswith(" of each class")]
    speed = [group for group in groups if group in _SPEED]
    main = [group for group, curves in groups.items() if group not in (*each, *speed)
            and (group == "loss" or is_share(group) or curves.keys() & {"test", "validation"})]
    rest = [group for group in groups if group not in (*main, *each, *speed)]
    return (grid(main) + (details("other-curves", _listed(rest), grid(rest)) if rest else "")
            + (details("each-class", "Curves of single classes", grid(each)) if each else "")
            + (details("speed", "Speed", grid(speed)) if speed else ""))


def _listed(groups: Sequence[str]) -> str:
    """Names of groups as a title."""
    named = ", ".join(group.replace("_", " ") for group in groups[:4]) + (", ..." if groups[4:] else "")
    return named[:1].upper() + named[1:]


def plot(name: str, group: str, curves: Mapping[str, Series], skipped: int) -> str:
    """The curves of one group. name: the figure's own within the page. skipped: how many values were not finite."""
    title = group.replace("_", " ")
    curves = {curve: dict(sorted(series.items())) for curve, series in curves.items() if series}
    left_out = f"; {skipped} values that are not finite are left out" if skipped else ""
    if not curves:
        return f"<figure><figcaption><b>{text(title)}</b>{left_out}</figcaption></figure>"
    log = on_log_scale(group, curves)
    values = [value for series in curves.values() for value in series.values()]
    steps = [step for series in curves.values() for step in series]
    rows, ticks = _axis(min(values), max(values), log, least=0.01 if is_share(group) else 0.0)
    if is_share(group):
        ticks = [tick for tick in ticks if 0 <= tick <= 1]
    columns = 0, max(max(steps), 1)

    def x(step: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (step - columns[0]) / (columns[1] - columns[0]), 1)

    def y(value: float) -> float:
        low, high, value = (math.log10(v) for v in (*rows, value)) if log else (*rows, value)
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low), 1)

    parts = [f'<line class="line" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>'
             f'<text x="{_LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{_mark(group, tick)}</text>' for tick in ticks]
    for tick in _ticks(0, columns[1], 4):
        if tick == int(tick):
            anchor = "end" if x(tick) > _WIDTH - 3 * _RIGHT else "middle"
            parts.append(f'<text x="{x(tick)}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{int(tick):,}</text>')
    inks = _inks(list(curves))
    for curve, series in curves.items():
        points = _thinned(list(series.items()))
        places = " ".join(f"{x(step)},{y(value)}" for step, value in points)
        colour, dashes = inks[curve]
        parts.append(f'<polyline fill="none" stroke-width="1.8" stroke-linejoin="round" stroke="{colour}"{dashes} '
                     f'points="{places}"/>')
        if len(series) <= FEW_POINTS:
            parts += [f'<circle r="2.6" fill="{colour}" cx="{x(step)}" cy="{y(value)}"/>' for step, value in points]
    said = "; ".join(f"{curve or title}: {_story(group, series)}" for curve, series in curves.items())
    keys = "".join(
        '<span class="key"><svg aria-hidden="true" viewBox="0 0 26 10"><line x1="0" x2="26" y1="5" y2="5" '
        f'stroke-width="2.4" stroke="{inks[curve][0]}"{inks[curve][1]}/></svg>'
        f"{text(curve)} {text(in_words(group, list(series.values())[-1]))}</span>"
        for curve, series in curves.items() if len(curves) <= MOST_NAMED)
    many = f": {len(curves)} curves, {', '.join(map(text, curves))}" if len(curves) > MOST_NAMED else ""
    scale = ", log scale" if log else ""
    return (f'<figure><figcaption><b>{text(title)}</b> by step{scale}{left_out}{many}</figcaption>'
            f'<svg class="plot" role="img" aria-labelledby="{name} {name}-d" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
            f'<title id="{name}">{text(title)}</title><desc id="{name}-d">{text(said[:2000])}</desc>'
            f"{''.join(parts)}</svg><figcaption>{keys}</figcaption></figure>")


def _story(group: str, series: Series) -> str:
    """A curve in words."""
    (first, start), (last, end) = list(series.items())[0], list(series.items())[-1]
    if first == last:
        return f"{in_words(group, end)} at step {last}"
    least, most = (in_words(group, value) for value in (min(series.values()), max(series.values())))
    return (f"{in_words(group, start)} at step {first}, {in_words(group, end)} at step {last}, between {least} and "
            f"{most}, {len(series)} points")


def _inks(curves: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and dashes of each curve; the parts of the data have theirs in all pictures."""
    numbers = [_PARTS.index(curve) if curve in _PARTS else i for i, curve in enumerate(curves)]
    return {curve: (f"var(--c{number % 10})", f' stroke-dasharray="{dashes}"' if dashes else "")
            for curve, number in zip(curves, numbers, strict=True) for dashes in [_DASHES[number % len(_DASHES)]]}


def _mark(group: str, tick: float) -> str:
    """A number at an axis."""
    return f"{100 * tick:.4g} %" if is_share(group) else f"{tick:.4g}"


def _axis(low: float, high: float, log: bool, least: float) -> tuple[tuple[float, float], list[float]]:
    """Ends of an axis that shows all of low to high, and the numbers beside it. least: its length, at least."""
    if high - low < least:  # noise would look like a course
        middle = max((low + high) / 2, least / 2)
        low, high = middle - least / 2, middle + least / 2
    if low == high:  # one value: it lies in the middle
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (-1.0, 1.0)
    if not log:
        space = (high - low) * 0.05
        low, high = (0.0 if 0 <= low < space else low - space), high + space
        return (low, high), _ticks(low, high, 5)
    low, high = low / 1.1, high * 1.1
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, len(powers) // 5)
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    ticks = [factor * 10.0**power for power in powers[::every] for factor in factors]
    return (low, high), [tick for tick in ticks if low <= tick <= high]


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from low to high, at most `most` + 1."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10, 20) if factor * power >= rough * 0.999)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Points that look like all: of each stretch of a long curve its least and greatest value, and the last point."""
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(len(points) / (_MOST_POINTS // 2))
    kept = set()
    for stretch in (points[i:i + size] for i in range(0, len(points), size)):
        kept |= {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
    return sorted(kept | {points[-1]})
