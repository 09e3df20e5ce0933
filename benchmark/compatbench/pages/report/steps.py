"""A module along a path of upgrades: its decay, and every step by itself."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from compatbench.pages.report.canvas import FAINT, MARKS, Hover, cut, legend_kinds, new_figure
from compatbench.pages.report.data import Kind, PathFigures, PathLine
from compatbench.pages.svg import BLUE, GREY, ORANGE, PURPLE, RED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEPS = (("o", GREY), ("s", BLUE), ("^", RED), ("D", ORANGE), ("v", PURPLE))
_FOOT = 25.0  # points of loss, below which a line leaves the picture


def draw_decay(data: PathFigures, hover: Hover) -> Figure:
    """Gain over zero-shot, backbone by backbone: every method thin, the median of a kind thick."""
    figure = new_figure(5.0, 3.8)
    axes = figure.subplots()
    places = range(len(data.backbones))
    # Zero-shot is the line at 0.
    kinds: list[Kind] = [
        kind for kind in MARKS if kind != "floor" and any(one.kind == kind for one in data.lines)
    ]
    for kind in kinds:
        mark, colour, _ = MARKS[kind]
        lines = [one for one in data.lines if one.kind == kind]
        for one in lines:
            axes.plot(
                places, one.gains, color=colour, linewidth=0.7, alpha=0.35, gid=hover(describe(one))
            )
        middle = [statistics.median(one.gains[i] for one in lines) for i in places]
        axes.plot(places, middle, f"{mark}-", color=colour, linewidth=2.2, markersize=6, zorder=3)
    axes.axhline(0, color=GREY, linewidth=0.8)
    least = min(min(one.gains) for one in data.lines)
    if least < -_FOOT:
        axes.set_ylim(bottom=-_FOOT)
        names = ", ".join(one.title for one in data.lines if min(one.gains) < -_FOOT)
        axes.annotate(
            f"leaves the picture: {names}",
            (1, 0),
            (-4, 4),
            xycoords="axes fraction",
            textcoords="offset points",
            color=GREY,
            fontsize=7.5,
            ha="right",
        )
    axes.set_xticks(places, [_broken(title) for title in data.backbones])
    axes.set_xlim(-0.15, len(data.backbones) - 0.7)
    modules = [one for one in data.lines if one.kind != "floor" and min(one.gains) >= -_FOOT]
    for one in dict.fromkeys([*modules[:1], *modules[-1:]]):
        axes.annotate(
            one.title,
            (len(data.backbones) - 1, one.gains[-1]),
            (7, 0),
            textcoords="offset points",
            fontsize=8,
            va="center",
        )
    axes.set_ylabel("gain over zero-shot, points")
    legend_kinds(figure, kinds)
    return figure


def draw_steps(data: PathFigures, hover: Hover) -> Figure:
    """The same by method: one mark for every backbone of the path, joined by a line."""
    from matplotlib.lines import Line2D

    figure = new_figure(5.0, 1.2 + 0.155 * len(data.lines))
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=0.8)
    for row, one in enumerate(data.lines):
        shown = [max(gain, -_FOOT) for gain in one.gains]
        axes.plot([min(shown), max(shown)], [row, row], color=FAINT, linewidth=1.6, zorder=1)
        for step, gain in enumerate(shown):
            mark, colour = _STEPS[step % len(_STEPS)]
            inside = gain == one.gains[step]
            axes.plot(
                gain,
                row,
                mark,
                color=colour,
                markersize=4.5,
                markerfacecolor=colour if inside else "none",
                gid=hover(describe(one)),
                zorder=2 + step,
            )
    axes.set_yticks(range(len(data.lines)), [cut(one.title) for one in data.lines])
    axes.set_ylim(len(data.lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("gain over zero-shot of the same model, points")
    handles = [
        Line2D([], [], linestyle="", marker=mark, color=colour, label=title, markersize=5)
        for (mark, colour), title in zip(_marks(len(data.backbones)), data.backbones, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=1, handletextpad=0.2)
    return figure


def describe(one: PathLine) -> str:
    """A line's title: ``CoOp: +3.6, +1.0, -15.5``."""
    return f"{one.title}: " + ", ".join(f"{gain:+.1f}" for gain in one.gains)


def _marks(count: int) -> list[tuple[str, str]]:
    return [_STEPS[step % len(_STEPS)] for step in range(count)]


def _broken(title: str) -> str:
    """A title on two lines, broken before what stands in brackets."""
    return title.replace(" (", "\n(", 1)
