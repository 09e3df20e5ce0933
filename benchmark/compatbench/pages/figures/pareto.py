"""What a good H costs: parameters and seconds of a fit, with the front of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from compatbench.pages.figures.label_placement import place_labels
from compatbench.pages.figures.style import INK, MARKS, Hover, add_kind_legend, new_figure
from compatbench.pages.figures.svg import GREY
from compatbench.pages.ranking import RankingRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Costed = tuple[RankingRow, float, float]  # cost, H
_PANELS = (("parameters", "parameters of the module", ""), ("seconds", "seconds of one fit", " s"))


def with_cost(rows: Sequence[RankingRow], what: str) -> list[Costed]:
    """The methods whose cost is known, with it and their H; cheapest first."""
    found: list[Costed] = []
    for row in rows:
        # A method that fits nothing costs nothing, whatever its rows say.
        cost = 0.0 if row.kind == "floor" else getattr(row, what)
        h = row.value("h")
        if cost is not None and h is not None:
            found.append((row, float(cost), h))
    return sorted(found, key=lambda item: (item[1], -item[2], item[0].title))


def pareto_front(points: Sequence[Costed]) -> list[Costed]:
    """The methods such that no other is as cheap and better, or cheaper and as good."""
    front: list[Costed] = []
    for point in points:
        if not front or point[2] > front[-1][2]:
            front.append(point)
    return front


def draw_pareto(rows: Sequence[RankingRow], hover: Hover) -> Figure:
    """H against parameters, and against seconds of a fit; the front is a line.

    Args:
        rows: untouched modules that have an H.
    """
    figure = new_figure(5.0, 6.4)
    panels = figure.subplots(2, 1, sharey=True)
    for axes, (what, label, unit) in zip(panels, _PANELS, strict=True):
        axes.set_xlabel(f"{label}, logarithmic")
        axes.set_ylabel("H, %")
        if points := with_cost(rows, what):
            _draw_panel(axes, points, hover, unit)
    # A method that lost everything is not worth half of the figure.
    values = np.array([row.value("h") for row in rows], dtype=float)
    middle = float(np.sort(values)[len(values) // 2])
    lowest = float(values[values >= middle - 20].min()) - 1
    panels[0].set_ylim(bottom=lowest)
    add_kind_legend(figure, [row.kind for row in rows])
    for axes, (what, *_) in zip(panels, _PANELS, strict=True):
        points = with_cost(rows, what)
        front = [(_place(cost, axes), h, row.title) for row, cost, h in pareto_front(points)]
        marks = [(_place(cost, axes), h) for _, cost, h in points if h >= lowest]
        place_labels(axes, front, [*marks, *_along_steps(front, axes)])
    return figure


def _along_steps(
    front: Sequence[tuple[float, float, str]], axes: Axes
) -> list[tuple[float, float]]:
    """Points on the line of the front, close together, that labels should not cover."""
    corners = [(x, h) for x, h, _ in front]
    places: list[tuple[float, float]] = []
    for (x, h), (next_x, next_h) in pairwise([*corners, (axes.get_xlim()[1], front[-1][1])]):
        places += [(x * (next_x / x) ** (i / 30), h) for i in range(31)]
        places += [(next_x, h + (next_h - h) * i / 10) for i in range(11)]
    return places


def _draw_panel(axes: Axes, points: Sequence[Costed], hover: Hover, unit: str) -> None:
    from matplotlib.ticker import NullLocator

    positive = [cost for _, cost, _ in points if cost > 0] or [1.0]
    axes.set_xscale("log")
    # A cost of 0 has no place on such an axis; it stands left of all others.
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
    for row, cost, h in points:
        mark, colour, _ = MARKS[row.kind]
        title = f"{row.title}: H {h:.1f}, {cost:,.6g}{unit}"
        axes.plot(_place(cost, axes), h, mark, color=colour, markersize=5, gid=hover(title))


def _place(cost: float, axes: Axes) -> float:
    """Where a cost stands; a cost of 0 is in the middle of the strip left of the line."""
    return cost if cost > 0 else axes.get_xlim()[0] * 12 / 5
