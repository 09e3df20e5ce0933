"""Accuracy against labels: training anew as a curve, ways without labels as horizontal lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from compatbench.pages.figures.style import shorten
from compatbench.pages.figures.svg import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, hover
from compatbench.pages.suite_page import SuitePage
from compatbench.results.measures import Upgrade
from compatbench.results.price import (
    access_of,
    count_labels,
    describe_access,
    find_way,
    price_ways,
)

_COLUMNS = 4
# By what a way needs; more kinds of access than these share the last colour.
_COLOURS = (INK, ORANGE, GREEN, PURPLE, SKY, GREY)


class PricePanel(NamedTuple):
    """A method: accuracy by labels, the first zero-shot's, and the best way of each access."""

    title: str
    curve: tuple[float, ...]
    ways: tuple[tuple[str, str, float], ...]  # access, way, accuracy


def price_panels(page: SuitePage, upgrade: Upgrade) -> tuple[list[PricePanel], list[int]]:
    """The methods that were trained anew with every number of labels, and these numbers."""
    anew, panels = count_labels(page.results.transfers), []
    shots = max(page.expected.shots)
    for info in (one.info for one in page.results.methods.values() if one.info.learns):
        prices = price_ways(page.results, page.expected, info.name, upgrade, shots)
        means = {one.transfer: round(one.target.value, 4) for one in prices if one.target}
        if not anew or not means.keys() >= {*anew.values()}:
            continue
        zero = next(one.target.value - one.gain.value for one in prices if one.target and one.gain)
        best: dict[str, tuple[str, float]] = {}
        for name, value in means.items():
            if find_way(name) is not None and "labels" not in access_of(name):
                access = describe_access(name)
                if access not in best or value > best[access][1]:
                    best[access] = name, value
        curve = (round(zero, 4), *(means[name] for name in anew.values()))
        ways = tuple((access, *way) for access, way in sorted(best.items()))
        panels.append(PricePanel(info.title, curve, ways))
    return panels, [0, *anew]


def draw_price(panels: Sequence[PricePanel], labels: Sequence[int]) -> Figure:
    """One small panel per method; the axis of labels is log2(1 + k)."""
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure((max(1.7 * columns, 3.4), 1.0 + 1.5 * rows))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    kinds = dict.fromkeys(access for panel in panels for access, _, _ in panel.ways)
    colours = {kind: _COLOURS[min(i, len(_COLOURS) - 1)] for i, kind in enumerate(sorted(kinds))}
    places, handles = [math.log2(1 + k) for k in labels], {}
    for axes, panel in zip(grid.flat, panels, strict=False):
        text = hover(f"{panel.title}, trained anew")
        (line,) = axes.plot(places, panel.curve, "o-", color=BLUE, ms=2.6, lw=1.2, gid=text)
        handles["trained anew"] = line
        for access, way, value in panel.ways:
            text = hover(f"{panel.title}, {way}: {value:.1f}")
            line = axes.axhline(value, color=colours[access], lw=1.1, ls=(0, (4, 2)), gid=text)
            handles[f"best with {access}"] = line
        axes.set_title(shorten(panel.title, 20), fontsize=8.5)
        axes.grid(False, axis="x")
        axes.tick_params(left=False, bottom=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    grid[0][0].set_xticks(places, [str(k) for k in labels])
    for axes in grid[:, 0]:
        axes.set_ylabel("target accuracy, %", fontsize=8)
    for axes in grid.flat[max(len(panels) - columns, 0) : len(panels)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("labels per class", fontsize=8)
    figure.legend([*handles.values()], [*handles], loc="outside upper left", ncols=2)
    return figure
