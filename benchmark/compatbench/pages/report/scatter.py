"""Accuracy before the upgrade against accuracy after it, with lines of equal H."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compatbench.pages.report.canvas import FAINT, MARKS, Hover, in_points, legend_kinds, new_figure
from compatbench.pages.report.data import MethodFigures, UpgradeFigures
from compatbench.pages.report.labels import place_labels
from compatbench.pages.svg import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]

# Beyond so many median deviations from the median a method is named at the edge, not drawn to
# scale: one that lost everything would press all others into a corner.
_FAR = 6.0
_BEST = 3
_WORST = 2
_NOTE_WIDTH = 88  # letters


def draw_scatter(data: UpgradeFigures, hover: Hover) -> Figure:
    """Every method as a mark; the front, the best, the worst and the floor have their names."""
    points = {
        one: (one.source, one.target)
        for one in data.complete
        if one.source is not None and one.target is not None
    }
    left, right = _range([x for x, _ in points.values()], room=0.12)
    low, high = _range([y for _, y in points.values()], room=0.06)
    figure = new_figure(5.0, 4.5)
    axes = figure.subplots()
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.set_xlabel("source accuracy, %")
    axes.set_ylabel("target accuracy with the same module, %")
    _draw_contours(axes)
    if data.zero_shot is not None:
        axes.axvline(data.zero_shot[0], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.axhline(data.zero_shot[1], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
    placed = {one: (_clip(x, left, right), _clip(y, low, high)) for one, (x, y) in points.items()}
    by_title = {one.title: one for one in data.plain}
    for one, (x, y) in placed.items():
        if one.base in by_title:
            start = placed[by_title[one.base]]
            axes.plot(*zip(start, (x, y), strict=True), color=GREY, linewidth=0.5)
        mark, colour, _ = MARKS[one.kind]
        inside = placed[one] == points[one]
        axes.plot(
            x,
            y,
            mark,
            color=colour,
            markersize=4.5,
            markerfacecolor=colour if inside else "none",
            markeredgewidth=0.8,
            clip_on=False,
            gid=hover(describe(one)),
        )
    legend_kinds(figure, [one.kind for one in points])
    named = [one for one in named_methods(data) if placed[one] == points[one]]
    far = [
        f"{one.title} ({x:.1f}, {y:.1f})" for one, (x, y) in points.items() if placed[one] != (x, y)
    ]
    if far:
        note = textwrap.fill(f"Hollow, off the scale: {', '.join(far)}", _NOTE_WIDTH)
        figure.supxlabel(note, fontsize=7.5, color=GREY, x=0.02, ha="left")
    place_labels(axes, [(*placed[one], one.title) for one in named], list(placed.values()))
    return figure


def describe(one: MethodFigures) -> str:
    """A mark's title: ``CoOp: source 57.4, target 43.3, H 49.2``."""
    figures = (("source", one.source), ("target", one.target), ("H", one.h))
    shown = ", ".join(f"{name} {in_points(value)}" for name, value in figures if value is not None)
    return f"{one.title}: {shown}"


def named_methods(data: UpgradeFigures) -> list[MethodFigures]:
    """The methods that the figure names, those that matter most first.

    They are the front (no other method is better on both models), the best and the worst by
    H, the founding paper's own, and the floor.
    """
    plain = data.plain
    front = [one for one in plain if not any(_dominates(other, one) for other in plain)]
    floor = [one for one in plain if one.kind == "floor"][-1:]
    own = [one for one in plain if one.founding]
    aligned = [one for one in data.complete if one.kind == "aligned"][:_BEST]
    ends = [*plain[-_WORST:], *plain[:_BEST]] if len(plain) > _BEST + _WORST else [*plain]
    return list(dict.fromkeys([*front, *ends, *own, *floor, *aligned]))


def _dominates(a: MethodFigures, b: MethodFigures) -> bool:
    pairs = [(a.source or 0, b.source or 0), (a.target or 0, b.target or 0)]
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def _range(values: Sequence[float], room: float) -> Point:
    """The least and most that an axis shows: all values but those far from the rest.

    Args:
        room: to leave above them, as a share.
    """
    middle = statistics.median(values)
    deviation = statistics.median([abs(value - middle) for value in values])
    near = [value for value in values if abs(value - middle) <= _FAR * max(deviation, 1.0)]
    low, high = min(near), max(near)
    span = max(high - low, 5.0)
    return max(low - 0.06 * span, 0.0), high + room * span


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _draw_contours(axes: Axes) -> None:
    """Lines of equal H, y = Hx / (2x − H), with their values outside the frame."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    best = 2 * right * high / (right + high)
    worst = 2 * left * low / (left + low) if left + low else 0.0
    step = next(size for size in (1, 2, 5, 10, 20) if (best - worst) / size <= 12)
    for h in range(step, 100, step):
        xs = [left + (right - left) * i / 30 for i in range(31)]
        line = [(x, h * x / (2 * x - h)) for x in xs if 2 * x > h * 1.001]
        line = [(x, y) for x, y in line if 0 < y <= 4 * high]
        if not any(low <= y <= high for _, y in line):
            continue
        axes.plot(*zip(*line, strict=True), color=FAINT, linewidth=0.8, zorder=0.5)
        at_right = h * right / (2 * right - h)
        at_foot = h * low / (2 * low - h) if 2 * low > h else math.inf
        if low <= at_right < high:
            place, offset, align = (right, at_right), (3, 0), "left"
        elif left + 0.1 * (right - left) < at_foot < right:
            place, offset, align = (at_foot, low), (-2, 6), "right"
        else:
            continue
        axes.annotate(
            f"H {h}",
            place,
            offset,
            textcoords="offset points",
            color=GREY,
            fontsize=7.5,
            ha=align,
            va="center",
            annotation_clip=False,
        )
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.grid(False)
