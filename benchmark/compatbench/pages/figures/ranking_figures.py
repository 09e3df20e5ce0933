"""The figures of one ranking: accuracies, gains by dataset, average ranks, and what H costs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

from compatbench.pages.figures.style import MARKS, add_legend, place_labels, shorten
from compatbench.pages.figures.svg import BLUE, FAINT, GREY, INK, RED, hover
from compatbench.pages.markdown import signed
from compatbench.results.ranks import Ranked, rank_cliques

FOUNDING_PAPER = "arXiv:2412.20895"

# A method farther from the median than this many median deviations is named at the edge, not
# drawn to scale: one that lost everything would press all others into a corner.
_FAR = 6.0

Costed = tuple[Ranked, float, float]  # cost, H


def draw_scatter(rows: Sequence[Ranked], zero_shot: tuple[float, float] | None) -> Figure:
    """Accuracy before the upgrade against accuracy after it, with lines of equal H.

    All ``rows`` have an H; only the most important have their names.
    """
    points = [(row.value("source") or 0.0, row.value("target") or 0.0) for row in rows]
    left, right = _range([x for x, _ in points], room=0.12)
    low, high = _range([y for _, y in points], room=0.06)
    figure = Figure((5.0, 4.5))
    axes = figure.subplots()
    axes.set(xlim=(left, right), ylim=(low, high))
    axes.set(xlabel="source accuracy, %", ylabel="target accuracy with the same module, %")
    _draw_contours(axes)
    if zero_shot is not None:
        axes.axvline(zero_shot[0], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.axhline(zero_shot[1], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
    placed = [(min(max(x, left), right), min(max(y, low), high)) for x, y in points]
    untouched, inside, far = {}, {}, []
    for row, point, shown in zip(rows, points, placed, strict=True):
        name, accuracies = row.figures["method"], f"source {point[0]:.1f}, target {point[1]:.1f}"
        if shown == point:
            inside[row] = (*shown, row.title)
        else:
            far.append(f"{row.title} ({point[0]:.1f}, {point[1]:.1f})")
        if not row.transfer:
            untouched[name] = shown
        elif name in untouched:
            axes.plot(*zip(untouched[name], shown, strict=True), color=GREY, linewidth=0.5)
        mark, colour, _ = MARKS[row.kind]
        axes.plot(
            *shown,
            mark,
            color=colour,
            markersize=4.5,
            markerfacecolor=colour if row in inside else "none",
            markeredgewidth=0.8,
            clip_on=False,
            gid=hover(f"{row.title}: {accuracies}, H {row.value('h') or 0.0:.1f}"),
        )
    add_legend(figure, [row.kind for row in rows])
    if far:
        note = textwrap.fill(f"Hollow, off the scale: {', '.join(far)}", 88)
        figure.supxlabel(note, fontsize=7.5, color=GREY, x=0.02, ha="left")
    place_labels(axes, [inside[row] for row in named_methods(rows) if row in inside], placed)
    return figure


def named_methods(rows: Sequence[Ranked]) -> list[Ranked]:
    """The methods that the scatter names, the most important first.

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
    ends = [*plain[-2:], *plain[:3]] if len(plain) > 5 else plain
    own = [row for row in plain if row.figures["paper"] == FOUNDING_PAPER]
    floor = [row for row in plain if row.kind == "floor"][-1:]
    return list(dict.fromkeys([*front, *ends, *own, *floor, *through[:3]]))


def _range(values: Sequence[float], room: float) -> tuple[float, float]:
    """The ends of an axis for all values but those far from the rest; room above is a share."""
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


def draw_matrix(rows: Sequence[Ranked], tasks: Sequence[str], titles: Sequence[str]) -> Figure:
    """Gain over the target's zero-shot by method and dataset: blue helps, red harms."""
    columns, names = [*titles, "mean"], [shorten(row.title) for row in rows]
    room = (0.3 + 0.068 * max(map(len, names)), 0.5 + 0.045 * max(map(len, columns)))
    figure = Figure((room[0] + 0.48 * len(columns), room[1] + 0.165 * len(rows)))
    axes = figure.subplots()
    shades: dict[tuple[str, float], list[Path]] = {}
    # The mean stands apart from what it is the mean of.
    lefts = [*range(len(tasks)), len(tasks) + 0.25]
    for top, row in enumerate(rows):
        for left, task in zip(lefts, [*tasks, None], strict=True):
            gain = row.value("gain", task)
            # The colour is full from 15 points on, and never so dark that text on it is lost;
            # fewer shades are fewer styles in the file.
            if strength := round(30 * min(abs(gain or 0.0) / 15, 1.0)):
                cell = Affine2D().scale(0.97, 0.93).translate(left, top)
                shade = (BLUE if (gain or 0.0) > 0 else RED, round(strength / 40, 3))
                shades.setdefault(shade, []).append(Path.unit_rectangle().transformed(cell))
            text = axes.text(left + 0.5, top + 0.5, signed(gain), fontsize=7, ha="center")
            text.set(va="center_baseline", color=GREY if gain is None else INK)
    # All cells of a shade as one shape: a third of the bytes.
    for (colour, alpha), cells in shades.items():
        whole = Path.make_compound_path(*cells)
        shape = axes.add_patch(PathPatch(whole, facecolor=colour, alpha=alpha, linewidth=0))
        shape.set_clip_path(None)
    middles = [left + 0.5 for left in lefts]
    axes.set_xticks(middles, columns, rotation=35, ha="left", rotation_mode="anchor")
    axes.set_yticks([row + 0.5 for row in range(len(rows))], names)
    axes.set(xlim=(0, len(columns) + 0.25), ylim=(len(rows), 0))
    axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return figure


