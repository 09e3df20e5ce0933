"""What the figures show: a row per method, and the parameters of the chart.

Every row has the ``title`` and ``kind`` of its method, by which the site filters, and numbers with
at most two decimals. The same results give the same values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, pairwise
from typing import Any

import numpy as np

from compatbench.data.cards.shots import show_shots
from compatbench.messages import one_line
from compatbench.results.expected import Upgrade
from compatbench.results.ranks import Ranked, rounded
from compatbench.tables.figures.charts import FigureData
from compatbench.tables.suite_page import SuitePage

Row = dict[str, Any]

SIDES = {"source": "source", "target": "target, same module"}
FOUNDING_PAPER = "arXiv:2412.20895"
# A method farther from the median than this many median deviations is a hollow mark at the edge.
# Otherwise one that lost everything would press all others into a corner.
_FAR = 6.0
two_digits = partial(rounded, digits=2)


def scatter_values(ranked: Sequence[Ranked]) -> FigureData:
    """Return accuracies on both models; of a transferred module those of the untouched one, too.

    All methods have an H. The most important ones are ``named``.
    """
    sources = [two_digits(each.value("source")) or 0.0 for each in ranked]
    targets = [two_digits(each.value("target")) or 0.0 for each in ranked]
    left, right = _axis_range(sources)
    low, high = _axis_range(targets)
    untouched = {}
    inside = []
    for each, source, target in zip(ranked, sources, targets, strict=True):
        if not each.transfer:
            untouched[each.figures["method"]] = (source, target)
        if left <= source <= right and low <= target <= high:
            inside.append(each)
    named = named_methods(inside)
    rows = []
    for each, source, target in zip(ranked, sources, targets, strict=True):
        h = round(each.value("h") or 0.0, 1)
        row = start_row(each, source=source, target=target, h=h, named=each in named)
        before = untouched.get(each.figures["method"])
        if each.transfer and before is not None:
            row["before"] = before
        rows.append(row)
    size = high - low + right - left
    step = next(step for step in (1, 2, 5, 10, 20) if size / step <= 24)
    zero_source, zero_target = zero_shot_accuracies(ranked) or (None, None)
    params = {
        "x0": left,
        "x1": right,
        "y0": low,
        "y1": high,
        "step": step,
        "zero_source": two_digits(zero_source),
        "zero_target": two_digits(zero_target),
    }
    return FigureData(rows, params)


def start_row(ranked: Ranked, **more: Any) -> Row:
    """Return the row of a method, with what more there is to show."""
    return {"title": ranked.title, "kind": ranked.kind, **more}


def zero_shot_accuracies(ranked: Sequence[Ranked]) -> tuple[float, float] | None:
    """Return zero-shot's accuracies on source and target, which do not depend on the method."""
    for each in ranked:
        source, source_gain = each.value("source"), each.value("source_gain")
        target, gain = each.value("target"), each.value("gain")
        if None not in (source, source_gain, target, gain):
            return round(source - source_gain, 4), round(target - gain, 4)  # type: ignore[operator]
    return None


def named_methods(ranked: Sequence[Ranked]) -> list[Ranked]:
    """Return the first and the last method by H, the founding paper's own, and zero-shot."""
    plain = [each for each in ranked if not each.transfer]
    founding = [each for each in plain if each.figures["paper"] == FOUNDING_PAPER]
    floor = [each for each in plain if each.kind == "floor"]
    return list(dict.fromkeys([*plain[:1], *founding[:1], *floor[:1], *plain[-1:]]))


def _axis_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis for all values but those far from the rest."""
    distances = np.abs(np.array(values) - np.median(values))
    near = np.array(values)[distances <= _FAR * max(float(np.median(distances)), 1.0)]
    low, high = float(near.min()), float(near.max())
    room = 0.06 * max(high - low, 5.0)
    return max(math.floor(low - room), 0), math.ceil(high + room)


def matrix_values(page: SuitePage, ranked: Sequence[Ranked]) -> FigureData:
    """Return the gain over the target's zero-shot on every dataset, then their mean."""
    sets = [one_line(page.task_title(task), 24) for task in page.expected.tasks]
    rows = []
    for each in ranked:
        gains = [*each.by_task("gain"), each.value("gain")]
        rows.append(start_row(each, gains=[rounded(gain, 1) for gain in gains]))
    return FigureData(rows, {"sets": [*sets, "Mean"]})


def shots_figures(page: SuitePage) -> Iterator[tuple[str, FigureData]]:
    """Return a figure for each upgrade of a suite with several numbers of shots."""
    if len(page.expected.shots) > 1:
        for upgrade in page.expected.upgrades:
            yield page.path_title(upgrade), shots_values(page, upgrade)


def shots_values(page: SuitePage, upgrade: Upgrade) -> FigureData:
    """Return accuracies by number of shots, the best H at the most shots first.

    None is a missing cell.
    """
    counts = sorted(page.expected.shots)
    by_title: dict[str, list[Ranked]] = {}
    for count in counts:
        for each in page.all_ranks(upgrade, count):
            by_title.setdefault(each.title, []).append(each)

    def place(title: str) -> tuple[bool, float, str]:
        h = by_title[title][-1].value("h")
        return h is None, -(h or 0), title

    places = [*range(len(counts))]
    ends = [places[0], places[-1]]
    levels: dict[str, Any] = {}
    zero_shot = zero_shot_accuracies([*chain(*by_title.values())])
    for side, accuracy in zip(SIDES, zero_shot or (), strict=False):
        levels[f"zero-shot on the {side}"] = (ends, [two_digits(accuracy)] * 2)
    rows = []
    for title in sorted(by_title, key=place):
        along = by_title[title]
        lines: dict[str, Any] = {}
        for side, name in SIDES.items():
            lines[name] = (places, [two_digits(each.value(side)) for each in along])
        if any(each.value("h") is not None for each in along):
            rows.append(panel_row(along[0], lines | levels))
    names = [str(show_shots(count)) for count in counts]
    order = [*SIDES.values(), *levels]
    return FigureData(rows, {"ticks": places, "names": names, "order": order})


def panel_row(ranked: Ranked, lines: Mapping[str, tuple[Sequence[float], Sequence[Any]]]) -> Row:
    """Return the lines of a small panel: their names, places and accuracies."""
    at = [list(places) for places, _ in lines.values()]
    accuracy = [list(values) for _, values in lines.values()]
    return start_row(ranked, line=[*lines], at=at, accuracy=accuracy)


def dodge_labels(values: Sequence[float], least: float) -> list[float]:
    """Return places for the labels of these values, in their order, none nearer than ``least``."""
    places = [*values]
    order = sorted(range(len(values)), key=values.__getitem__)
    for before, after in pairwise(order):
        places[after] = max(places[after], places[before] + least)
    middle = sum(places) / len(places) - sum(values) / len(values)
    return [round(place - middle, 2) for place in places]
