"""The critical-difference diagram (Demšar, JMLR 7, 2006), one line per method.

With many methods the usual form, whose names hang from one axis, cannot be read; turned by a
quarter, every method has a line of its own, and the bars of Nemenyi's test stand beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compatbench.pages.report.canvas import INK, MARKS, Hover, cut, legend_kinds, new_figure
from compatbench.pages.report.data import RankFigures
from compatbench.pages.svg import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_rank_diagram(data: RankFigures, hover: Hover) -> Figure:
    """Average ranks with bars over methods that the test cannot tell apart."""
    methods = data.methods
    figure = new_figure(5.0, 1.3 + 0.155 * len(methods))
    axes = figure.subplots()
    for row, (title, kind, rank) in enumerate(methods):
        mark, colour, _ = MARKS[kind]
        shown = hover(f"{title}: average rank {rank:.1f}")
        axes.plot(rank, row, mark, color=colour, markersize=5, gid=shown)
    axes.set_yticks(range(len(methods)), [cut(title) for title, *_ in methods])
    axes.set_ylim(len(methods) - 0.3, -2.2)
    axes.set_xlim(0.5, len(methods) + 0.5)
    axes.set_xlabel(f"average rank by H over {data.datasets} datasets, 1 is the best")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    _draw_scale(axes, data.difference, len(methods))
    _draw_bars(axes, data.cliques)
    legend_kinds(figure, [kind for _, kind, _ in methods])
    return figure


def _draw_scale(axes: Axes, difference: float, methods: int) -> None:
    """The critical difference to scale, above the first line."""
    end = min(1 + difference, methods + 0.5)
    axes.plot([1, end], [-1.3, -1.3], "|-", color=INK, linewidth=1, markersize=6)
    axes.text(end + 0.3, -1.3, f"critical difference {difference:.1f}", va="center", fontsize=8)


def _draw_bars(axes: Axes, cliques: Sequence[tuple[int, int]]) -> None:
    """One upright bar over the lines of each group, to the right of the frame."""
    from matplotlib.transforms import blended_transform_factory

    place = blended_transform_factory(axes.transAxes, axes.transData)
    for column, (first, last) in enumerate(cliques):
        x = 1.02 + 0.022 * column
        axes.plot(
            [x, x],
            [first - 0.3, last + 0.3],
            color=GREY,
            linewidth=2.2,
            transform=place,
            clip_on=False,
            solid_capstyle="butt",
        )
