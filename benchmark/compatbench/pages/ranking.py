"""The ranking of an upgrade: its rows and columns, once for Markdown, HTML and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from compatbench.data.shots import count_shots
from compatbench.errors import one_line
from compatbench.pages.markdown import NOTHING, bounds, duration, percent, signed, spread
from compatbench.pages.suite_page import SuitePage
from compatbench.results.bootstrap import Interval
from compatbench.results.measures import Measure
from compatbench.results.ranking_table import find_gaps
from compatbench.results.ranks import Ranked, round_mean


class Cell(NamedTuple):
    """What a cell shows, and what it is sorted by; None is last."""

    text: str
    value: float | str | None


@dataclass(frozen=True)
class Column:
    """A column of the ranking.

    Attributes:
        explanation: what it holds, for readers who point at it.
        cell: makes the cell of a row.
        bold: the measure whose best value is highlighted.
        descending: how the first click sorts, as for what is in bold.
        text: whether it is aligned left.
        markdown: whether the leaderboard shows it.
        min_width: characters that a terminal must have to show it; None is never.
    """

    title: str
    explanation: str
    cell: Callable[[Ranked], Cell]
    bold: Measure | None = None
    descending: bool = False
    text: bool = False
    markdown: bool = True
    min_width: int | None = 0


def format_parameters(row: Ranked) -> str:
    """``8,192``, or the least and the most if datasets differ."""
    low, high = row.figures["parameters_low"], row.figures["parameters"]
    return NOTHING if low is None else f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _rank(row: Ranked) -> Cell:
    # Other transfers are ranked among themselves.
    return Cell(f"{row.transfer} {row.rank}".strip() if row.rank else NOTHING, None)


def _text(text: str) -> Cell:
    return Cell(text, text)


def _depth(row: Ranked) -> Cell:
    return _text(row.figures["depth"] if row.kind != "floor" else NOTHING)


def _mean(measure: Measure, instead: str = "") -> Callable[[Ranked], Cell]:
    """A mean with its spread; a state stands in place of a mean that it explains."""

    def cell(row: Ranked) -> Cell:
        mean, state = row.standing.mean(measure), row.figures["state"]
        text = instead if mean is None and instead == state else spread(mean)
        return Cell(text, round_mean(mean, 3))

    return cell


def _plain(measure: Measure, show: Callable[[float | None], str]) -> Callable[[Ranked], Cell]:
    """A mean without its spread."""
    return lambda row: Cell(show(row.value(measure)), round_mean(row.standing.mean(measure), 3))


def _interval(row: Ranked) -> Cell:
    h, low, high = (row.figures[name] for name in ("h", "h_low", "h_high"))
    interval = None if low is None else Interval(h, low, high)
    return Cell(bounds(interval), interval and round(interval.low, 3))


def _seconds(row: Ranked) -> Cell:
    seconds = row.figures["fit_seconds"]
    return Cell(duration(seconds), seconds and round(seconds, 4))


COLUMNS = (
    Column("Rank", "=: shared, H differs by no more than chance", _rank),
    Column("Method", "links to its paper", lambda row: _text(row.title), text=True),
    Column("Depth", "where the module acts", _depth, text=True, min_width=110),
    Column(
        "Source",
        "accuracy on the model it was trained for, percent",
        _mean("source"),
        bold="source",
        min_width=46,
    ),
    Column(
        "Target",
        "accuracy of the same module on the new model, percent",
        _mean("target", "not transferable"),
        bold="target",
    ),
    Column(
        "H",
        "harmonic mean of source and target, per dataset and seed, then averaged",
        _mean("h", "incomplete"),
        bold="h",
    ),
    Column("95 % of H", "bootstrap over datasets", _interval, descending=True, min_width=None),
    Column(
        "Gain",
        "target accuracy minus the target's zero-shot, points",
        _plain("gain", signed),
        descending=True,
    ),
    Column(
        "NFR",
        "negative flip rate: right before, wrong now, percent",
        _plain("negative_flips", percent),
        markdown=False,
        min_width=None,
    ),
    Column(
        "Parameters",
        "numbers that the fit determined",
        lambda row: Cell(format_parameters(row), row.figures["parameters"]),
        markdown=False,
        min_width=96,
    ),
    Column("Fit", "mean seconds of one fit on one core", _seconds, markdown=False, min_width=96),
)


def explain_unranked(rows: Sequence[Ranked]) -> list[tuple[str, str, str]]:
    """Title, state and explanation of the methods of a ranking that have no H."""
    found = []
    for row in rows:
        one, cells = row.figures, row.figures["cells"]
        if one["state"] == "not transferable":
            where = f"all {cells}" if one["refused"] == cells else f"{one['refused']} of {cells}"
            reasons = "; ".join(map(one_line, one["reasons"])) or "no reason given"
            text = f"in {where} cells (source {percent(row.value('source'))}): {reasons}"
            found.append((row.title, one["state"], text))
        elif one["state"] == "incomplete":
            text = f"with {one['measured']} of {cells} cells measured, so no mean is given"
            found.append((row.title, one["state"], text))
    return found


def gap_rows(page: SuitePage) -> list[tuple[str, str, str, str, str]]:
    """Method, kind, number of rows, first place and reason of all that failed or is missing."""
    rows = []
    gaps = find_gaps(page.results, page.expected)
    for _, same in gaps.groupby(["method", "title", "kind", "reason"], sort=False):
        one = same.iloc[0]
        task, test_set = one["task"], one["test_set"]
        where = task if test_set == task else f"{task}/{test_set}"
        first = f"{where}, {count_shots(one['shots'])}, seed {one['seed']}, on {one['backbone']}"
        rows.append((one["title"], one["kind"], f"{len(same):,}", first, one["reason"]))
    return rows
