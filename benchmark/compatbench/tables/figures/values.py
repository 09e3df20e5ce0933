"""What the figures show: a row per method, and the parameters of the chart.

Every row has the ``title`` and ``kind`` of its method, by which the site filters, and numbers with
at most two decimals. The same results give the same values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from compatbench.data.cards.shots import show_shots
from compatbench.messages import one_line
from compatbench.results.expected import Upgrade
from compatbench.results.survival import WELL_KNOWN
from compatbench.tables.figures.charts import FigureData
from compatbench.tables.numbers import rounded
from compatbench.tables.ranking_tables import task_numbers
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import records

Row = dict[str, Any]
Method = Mapping[str, Any]  # a row of a ranking

SIDES = {"source": "source", "target": "target, same module"}
# A method farther from the median than this many median deviations is a hollow mark at the edge.
# Otherwise one that lost everything would press all others into a corner.
_FAR = 6.0
two_digits = partial(rounded, digits=2)


def scatter_values(ranking: pd.DataFrame) -> FigureData:
    """Return accuracies on both models; of a transferred module those of the copied one, too.

    All methods have an H. The most important ones are ``named``.
    """
    methods = records(ranking)
    sources = [two_digits(method["source"]) or 0.0 for method in methods]
    targets = [two_digits(method["target"]) or 0.0 for method in methods]
    left, right = _axis_range(sources)
    low, high = _axis_range(targets)
    copied = {}
    for method, source, target in zip(methods, sources, targets, strict=True):
        if not method["track_transfer"]:
            copied[method["method"]] = (source, target)
    named = named_modules(methods)
    rows = []
    for method, source, target in zip(methods, sources, targets, strict=True):
        h = round(method["h"], 1)
        is_named = method["module"] in named
        row = start_row(method, source=source, target=target, h=h, named=is_named)
        before = copied.get(method["method"])
        if method["track_transfer"] and before is not None:
            row["before"] = before
        rows.append(row)
    size = high - low + right - left
    step = next(step for step in (1, 2, 5, 10, 20) if size / step <= 24)
    zero_source, zero_target = zero_shot_accuracies(methods)
    params = {
        "x0": left,
        "x1": right,
        "y0": low,
        "y1": high,
        "step": step,
        "zero_source": zero_source,
        "zero_target": zero_target,
    }
    return FigureData(rows, params)


def start_row(method: Method, **more: Any) -> Row:
    """Return the row of a method, with what more there is to show."""
    return {"title": method["shown_title"], "kind": method["kind"], **more}


def zero_shot_accuracies(methods: Sequence[Method]) -> tuple[float | None, float | None]:
    """Return zero-shot's accuracies on source and target, which do not depend on the method."""
    for method in methods:
        numbers = [method[name] for name in ("source", "source_gain", "target", "gain")]
        if None not in numbers:
            source, source_gain, target, gain = numbers
            return two_digits(source - source_gain), two_digits(target - gain)
    return None, None


def named_modules(methods: Sequence[Method]) -> set[int]:
    """Return the modules of the best method of each kind, and copied ones of well-known methods.

    Methods are in the order of H.
    """
    named = set()
    kinds = set()
    for method in methods:
        is_best = method["kind"] not in kinds
        is_known = method["method"] in WELL_KNOWN and not method["track_transfer"]
        if is_best or is_known:
            named.add(method["module"])
        kinds.add(method["kind"])
    return named


def _axis_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis for all values but those far from the rest."""
    distances = np.abs(np.array(values) - np.median(values))
    near = np.array(values)[distances <= _FAR * max(float(np.median(distances)), 1.0)]
    low, high = float(near.min()), float(near.max())
    room = 0.06 * max(high - low, 5.0)
    return max(math.floor(low - room), 0), math.ceil(high + room)


def matrix_values(
    page: SuitePage, upgrade: Upgrade, shots: int, ranking: pd.DataFrame
) -> FigureData:
    """Return the gain over the target's zero-shot on every dataset, then their mean.

    Args:
        ranking: the methods to show, a part of the ranking of this upgrade.
    """
    sets = [one_line(page.task_title(task), 24) for task in page.expected.tasks]
    gains = task_numbers(page, upgrade, shots, ranking, ["gain"])["gain"]
    rows = []
    for method, of_method in zip(records(ranking), gains, strict=True):
        mean = rounded(method["gain"], 1)
        rows.append(start_row(method, gains=[*of_method, mean]))
    return FigureData(rows, {"sets": [*sets, "Mean"]})


def shots_figures(page: SuitePage) -> Iterator[tuple[str, FigureData]]:
    """Yield a figure for each upgrade of a suite with several numbers of shots."""
    if len(page.expected.shots) > 1:
        for upgrade in page.expected.upgrades:
            yield page.path_title(upgrade), shots_values(page, upgrade)


def shots_values(page: SuitePage, upgrade: Upgrade) -> FigureData:
    """Return accuracies by number of shots, the best H at the most shots first.

    None is a missing cell.
    """
    counts = sorted(page.expected.shots)
    by_title: dict[str, list[Method]] = {}
    for count in counts:
        for method in records(page.ranking(upgrade, count)):
            by_title.setdefault(method["shown_title"], []).append(method)

    def place(title: str) -> tuple[bool, float, str]:
        h = by_title[title][-1]["h"]
        return h is None, -(h or 0), title

    places = list(range(len(counts)))
    ends = [places[0], places[-1]]
    levels: dict[str, Any] = {}
    every = [method for along in by_title.values() for method in along]
    for side, accuracy in zip(SIDES, zero_shot_accuracies(every), strict=True):
        if accuracy is not None:
            levels[f"zero-shot on the {side}"] = (ends, [accuracy] * 2)
    rows = []
    for title in sorted(by_title, key=place):
        along = by_title[title]
        lines: dict[str, Any] = {}
        for side, name in SIDES.items():
            lines[name] = (places, [two_digits(method[side]) for method in along])
        if any(method["h"] is not None for method in along):
            rows.append(panel_row(along[0], lines | levels))
    names = [str(show_shots(count)) for count in counts]
    order = [*SIDES.values(), *levels]
    return FigureData(rows, {"ticks": places, "names": names, "order": order})


def panel_row(method: Method, lines: Mapping[str, tuple[Sequence[float], Sequence[Any]]]) -> Row:
    """Return the lines of a small panel: their names, places and accuracies."""
    at = [list(places) for places, _ in lines.values()]
    accuracy = [list(values) for _, values in lines.values()]
    return start_row(method, line=[*lines], at=at, accuracy=accuracy)


def dodge_labels(values: Sequence[float], least: float) -> list[float]:
    """Return places for the labels of these values, in their order, none nearer than ``least``."""
    places = [*values]
    order = sorted(range(len(values)), key=values.__getitem__)
    for before, after in pairwise(order):
        places[after] = max(places[after], places[before] + least)
    middle = sum(places) / len(places) - sum(values) / len(values)
    return [round(place - middle, 2) for place in places]
