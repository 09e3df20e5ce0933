"""The critical-difference diagram (Demšar, JMLR 7, 2006), one line per method.

With many methods the usual form, whose names hang from one axis (as scikit-posthocs draws it),
cannot be read; turned by a quarter, every method has a line of its own, and the bars of Nemenyi's
test stand beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compatbench.pages.figures.style import (
    INK,
    MARKS,
    Hover,
    add_kind_legend,
    new_figure,
    shorten,
)
from compatbench.pages.figures.svg import GREY
from compatbench.pages.ranking import RankingRow
from compatbench.results.rank_tests import RankTest, rank_cliques

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_rank_diagram(rows: Sequence[RankingRow], test: RankTest, hover: Hover) -> Figure:
    """Average ranks with bars over methods that the test cannot tell apart.

    Args:
        rows: the methods of the test, the best average rank first.
    """
    from matplotlib.transforms import blended_transform_factory

    figure = new_figure(5.0, 1.3 + 0.155 * len(rows))
    axes = figure.subplots()
    for line, (row, rank) in enumerate(zip(rows, test.ranks, strict=True)):
        mark, colour, _ = MARKS[row.kind]
        shown = hover(f"{row.title}: average rank {rank:.1f}")
        axes.plot(round(rank, 4), line, mark, color=colour, markersize=5, gid=shown)
    axes.set_yticks(range(len(rows)), [shorten(row.title) for row in rows])
    axes.set_ylim(len(rows) - 0.3, -2.2)
    axes.set_xlim(0.5, len(rows) + 0.5)
    axes.set_xlabel(f"average rank by H over {test.datasets} datasets, 1 is the best")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    # The critical difference to scale, above the first line.
    difference = round(test.critical_difference, 4)
    end = min(1 + difference, len(rows) + 0.5)
    axes.plot([1, end], [-1.3, -1.3], "|-", color=INK, linewidth=1, markersize=6)
    axes.text(end + 0.3, -1.3, f"critical difference {difference:.1f}", va="center", fontsize=8)
    # One upright bar over the lines of each group, to the right of the frame.
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    for column, clique in enumerate(rank_cliques(test.ranks, test.critical_difference)):
        x = 1.02 + 0.022 * column
        axes.plot(
            [x, x],
            [clique[0] - 0.3, clique[-1] + 0.3],
            color=GREY,
            linewidth=2.2,
            transform=beside,
            clip_on=False,
            solid_capstyle="butt",
        )
    add_kind_legend(figure, [row.kind for row in rows])
    return figure
