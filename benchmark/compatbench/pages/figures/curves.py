"""Accuracy against the number of shots, one small panel per method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compatbench.data.shots import show_shots
from compatbench.pages.figures.style import Hover, new_figure, shorten
from compatbench.pages.figures.svg import BLUE, GREY, RED
from compatbench.pages.ranking import ranking_rows
from compatbench.pages.suite_page import SuitePage
from compatbench.results.measures import Upgrade

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 6
_DOTTED = (0, (1, 2))


@dataclass(frozen=True)
class Curve:
    """A method along shots; None where a cell is missing."""

    title: str
    source: tuple[float | None, ...]
    target: tuple[float | None, ...]
    h: tuple[float | None, ...]


def shots_curves(page: SuitePage, upgrade: Upgrade) -> list[Curve]:
    """The methods with an H by number of shots, the best at the most shots first."""
    along: dict[str, list[list[float | None]]] = {}
    for count in sorted(page.expected.shots):
        for row in ranking_rows(page, upgrade, count):
            values = [row.value(measure) for measure in ("source", "target", "h")]
            along.setdefault(row.title, []).append(values)
    found = [Curve(title, *zip(*values, strict=True)) for title, values in along.items()]
    curves = [one for one in found if any(value is not None for value in one.h)]
    return sorted(curves, key=lambda one: (one.h[-1] is None, -(one.h[-1] or 0), one.title))


def draw_shots(
    curves: Sequence[Curve],
    shots: Sequence[int],
    zero_shot: tuple[float, float] | None,
    hover: Hover,
) -> Figure:
    """Source and target accuracy by shots, beside zero-shot of both; the best method first."""
    from matplotlib.lines import Line2D

    columns = min(_COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = new_figure(max(1.3 * columns, 3.2), 0.8 + 1.2 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, curve in zip(panels.flat, curves, strict=False):
        last = "" if curve.h[-1] is None else f": H {curve.h[-1]:.1f} at the most shots"
        sides = (
            (curve.source, "o-", BLUE, "source"),
            (curve.target, "s-", RED, "target, same module"),
        )
        for i, (values, line, colour, label) in enumerate(sides):
            if zero_shot is not None:
                axes.axhline(zero_shot[i], color=colour, linewidth=0.8, linestyle=_DOTTED)
            axes.plot(
                [math.nan if value is None else value for value in values],
                line,
                color=colour,
                label=label,
                gid=hover(f"{curve.title}{last}"),
                markersize=2.6,
                linewidth=1.2,
            )
        axes.set_title(shorten(curve.title, 20), fontsize=8.5)
        axes.grid(False, axis="x")
        axes.tick_params(left=False, bottom=False)
    for axes in panels.flat[len(curves) :]:
        axes.set_visible(False)
    panels[0][0].set_xticks(range(len(shots)), [str(show_shots(count)) for count in shots])
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy, %", fontsize=8)
    # A column that ends early shows its ticks under its last panel.
    for column in range(columns):
        last_row = (len(curves) - 1 - column) // columns
        panels[last_row][column].tick_params(labelbottom=True)
        panels[last_row][column].set_xlabel("shots", fontsize=8)
    handles, names = panels[0][0].get_legend_handles_labels()
    if zero_shot is not None:
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=_DOTTED))
        names.append("zero-shot of each")
    figure.legend(handles, names, loc="outside upper left", ncols=3)
    return figure
