"""What a good H costs: parameters and seconds of a fit, with the front of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from compatbench.pages.report.canvas import INK, MARKS, Hover, legend_kinds, new_figure
from compatbench.pages.report.data import MethodFigures, UpgradeFigures
from compatbench.pages.report.labels import place_labels
from compatbench.pages.svg import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Costed = tuple[MethodFigures, float, float]  # cost, H


def with_cost(data: UpgradeFigures, what: str) -> list[Costed]:
    """The methods whose cost is known, with it and their H; cheapest first."""
    found: list[Costed] = []
    for one in data.plain:
        # What fits nothing costs nothing, whatever the clock said.
        cost = 0.0 if one.kind == "floor" else getattr(one, what)
        if cost is not None and one.h is not None:
            found.append((one, float(cost), one.h))
    return sorted(found, key=lambda item: (item[1], -item[2], item[0].title))


def pareto_front(points: Sequence[Costed]) -> list[Costed]:
    """Those than which no other is at once as cheap and better, or cheaper and as good."""
    front: list[Costed] = []
    for point in points:
        if not front or point[2] > front[-1][2]:
            front.append(point)
    return front


def draw_pareto(data: UpgradeFigures, hover: Hover) -> Figure:
    """H against parameters, and against seconds of a fit; the front is a line."""
    figure = new_figure(5.0, 6.4)
    panels = figure.subplots(2, 1, sharey=True)
    known = (("parameters", "parameters of the module"), ("seconds", "seconds of one fit"))
    for axes, (what, label) in zip(panels, known, strict=True):
        points = with_cost(data, what)
        axes.set_xlabel(f"{label}, logarithmic")
        if points:
            _draw_panel(axes, points, hover, "" if what == "parameters" else " s")
    for axes in panels:
        axes.set_ylabel("H, %")
    lowest = _lowest([one.h for one in data.plain if one.h is not None])
    panels[0].set_ylim(bottom=lowest)
    legend_kinds(figure, [one.kind for one in data.plain])
    for axes, (what, _) in zip(panels, known, strict=True):
        points = with_cost(data, what)
        front = [(_place(cost, axes), h, one.title) for one, cost, h in pareto_front(points)]
        marks = [(_place(cost, axes), h) for _, cost, h in points if h >= lowest]
        place_labels(axes, front, [*marks, *_along_steps(front, axes)])
    return figure


def _along_steps(
    front: Sequence[tuple[float, float, str]], axes: Axes
) -> list[tuple[float, float]]:
    """Places on the line of the front, close together, for labels to keep clear of."""
    if not front:
        return []
    corners = [(x, h) for x, h, _ in front] + [(axes.get_xlim()[1], front[-1][1])]
    places: list[tuple[float, float]] = []
    for (x, h), (next_x, next_h) in pairwise(corners):
        places += [(x * (next_x / x) ** (i / 30), h) for i in range(31)]
        places += [(next_x, h + (next_h - h) * i / 10) for i in range(11)]
    return places


def _draw_panel(axes: Axes, points: Sequence[Costed], hover: Hover, unit: str) -> None:
    from matplotlib.ticker import NullLocator

    positive = [cost for _, cost, _ in points if cost > 0] or [1.0]
    axes.set_xscale("log")
    # What costs nothing has no place on such an axis; it stands left of all others.
    axes.set_xlim(min(positive) / 12, max(positive) * 2.2)
    edge = min(positive) / 2.2
    axes.axvline(edge, color=GREY, linewidth=0.5, linestyle=(0, (1, 2)))
    decades = range(math.ceil(math.log10(edge)), math.ceil(math.log10(axes.get_xlim()[1])))
    axes.set_xticks([_place(0, axes), *(10.0**n for n in decades)])
    axes.set_xticklabels(["none", *(f"{10**n:,}" if n >= 0 else f"{10.0**n:g}" for n in decades)])
    axes.xaxis.set_minor_locator(NullLocator())
    front = pareto_front(points)
    axes.step(
        [_place(cost, axes) for _, cost, _ in front] + [axes.get_xlim()[1]],
        [h for *_, h in front] + [front[-1][2]],
        where="post",
        color=INK,
        linewidth=0.9,
        zorder=1,
    )
    for one, cost, h in points:
        mark, colour, _ = MARKS[one.kind]
        title = f"{one.title}: H {h:.1f}, {cost:,.6g}{unit}"
        axes.plot(_place(cost, axes), h, mark, color=colour, markersize=5, gid=hover(title))


def _place(cost: float, axes: Axes) -> float:
    """Where a cost stands; that of nothing, in the middle of the strip left of the line."""
    return cost if cost > 0 else axes.get_xlim()[0] * 12 / 5


def _lowest(values: Sequence[float]) -> float:
    """The foot of the axis; a method that lost everything is not worth half of the picture."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    near = [value for value in ordered if value >= middle - 20]
    return near[0] - 1
