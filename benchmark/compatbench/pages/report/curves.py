"""Accuracy against the number of shots, one small panel per method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compatbench.data.shots import show_shots
from compatbench.pages.report.canvas import Hover, cut, new_figure
from compatbench.pages.report.data import ShotsFigures
from compatbench.pages.svg import BLUE, GREY, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 6


def draw_shots(data: ShotsFigures, hover: Hover) -> Figure:
    """Source and target accuracy by shots, beside zero-shot of both; the best method first."""
    columns = min(_COLUMNS, len(data.curves))
    rows = math.ceil(len(data.curves) / columns)
    figure = new_figure(max(1.3 * columns, 3.2), 0.8 + 1.2 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    places = range(len(data.shots))
    for axes, curve in zip(panels.flat, data.curves, strict=False):
        if data.zero_shot is not None:
            for level, colour in zip(data.zero_shot, (BLUE, RED), strict=True):
                axes.axhline(level, color=colour, linewidth=0.8, linestyle=(0, (1, 2)))
        last = "" if curve.h[-1] is None else f": H {curve.h[-1]:.1f} at the most shots"
        _plot(axes, curve.source, "o-", BLUE, "source", hover(f"{curve.title}{last}"))
        _plot(axes, curve.target, "s-", RED, "target, same module", hover(f"{curve.title}{last}"))
        axes.set_title(cut(curve.title, 20), fontsize=8.5)
        axes.grid(False, axis="x")
        axes.tick_params(left=False, bottom=False)
    for axes in panels.flat[len(data.curves) :]:
        axes.set_visible(False)
    panels[0][0].set_xticks(places, [str(show_shots(count)) for count in data.shots])
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy, %", fontsize=8)
    # A column that ends early shows its ticks under the last panel it has.
    for column in range(columns):
        last_row = (len(data.curves) - 1 - column) // columns
        panels[last_row][column].tick_params(labelbottom=True)
        panels[last_row][column].set_xlabel("shots", fontsize=8)
    handles, names = panels[0][0].get_legend_handles_labels()
    if data.zero_shot is not None:
        from matplotlib.lines import Line2D

        handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=(0, (1, 2))))
        names.append("zero-shot of each")
    figure.legend(handles, names, loc="outside upper left", ncols=3)
    return figure


def _plot(
    axes: Axes, values: Sequence[float | None], line: str, colour: str, label: str, gid: str
) -> None:
    shown = [math.nan if value is None else value for value in values]
    axes.plot(
        range(len(shown)),
        shown,
        line,
        color=colour,
        label=label,
        gid=gid,
        markersize=2.6,
        linewidth=1.2,
    )
