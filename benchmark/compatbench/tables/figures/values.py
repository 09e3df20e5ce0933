"""What the figures show: a record per method, and the settings of the figure.

Every record has the ``title`` and ``kind`` of its method, by which the report filters, and figures
with at most two decimals. The same results give the same values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, compress, pairwise
from typing import Any

import numpy as np

from compatbench.data.cards.shots import count_shots, show_shots
from compatbench.messages import one_line
from compatbench.results.expected import Upgrade
from compatbench.results.ranks import Ranked, exact, rounded
from compatbench.results.standing import follow_path
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.suite_page import SuitePage

Record = dict[str, Any]

SIDES = ("source", "target, same module")
FOUNDING_PAPER = "arXiv:2412.20895"
# A method farther from the median than this many median deviations stands hollow at the edge: one
# that lost everything would press all others into a corner.
_FAR = 6.0
_FOOT = -25.0  # points of gain; a line ends there
two_digits = partial(rounded, digits=2)


def record(row: Ranked, **more: Any) -> Record:
    return {"title": row.title, "kind": row.kind, **more}


def scatter_values(rows: Sequence[Ranked]) -> Shown:
    """Accuracies on both models; those of a transferred module with the untouched module's.

    All ``rows`` have an H; ``named`` are the most important.
    """
    points = [
        (two_digits(row.value("source")) or 0.0, two_digits(row.value("target")) or 0.0)
        for row in rows
    ]
    left, right = _range([x for x, _ in points])
    low, high = _range([y for _, y in points])
    inside = [left <= x <= right and low <= y <= high for x, y in points]
    named, values = set(named_methods([*compress(rows, inside)])), []
    untouched = {
        row.figures["method"]: point
        for row, point in zip(rows, points, strict=True)
        if not row.transfer
    }
    for row, (source, target) in zip(rows, points, strict=True):
        h = round(row.value("h") or 0.0, 1)
        values_of_row = record(row, source=source, target=target, h=h, named=row in named)
        if row.transfer and (before := untouched.get(row.figures["method"])):
            values_of_row["before"] = before
        values.append(values_of_row)
    zero = zero_shot_accuracies(rows) or (None, None)
    step = next(size for size in (1, 2, 5, 10, 20) if (high - low + right - left) / size <= 24)
    frame = {"x0": left, "x1": right, "y0": low, "y1": high, "step": step}
    return Shown(
        values, frame | {"zero_source": two_digits(zero[0]), "zero_target": two_digits(zero[1])}
    )


def zero_shot_accuracies(rows: Sequence[Ranked]) -> tuple[float, float] | None:
    """Of source and target. They do not depend on the method: those of the first with all cells."""
    for row in rows:
        source, source_gain = row.value("source"), row.value("source_gain")
        target, gain = row.value("target"), row.value("gain")
        if None not in (source, source_gain, target, gain):
            return round(source - source_gain, 4), round(target - gain, 4)  # type: ignore[operator]
    return None


def named_methods(rows: Sequence[Ranked]) -> list[Ranked]:
    """The four that are named: the first and the last by H, zero-shot, the founding paper's own."""
    plain = [row for row in rows if not row.transfer]
    founding = [row for row in plain if row.figures["paper"] == FOUNDING_PAPER]
    floor = [row for row in plain if row.kind == "floor"]
    return list(dict.fromkeys([*plain[:1], *founding[:1], *floor[:1], *plain[-1:]]))


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis for all values but those far from the rest."""
    distances = np.abs(np.array(values) - np.median(values))
    near = np.array(values)[distances <= _FAR * max(float(np.median(distances)), 1.0)]
    low, high = float(near.min()), float(near.max())
    room = 0.06 * max(high - low, 5.0)
    return max(math.floor(low - room), 0), math.ceil(high + room)


def matrix_values(page: SuitePage, rows: Sequence[Ranked]) -> Shown:
    """Gain over the target's zero-shot on every dataset, then their mean."""
    tasks = page.expected.tasks
    sets = [*(one_line(page.task_title(task), 24) for task in tasks), "Mean"]
    values = [
        record(row, gains=[rounded(v, 1) for v in (*row.by_task("gain"), row.value("gain"))])
        for row in rows
    ]
    return Shown(values, {"sets": sets})


