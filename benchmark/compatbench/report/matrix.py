"""The upgrade matrix: what the old module gives on the new model, methods by datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compatbench.leaderboard.markdown import NOTHING, signed
from compatbench.report.canvas import INK, PAPER, Hover, new_figure
from compatbench.report.data import UpgradeFigures
from compatbench.svg import BLUE, GREY, RED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FULL = 15.0  # points, from which on the colour grows no stronger
_STRONGEST = 0.75  # of a colour's opacity; print on it stays readable
_SHADE = 0.025  # fewer shades, fewer styles in the file


def draw_matrix(data: UpgradeFigures, hover: Hover) -> Figure:
    """Gain over the target's zero-shot by method and dataset: blue helps, red harms."""
    from matplotlib.patches import Rectangle

    rows, columns = data.methods, [*data.tasks, "mean"]
    figure = new_figure(2.2 + 0.62 * len(columns), 1.2 + 0.19 * len(rows))
    axes = figure.subplots()
    for row, one in enumerate(rows):
        for column, gain in enumerate((*one.gains, one.gain)):
            # The mean stands apart from what it is the mean of.
            left = column + (0.25 if column == len(data.tasks) else 0)
            colour = BLUE if (gain or 0) > 0 else RED
            strength = 0.0 if gain is None else _STRONGEST * min(abs(gain) / _FULL, 1.0)
            if strength := round(strength / _SHADE) * _SHADE:
                cell = Rectangle((left, row), 1, 1, facecolor=colour, alpha=strength, linewidth=0)
                axes.add_patch(cell)
                cell.set_clip_path(None)
            shown = NOTHING if gain is None else signed(gain)
            axes.text(
                left + 0.5,
                row + 0.5,
                shown,
                fontsize=7,
                horizontalalignment="center",
                verticalalignment="center_baseline",
                color=GREY if gain is None else INK,
            )
    edges = [i + 0.5 for i in range(len(data.tasks))] + [len(data.tasks) + 0.75]
    axes.set_xticks(edges, columns, rotation=35, ha="left", rotation_mode="anchor")
    axes.set_yticks([row + 0.5 for row in range(len(rows))], [one.title for one in rows])
    axes.set_xlim(0, len(columns) + 0.25)
    axes.set_ylim(len(rows), 0)
    axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)
    for row in range(1, len(rows)):
        axes.axhline(row, color=PAPER, linewidth=0.8)
    return figure
