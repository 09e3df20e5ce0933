"""Accuracy before the upgrade against accuracy after it, with lines of equal H."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from compatbench.pages.figures.label_placement import place_labels
from compatbench.pages.figures.style import FAINT, MARKS, Hover, add_kind_legend, new_figure
from compatbench.pages.figures.svg import GREY
from compatbench.pages.ranking import RankingRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOUNDING_PAPER = "arXiv:2412.20895"

# A method farther from the median than this many median deviations is named at the edge, not
# drawn to scale: one that lost everything would press all others into a corner.
_FAR = 6.0
_BEST = 3
_WORST = 2
_NOTE_WIDTH = 88  # letters


def draw_scatter(
    rows: Sequence[RankingRow], zero_shot: tuple[float, float] | None, hover: Hover
) -> Figure:
    """Every method as a mark; the front, the best, the worst and the floor have their names.

    Args:
        rows: methods that have an H.
    """
    points = [(row.value("source") or 0.0, row.value("target") or 0.0) for row in rows]
    left, right = _range([x for x, _ in points], room=0.12)
    low, high = _range([y for _, y in points], room=0.06)
    figure = new_figure(5.0, 4.5)
    axes = figure.subplots()
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.set_xlabel("source accuracy, %")
    axes.set_ylabel("target accuracy with the same module, %")
    _draw_contours(axes)
    if zero_shot is not None:
        axes.axvline(zero_shot[0], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.axhline(zero_shot[1], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
    placed = [(min(max(x, left), right), min(max(y, low), high)) for x, y in points]
    named, far, untouched = named_methods(rows), [], {}
    labels: dict[str, tuple[float, float, str]] = {}
    for row, point, (x, y) in zip(rows, points, placed, strict=True):
        name, inside = row.figures["method"], (x, y) == point
        if not row.transfer:
            untouched[name] = (x, y)
        elif name in untouched:
            axes.plot(*zip(untouched[name], (x, y), strict=True), color=GREY, linewidth=0.5)
        mark, colour, _ = MARKS[row.kind]
        axes.plot(
            x,
            y,
            mark,
            color=colour,
            markersize=4.5,
            markerfacecolor=colour if inside else "none",
            markeredgewidth=0.8,
            clip_on=False,
            gid=hover(
                f"{row.title}: source {point[0]:.1f}, target {point[1]:.1f}, "
                f"H {row.value('h') or 0.0:.1f}"
            ),
        )
        if inside:
            labels[row.title] = (x, y, row.title)
        else:
            far.append(f"{row.title} ({point[0]:.1f}, {point[1]:.1f})")
    add_kind_legend(figure, [row.kind for row in rows])
    if far:
        note = textwrap.fill(f"Hollow, off the scale: {', '.join(far)}", _NOTE_WIDTH)
        figure.supxlabel(note, fontsize=7.5, color=GREY, x=0.02, ha="left")
    place_labels(axes, [labels[one.title] for one in named if one.title in labels], placed)
    return figure


def named_methods(rows: Sequence[RankingRow]) -> list[RankingRow]:
    """The methods that the figure names, the most important first.

    They are the front (no other method is better on both models), the best and the worst by
    H, the founding paper's own, the floor, and the best of other transfers.
    """
    plain = [row for row in rows if not row.transfer]
    through = [row for row in rows if row.transfer]
    points = np.array([[row.value("source"), row.value("target")] for row in plain], dtype=float)
    front = [
        row
        for row, point in zip(plain, points, strict=True)
        if not ((points >= point).all(axis=1) & (points > point).any(axis=1)).any()
    ]
    ends = [*plain[-_WORST:], *plain[:_BEST]] if len(plain) > _BEST + _WORST else plain
    own = [row for row in plain if row.figures["paper"] == FOUNDING_PAPER]
    floor = [row for row in plain if row.kind == "floor"][-1:]
    return list(dict.fromkeys([*front, *ends, *own, *floor, *through[:_BEST]]))


def _range(values: Sequence[float], room: float) -> tuple[float, float]:
    """The least and most that an axis shows: all values but those far from the rest.

    Args:
        room: to leave above them, as a share.
    """
    distances = np.abs(np.array(values) - np.median(values))
    near = np.array(values)[distances <= _FAR * max(float(np.median(distances)), 1.0)]
    low, high = float(near.min()), float(near.max())
    span = max(high - low, 5.0)
    return max(low - 0.06 * span, 0.0), high + room * span


def _draw_contours(axes: Axes) -> None:
    """Lines of equal H."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    x, y = np.meshgrid(np.linspace(left, right, 60), np.linspace(low, high, 60))
    h = 2 * x * y / np.maximum(x + y, 1e-9)
    step = next(size for size in (1, 2, 5, 10, 20) if np.ptp(h) / size <= 12)
    lines = axes.contour(
        x, y, h, levels=range(step, 100, step), colors=FAINT, linewidths=0.8, zorder=0.5
    )
    axes.clabel(lines, fmt="H %d", fontsize=7.5, colors=GREY)
    axes.grid(False)