def cost_values(rows: Sequence[Ranked], what: str) -> Shown:
    """H against a cost, of the methods whose cost is known; cheapest first."""
    values = []
    for row in rows:
        # A method that fits nothing costs nothing, whatever its rows say.
        cost = 0.0 if row.kind == "floor" else row.figures[what]
        h = row.value("h")
        if cost is not None and h is not None:
            values.append(record(row, cost=float(f"{cost:.3g}"), h=two_digits(h)))
    values.sort(key=lambda point: (point["cost"], -point["h"], point["title"]))
    positive = [point["cost"] for point in values if point["cost"] > 0] or [1.0]
    first, last = (math.floor(math.log10(end)) for end in (min(positive), max(positive)))
    ticks = [0.0, *(10.0**power for power in range(first, last + 1))]
    h = np.array([point["h"] for point in values] or [0.0])
    # A method that lost everything is not worth half of the figure.
    lowest = math.floor(float(h[h >= np.median(h) - 20].min()) - 1)
    return Shown(values, {"threshold": 10.0**first, "ticks": ticks, "lowest": lowest})


def shots_values(page: SuitePage, upgrade: Upgrade) -> Shown:
    """Accuracies by number of shots, the best H at the most shots first; None is a missing cell."""
    counts, rows = sorted(page.expected.shots), {}
    for count in counts:
        for row in page.all_ranks(upgrade, count):
            rows.setdefault(row.title, []).append(row)
    last = {title: along[-1].value("h") for title, along in rows.items()}
    order = sorted(rows, key=lambda title: (last[title] is None, -(last[title] or 0), title))
    places, zero = [*range(len(counts))], zero_shot_accuracies([*chain(*rows.values())])
    ends = [places[0], places[-1]]
    level = {
        f"zero-shot on the {side}": (ends, [two_digits(accuracy)] * 2)
        for side, accuracy in zip(("source", "target"), zero or (), strict=False)
    }
    values = []
    for title in order:
        along = {
            side: (places, [two_digits(row.value(measure)) for row in rows[title]])
            for side, measure in zip(SIDES, ("source", "target"), strict=True)
        }
        if any(row.value("h") is not None for row in rows[title]):
            values.append(panel_record(rows[title][0], along | level))
    names = [str(show_shots(count)) for count in counts]
    return Shown(values, {"ticks": places, "names": names, "order": [*SIDES, *level]})


def panel_record(row: Ranked, lines: Mapping[str, tuple[Sequence[float], Sequence[Any]]]) -> Record:
    """The lines of a small panel: their names, places and accuracies."""
    at, accuracy = zip(*lines.values(), strict=True)
    return record(row, line=[*lines], at=list(map(list, at)), accuracy=list(map(list, accuracy)))


def dodge_labels(values: Sequence[float], least: float) -> list[float]:
    """Places for labels of these values, in their order, of which no two are nearer than this."""
    places = [*values]
    order = sorted(range(len(values)), key=values.__getitem__)
    for before, after in pairwise(order):
        places[after] = max(places[after], places[before] + least)
    middle = sum(places) / len(places) - sum(values) / len(values)
    return [round(place - middle, 2) for place in places]


def path_values(page: SuitePage, path: Sequence[str]) -> Shown:
    """Gain over zero-shot at every backbone of a path, of the methods with all cells of it."""
    shots, values = max(page.expected.shots), []
    models = [one_line(page.backbone_title(name), 60) for name in path]
    for row in page.all_ranks((path[0], path[-1]), shots):
        if row.kind == "floor":  # it is the line at 0
            continue
        means = follow_path(row.standing.results, page.expected, path, shots)["gain"]
        gains = [gain for mean in means if (gain := two_digits(exact(mean))) is not None]
        if len(gains) == len(path):
            values.append(record(row, gains=gains, models=models))
    values.sort(key=lambda point: (-point["gains"][-1], point["title"]))
    return Shown(values, {"foot": _FOOT})


def shots_figures(page: SuitePage) -> Iterator[tuple[str, Shown]]:
    """A figure for each upgrade of a suite with several numbers of shots."""
    for upgrade in page.expected.upgrades if len(page.expected.shots) > 1 else ():
        yield page.path_title(upgrade), shots_values(page, upgrade)


def path_figures(page: SuitePage) -> Iterator[tuple[str, Shown]]:
    """A figure for each path of upgrades."""
    for path in page.paths:
        models = " → ".join(one_line(page.backbone_title(name), 60) for name in path)
        heading = f"{models}, {count_shots(max(page.expected.shots))}"
        yield heading, path_values(page, path)
