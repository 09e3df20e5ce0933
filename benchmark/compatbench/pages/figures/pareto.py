"""What a good H costs: parameters and seconds of a fit, with the front of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from compatbench.pages.figures.label_placement import place_labels
from compatbench.pages.figures.style import INK, MARKS, Hover, add_kind_legend, new_figure
from compatbench.pages.ranking import RankingRow

if TYPE_CHECKING:
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
            found.append((row, round(float(cost), 4), h))
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
    values = np.array([row.value("h") for row in rows], dtype=float)
    # A method that lost everything is not worth half of the figure.
    lowest = float(values[values >= np.median(values) - 20].min()) - 1
    for axes, (what, label, unit) in zip(panels, _PANELS, strict=True):
        axes.set(xlabel=f"{label}, logarithmic", ylabel="H, %")
        points = with_cost(rows, what)
        positive = [cost for _, cost, _ in points if cost > 0] or [1.0]
        # Linear below the smallest cost, so that a cost of 0 has a place.
        threshold = 10.0 ** math.floor(math.log10(min(positive)))
        axes.set_xscale("symlog", linthresh=threshold, linscale=0.6)
        axes.set_xlim(-threshold / 5, max(positive) * 2.2)
        axes.xaxis.set_major_formatter("{x:,.6g}")
        for row, cost, h in points:
            mark, colour, _ = MARKS[row.kind]
            title = f"{row.title}: H {h:.1f}, {cost:,.6g}{unit}"
            axes.plot(cost, h, mark, color=colour, markersize=5, gid=hover(title))
    panels[0].set_ylim(bottom=lowest)
    add_kind_legend(figure, [row.kind for row in rows])
    for axes, (what, *_) in zip(panels, _PANELS, strict=True):
        points = with_cost(rows, what)
        front = [(cost, h, row.title) for row, cost, h in pareto_front(points)]
        corners = [(cost, h) for cost, h, _ in front] + [(axes.get_xlim()[1], lowest)]
        steps = [(next_x, h) for (_, h), (next_x, _) in pairwise(corners)]
        line = [point for both in zip(corners, steps, strict=False) for point in both]
        axes.plot(*zip(*line, strict=True), color=INK, linewidth=0.9, zorder=1)
        place_labels(axes, front, [(cost, h) for _, cost, h in points if h >= lowest], line)
    return figure