def draw_ranks(
    rows: Sequence[Ranked], ranks: Sequence[float], difference: float, datasets: int
) -> Figure:
    """Average ranks with bars over methods that Nemenyi's test cannot tell apart.

    In the usual form (Demšar 2006) the names hang from one axis, which cannot be read for thirty
    methods; turned by a quarter, every method has a line of its own. The best comes first.
    """
    # The layout does not count the width of the last bar, which would be cut in half.
    layout = ConstrainedLayoutEngine(rect=(0, 0, 0.99, 1))
    figure = Figure((5.0, 1.3 + 0.155 * len(rows)), layout=layout)
    axes = figure.subplots()
    for line, (row, rank) in enumerate(zip(rows, ranks, strict=True)):
        mark, colour, _ = MARKS[row.kind]
        shown = hover(f"{row.title}: average rank {rank:.1f}")
        axes.plot(rank, line, mark, color=colour, markersize=5, gid=shown)
    axes.set_yticks(range(len(rows)), [shorten(row.title) for row in rows])
    axes.set(xlim=(0.5, len(rows) + 0.5), ylim=(len(rows) - 0.3, -2.2))
    axes.set_xlabel(f"average rank by H over {datasets} datasets, 1 is the best")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    # The critical difference to scale, above the first line.
    end = min(1 + difference, len(rows) + 0.5)
    axes.plot([1, end], [-1.3, -1.3], "|-", color=INK, linewidth=1, markersize=6)
    axes.text(end + 0.3, -1.3, f"critical difference {difference:.1f}", va="center", fontsize=8)
    # One upright bar over the lines of each group, to the right of the frame.
    beside = axes.get_yaxis_transform()
    for column, clique in enumerate(rank_cliques(ranks, difference)):
        x, ends = 1.02 + 0.022 * column, (clique[0] - 0.3, clique[-1] + 0.3)
        bar = axes.plot([x, x], ends, color=GREY, linewidth=2.2, transform=beside, clip_on=False)
        bar[0].set_solid_capstyle("butt")
    add_legend(figure, [row.kind for row in rows])
    return figure


def with_cost(rows: Sequence[Ranked], what: str) -> list[Costed]:
    """The methods whose cost is known, with it and their H; cheapest first."""
    found: list[Costed] = []
    for row in rows:
        # A method that fits nothing costs nothing, whatever its rows say.
        cost = 0.0 if row.kind == "floor" else row.figures[what]
        h = row.value("h")
        if cost is not None and h is not None:
            found.append((row, round(float(cost), 4), h))
    return sorted(found, key=lambda item: (item[1], -item[2], item[0].title))


def pareto_front(points: Sequence[Costed]) -> list[Costed]:
    """The methods such that no other is as cheap and better, or cheaper and as good."""
    front: list[Costed] = []
    for point in points:
        if not front or point[2] > front[-1][2]:
            front.append(point)
    return front


def draw_pareto(by_parameters: Sequence[Costed], by_seconds: Sequence[Costed]) -> Figure:
    """H of untouched modules against parameters, and against seconds; the front is a line."""
    figure = Figure((5.0, 6.4))
    panels = figure.subplots(2, 1, sharey=True)
    sides = (
        (panels[0], by_parameters, "parameters of the module", ""),
        (panels[1], by_seconds, "seconds of one fit", " s"),
    )
    values = np.array([h for _, _, h in by_parameters])
    # A method that lost everything is not worth half of the figure.
    lowest = float(values[values >= np.median(values) - 20].min()) - 1
    for axes, points, label, unit in sides:
        axes.set(xlabel=f"{label}, logarithmic", ylabel="H, %")
        positive = [cost for _, cost, _ in points if cost > 0] or [1.0]
        # Linear below the smallest cost, so that a cost of 0 has a place.
        threshold = 10.0 ** math.floor(math.log10(min(positive)))
        axes.set_xscale("symlog", linthresh=threshold, linscale=0.6)
        axes.set_xlim(-threshold / 5, max(positive) * 2.2)
        axes.xaxis.set_major_formatter("{x:,.6g}")
        for row, cost, h in points:
            mark, colour, _ = MARKS[row.kind]
            title = f"{row.title}: H {h:.1f}, {cost:,.6g}{unit}"
            axes.plot(cost, h, mark, color=colour, markersize=5, gid=hover(title))
    panels[0].set_ylim(bottom=lowest)
    add_legend(figure, [row.kind for row, *_ in by_parameters])
    for axes, points, *_ in sides:
        front = [(cost, h, row.title) for row, cost, h in pareto_front(points)]
        corners = [(cost, h) for cost, h, _ in front] + [(axes.get_xlim()[1], lowest)]
        steps = [(next_x, h) for (_, h), (next_x, _) in pairwise(corners)]
        line = [point for both in zip(corners, steps, strict=False) for point in both]
        axes.plot(*zip(*line, strict=True), color=INK, linewidth=0.9, zorder=1)
        place_labels(axes, front, [(cost, h) for _, cost, h in points if h >= lowest], line)
    return figure
