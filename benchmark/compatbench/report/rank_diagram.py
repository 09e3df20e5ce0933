"""The critical-difference diagram (Demšar, JMLR 7, 2006), one line per method.

With many methods the usual form, whose names hang from one axis, cannot be read; turned by a
quarter, every method has a line of its own, and the bars of Nemenyi's test stand beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compatbench.report.canvas import INK, MARKS, Hover, legend_kinds, new_figure
from compatbench.report.data import MethodFigures, UpgradeFigures
from compatbench.statistics.ranking import RankTest, rank_cliques, rank_test
from compatbench.svg import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_METHODS, LEAST_DATASETS = 3, 2


def can_be_ranked(data: UpgradeFigures) -> bool:
    """Whether there are enough methods and datasets for the tests to mean something."""
    return len(data.plain) >= LEAST_METHODS and len(data.tasks) >= LEAST_DATASETS


def rank_by_h(data: UpgradeFigures) -> tuple[RankTest, list[MethodFigures]]:
    """Friedman's and Nemenyi's tests over H per dataset, and the methods by average rank."""
    methods = data.plain
    result = rank_test([[h or 0.0 for h in one.hs] for one in methods])
    order = sorted(range(len(methods)), key=lambda i: (result.ranks[i], i))
    ranks = tuple(result.ranks[i] for i in order)
    in_order = RankTest(
        ranks, result.datasets, result.statistic, result.p_value, result.critical_difference
    )
    return in_order, [methods[i] for i in order]


def draw_rank_diagram(data: UpgradeFigures, hover: Hover) -> Figure:
    """Average ranks with bars over methods that the test cannot tell apart."""
    result, methods = rank_by_h(data)
    cliques = rank_cliques(result.ranks, result.critical_difference)
    figure = new_figure(5.0, 1.3 + 0.155 * len(methods))
    axes = figure.subplots()
    for row, (one, rank) in enumerate(zip(methods, result.ranks, strict=True)):
        mark, colour, _ = MARKS[one.kind]
        title = f"{one.title}: average rank {rank:.1f}"
        axes.plot(rank, row, mark, color=colour, markersize=5, gid=hover(title))
    axes.set_yticks(range(len(methods)), [one.title for one in methods])
    axes.set_ylim(len(methods) - 0.3, -2.2)
    axes.set_xlim(0.5, len(methods) + 0.5)
    axes.set_xlabel(f"average rank by H over {result.datasets} datasets, 1 is the best")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    _draw_scale(axes, result.critical_difference, len(methods))
    _draw_bars(axes, cliques, len(methods))
    legend_kinds(figure, [one.kind for one in methods])
    return figure


def _draw_scale(axes: Axes, difference: float, methods: int) -> None:
    """The critical difference to scale, above the first line."""
    end = min(1 + difference, methods + 0.5)
    axes.plot([1, end], [-1.3, -1.3], "|-", color=INK, linewidth=1, markersize=6)
    axes.text(end + 0.3, -1.3, f"critical difference {difference:.1f}", va="center", fontsize=8)


def _draw_bars(axes: Axes, cliques: Sequence[Sequence[int]], methods: int) -> None:
    """One upright bar over the lines of each group, to the right of the frame."""
    from matplotlib.transforms import blended_transform_factory

    place = blended_transform_factory(axes.transAxes, axes.transData)
    for column, clique in enumerate(cliques):
        x = 1.02 + 0.022 * column
        axes.plot(
            [x, x],
            [clique[0] - 0.3, clique[-1] + 0.3],
            color=GREY,
            linewidth=2.2,
            transform=place,
            clip_on=False,
            solid_capstyle="butt",
        )
