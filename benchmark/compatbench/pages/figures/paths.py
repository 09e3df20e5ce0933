"""A module along a path of upgrades: all methods together, and each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compatbench.pages.figures.style import (
    FAINT,
    MARKS,
    Hover,
    add_kind_legend,
    add_legend,
    new_figure,
    shorten,
)
from compatbench.pages.figures.svg import BLUE, GREY, ORANGE, PURPLE, RED
from compatbench.pages.ranking import Kind, ranking_rows, round_mean
from compatbench.pages.suite_page import SuitePage
from compatbench.results.paths import follow_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEPS = (("o", GREY), ("s", BLUE), ("^", RED), ("D", ORANGE), ("v", PURPLE))
_FOOT = -25.0  # points of gain, below which a line leaves the figure


@dataclass(frozen=True)
class PathLine:
    """A method's gain over zero-shot at every backbone of a path, the source first."""

    title: str
    kind: Kind
    gains: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.title}: " + ", ".join(f"{gain:+.1f}" for gain in self.gains)


def path_lines(page: SuitePage, path: Sequence[str]) -> list[PathLine]:
    """The methods with all cells of a path, at the most shots; the highest last gain first."""
    shots = max(page.expected.shots)
    lines = []
    for row in ranking_rows(page, (path[0], path[-1]), shots):
        method = row.standing.results
        steps = follow_path(method, page.expected, path, shots)
        gains = [gain for step in steps if (gain := round_mean(step.gain)) is not None]
        if len(gains) == len(path):
            lines.append(PathLine(row.title, row.kind, tuple(gains)))
    return sorted(lines, key=lambda one: (-one.gains[-1], one.title))


def draw_decay(lines: Sequence[PathLine], backbones: Sequence[str], hover: Hover) -> Figure:
    """Gain over zero-shot, backbone by backbone: every method thin, the median of a kind thick."""
    figure = new_figure(5.0, 3.8)
    axes = figure.subplots()
    places = range(len(backbones))
    # Zero-shot is the line at 0.
    kinds: list[Kind] = [
        kind for kind in MARKS if kind != "floor" and any(one.kind == kind for one in lines)
    ]
    for kind in kinds:
        mark, colour, _ = MARKS[kind]
        of_kind = [one for one in lines if one.kind == kind]
        for one in of_kind:
            axes.plot(one.gains, color=colour, linewidth=0.7, alpha=0.35, gid=hover(str(one)))
        middle = np.median([one.gains for one in of_kind], axis=0)
        axes.plot(middle, f"{mark}-", color=colour, linewidth=2.2, markersize=6, zorder=3)
    axes.axhline(0, color=GREY, linewidth=0.8)
    low = [one.title for one in lines if min(one.gains) < _FOOT]
    if low:
        axes.set_ylim(bottom=_FOOT)
        axes.annotate(
            f"leaves the figure: {', '.join(low)}",
            (1, 0),
            (-4, 4),
            xycoords="axes fraction",
            textcoords="offset points",
            color=GREY,
            fontsize=7.5,
            ha="right",
        )
    # A title on two lines, broken before what stands in brackets.
    axes.set_xticks(places, [title.replace(" (", "\n(", 1) for title in backbones])
    axes.set_xlim(-0.15, len(backbones) - 0.7)
    modules = [one for one in lines if one.kind != "floor" and one.title not in low]
    for one in dict.fromkeys([*modules[:1], *modules[-1:]]):
        axes.annotate(
            one.title,
            (len(backbones) - 1, one.gains[-1]),
            (7, 0),
            textcoords="offset points",
            fontsize=8,
            va="center",
        )
    axes.set_ylabel("gain over zero-shot, points")
    add_kind_legend(figure, kinds)
    return figure


def draw_steps(lines: Sequence[PathLine], backbones: Sequence[str], hover: Hover) -> Figure:
    """The same by method: one mark for every backbone of the path, joined by a line."""
    figure = new_figure(5.0, 1.2 + 0.155 * len(lines))
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=0.8)
    marks = [_STEPS[step % len(_STEPS)] for step in range(len(backbones))]
    for row, one in enumerate(lines):
        shown = np.maximum(one.gains, _FOOT)
        axes.plot([shown.min(), shown.max()], [row, row], color=FAINT, linewidth=1.6, zorder=1)
        for step, (gain, (mark, colour)) in enumerate(zip(shown, marks, strict=True)):
            axes.plot(
                gain,
                row,
                mark,
                color=colour,
                markersize=4.5,
                markerfacecolor=colour if gain == one.gains[step] else "none",
                gid=hover(str(one)),
                zorder=2 + step,
            )
    axes.set_yticks(range(len(lines)), [shorten(one.title) for one in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("gain over zero-shot of the same model, points")
    add_legend(figure, [(*mark, name) for mark, name in zip(marks, backbones, strict=True)], 1)
    return figure
