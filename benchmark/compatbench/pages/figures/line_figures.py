"""The figures of modules along numbers of shots, and along a path of upgrades."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from compatbench.data.shots import show_shots
from compatbench.pages.figures.style import MARKS, add_legend, shorten
from compatbench.pages.figures.svg import BLUE, GREY, RED, hover
from compatbench.pages.suite_page import SuitePage
from compatbench.results.measures import Upgrade, follow_path
from compatbench.results.ranks import Kind, round_mean

_COLUMNS = 6
_DOTTED = (0, (1, 2))
_FOOT = -25.0  # points of gain, below which a line leaves the figure


class Curve(NamedTuple):
    """A method along shots; None where a cell is missing."""

    title: str
    source: tuple[float | None, ...]
    target: tuple[float | None, ...]
    h: tuple[float | None, ...]


class PathLine(NamedTuple):
    """A method's gain over zero-shot at every backbone of a path, the source first."""

    title: str
    kind: Kind
    gains: tuple[float, ...]


def shots_curves(page: SuitePage, upgrade: Upgrade) -> list[Curve]:
    """The methods with an H by number of shots, the best at the most shots first."""
    along: dict[str, list[list[float | None]]] = {}
    for count in sorted(page.expected.shots):
        for row in page.all_ranks(upgrade, count):
            values = [row.value(measure) for measure in ("source", "target", "h")]
            along.setdefault(row.title, []).append(values)
    found = [Curve(title, *zip(*values, strict=True)) for title, values in along.items()]
    curves = [one for one in found if any(value is not None for value in one.h)]
    return sorted(curves, key=lambda one: (one.h[-1] is None, -(one.h[-1] or 0), one.title))


def draw_shots(
    curves: Sequence[Curve], shots: Sequence[int], zero_shot: tuple[float, float] | None
) -> Figure:
    """Source and target accuracy by shots, one small panel per method, beside zero-shot of both."""
    columns = min(_COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure((max(1.3 * columns, 3.2), 0.8 + 1.2 * rows))
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
            shown, gid = np.array(values, dtype=float), hover(curve.title + last)
            axes.plot(shown, line, color=colour, label=label, gid=gid, ms=2.6, lw=1.2)
        axes.set_title(shorten(curve.title, 20), fontsize=8.5)
        axes.grid(False, axis="x")
        axes.tick_params(left=False, bottom=False)
    for axes in panels.flat[len(curves) :]:
        axes.set_visible(False)
    panels[0][0].set_xticks(range(len(shots)), [str(show_shots(count)) for count in shots])
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy, %", fontsize=8)
    # A column that ends early shows its ticks under its last panel.
    for axes in panels.flat[max(len(curves) - columns, 0) : len(curves)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("shots", fontsize=8)
    handles, names = panels[0][0].get_legend_handles_labels()
    if zero_shot is not None:
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=_DOTTED))
        names.append("zero-shot of each")
    figure.legend(handles, names, loc="outside upper left", ncols=3)
    return figure


def path_lines(page: SuitePage, path: Sequence[str]) -> list[PathLine]:
    """The methods with all cells of a path, at the most shots; the highest last gain first."""
    shots = max(page.expected.shots)
    lines = []
    for row in page.all_ranks((path[0], path[-1]), shots):
        means = follow_path(row.standing.results, page.expected, path, shots)["gain"]
        gains = [gain for mean in means if (gain := round_mean(mean)) is not None]
        if len(gains) == len(path):
            lines.append(PathLine(row.title, row.kind, tuple(gains)))
    return sorted(lines, key=lambda one: (-one.gains[-1], one.title))


def draw_decay(lines: Sequence[PathLine], backbones: Sequence[str]) -> Figure:
    """Gain over zero-shot, backbone by backbone: every method thin, the median of a kind thick."""
    figure = Figure((5.0, 3.8))
    axes = figure.subplots()
    # Zero-shot is the line at 0.
    modules = [one for one in lines if one.kind != "floor"]
    for kind, (mark, colour, _) in MARKS.items():
        of_kind = [one for one in modules if one.kind == kind]
        for one in of_kind:
            text = f"{one.title}: " + ", ".join(f"{gain:+.1f}" for gain in one.gains)
            axes.plot(one.gains, color=colour, linewidth=0.7, alpha=0.35, gid=hover(text))
        if of_kind:
            middle = np.median([one.gains for one in of_kind], axis=0)
            axes.plot(middle, f"{mark}-", color=colour, linewidth=2.2, markersize=6, zorder=3)
    axes.axhline(0, color=GREY, linewidth=0.8)
    low = [one.title for one in lines if min(one.gains) < _FOOT]
    if low:
        axes.set_ylim(bottom=_FOOT)
        note = f"leaves the figure: {', '.join(low)}"
        axes.text(0.99, 0.015, note, transform=axes.transAxes, color=GREY, fontsize=7.5, ha="right")
    # A title on two lines, broken before what stands in brackets.
    titles = [title.replace(" (", "\n(", 1) for title in backbones]
    axes.set_xticks(range(len(backbones)), titles)
    axes.set_xlim(-0.15, len(backbones) - 0.7)
    high = [one for one in modules if one.title not in low]
    for one in dict.fromkeys([*high[:1], *high[-1:]]):
        end = (len(backbones) - 1, one.gains[-1])
        axes.annotate(one.title, end, (7, 0), textcoords="offset points", fontsize=8, va="center")
    axes.set_ylabel("gain over zero-shot, points")
    add_legend(figure, [one.kind for one in modules])
    return figure
