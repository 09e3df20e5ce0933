"""The ranking of an upgrade: its rows and columns, once for Markdown, HTML and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from compatbench.data.shots import count_shots
from compatbench.pages.markdown import NOTHING, bounds, duration, one_line, percent, signed, spread
from compatbench.pages.suite_page import SuitePage
from compatbench.results.intervals import measure_interval
from compatbench.results.measures import Mean, Measure, Standing, Upgrade
from compatbench.results.ranks import Ranked

Kind = Literal["floor", "shallow", "deep", "transferred"]


@dataclass(frozen=True, eq=False)
class RankingRow:
    """A method in the ranking of an upgrade.

    Attributes:
        rank: its place among methods of the same transfer; empty if it has no H.
        place: its line in the table, from 1.
        transfer: how its module reached the target; empty if it was attached untouched.
    """

    standing: Standing
    rank: str
    place: int
    transfer: str = ""

    @property
    def kind(self) -> Kind:
        if self.transfer:
            return "transferred"
        depth = self.standing.info.depth
        return "floor" if depth == "none" else depth

    @property
    def title(self) -> str:
        """One line, not long; with the transfer, if there is one."""
        info = self.standing.info
        title = one_line(info.title, longest=40) or info.name
        return f"{title} ({self.transfer})" if self.transfer else title

    def value(self, measure: Measure, task: str | None = None) -> float | None:
        """A mean with four decimals, so that figures do not depend on the last digit of a sum."""
        return round_mean(self.standing.mean(measure, task))

    @property
    def parameters(self) -> int | None:
        """Of its largest module."""
        counts = self.standing.parameters
        return None if counts is None else counts[1]

    @property
    def seconds(self) -> float | None:
        """Mean wall clock of a fit; None for a method that fits nothing."""
        return self.standing.fit_seconds if self.standing.info.learns else None


def round_mean(mean: Mean | None) -> float | None:
    # Adding 0 makes -0.0 the 0 that it is.
    return None if mean is None else round(mean.value, 4) + 0.0


@dataclass(frozen=True)
class Cell:
    """What a cell shows, what it is sorted by (None is last), and a shorter text."""

    text: str
    value: float | str | None
    short: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the ranking.

    Attributes:
        explanation: what it holds, for readers who point at it.
        cell: makes the cell of a row.
        descending: how the first click sorts: descending for what is better the higher.
        bold: the measure whose best value is highlighted.
        text: whether it is aligned left.
        markdown: whether the leaderboard shows it.
        min_width: characters that a terminal must have to show it; None is never.
    """

    title: str
    explanation: str
    cell: Callable[[RankingRow], Cell]
    descending: bool = True
    bold: Measure | None = None
    text: bool = False
    markdown: bool = True
    min_width: int | None = 0


def ranking_rows(page: SuitePage, upgrade: Upgrade, shots: int) -> list[RankingRow]:
    """All methods on an upgrade: the untouched modules first, then those of each transfer."""
    ranks = [
        (one, transfer)
        for transfer in ("", *page.transferred)
        for one in page.ranks(upgrade, shots, transfer)
    ]
    return [RankingRow(one.standing, one.rank, i, name) for i, (one, name) in enumerate(ranks, 1)]


def rows_of(ranks: Sequence[Ranked]) -> list[RankingRow]:
    """The rows of one ranking of untouched modules."""
    return [RankingRow(one.standing, one.rank, i) for i, one in enumerate(ranks, 1)]


def format_parameters(standing: Standing) -> str:
    """``8,192``, or the least and the most if datasets differ."""
    low, high = standing.parameters or (None, None)
    return NOTHING if low is None else f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _rank(row: RankingRow) -> Cell:
    # Other transfers are ranked among themselves.
    rank = f"{row.transfer} {row.rank}".strip() if row.rank else NOTHING
    return Cell(rank, row.place)


def _text(text: str) -> Cell:
    return Cell(text, text)


def _mean(row: RankingRow, measure: Measure, instead: str = "") -> Cell:
    """A mean with its spread; a state stands in place of a mean that it explains."""
    mean = row.standing.mean(measure)
    if mean is None:
        return Cell(instead if instead == row.standing.state else NOTHING, None, NOTHING)
    return Cell(spread(mean), round(mean.value, 3) + 0.0, percent(mean.value))


def _interval(row: RankingRow) -> Cell:
    interval = measure_interval(row.standing, "h")
    known = interval is not None and interval.bounded
    return Cell(bounds(interval), round(interval.low, 3) if interval and known else None)


def _signed(row: RankingRow, measure: Measure, show: Callable[[float | None], str]) -> Cell:
    value = row.value(measure)
    return Cell(show(value), None if value is None else round(value, 3) + 0.0)


COLUMNS = (
    Column("Rank", "=: shared, H differs by no more than chance", _rank, descending=False),
    Column("Method", "links to its paper", lambda row: _text(row.title), False, text=True),
    Column(
        "Depth",
        "where the module acts",
        lambda row: _text(row.standing.info.depth if row.kind != "floor" else NOTHING),
        descending=False,
        text=True,
        min_width=110,
    ),
    Column(
        "Source",
        "accuracy on the model it was trained for, percent",
        lambda row: _mean(row, "source"),
        bold="source",
        min_width=46,
    ),
    Column(
        "Target",
        "accuracy of the same module on the new model, percent",
        lambda row: _mean(row, "target", "not transferable"),
        bold="target",
    ),
    Column(
        "H",
        "harmonic mean of source and target, per dataset and seed, then averaged",
        lambda row: _mean(row, "h", "incomplete"),
        bold="h",
    ),
    Column("95 % of H", "bootstrap over datasets", _interval, min_width=None),
    Column(
        "Gain",
        "target accuracy minus the target's zero-shot, points",
        lambda row: _signed(row, "gain", signed),
    ),
    Column(
        "NFR",
        "negative flip rate: right before, wrong now, percent",
        lambda row: _signed(row, "negative_flips", percent),
        descending=False,
        markdown=False,
        min_width=None,
    ),
    Column(
        "Parameters",
        "numbers that the fit determined",
        lambda row: Cell(format_parameters(row.standing), row.parameters),
        descending=False,
        markdown=False,
        min_width=96,
    ),
    Column(
        "Fit",
        "mean seconds of one fit on one core",
        lambda row: Cell(duration(row.seconds), row.seconds and round(row.seconds, 4)),
        descending=False,
        markdown=False,
        min_width=96,
    ),
)


def explain_unranked(rows: Sequence[RankingRow]) -> list[tuple[str, str, str]]:
    """Title, state and explanation of the methods of a ranking that have no H."""
    found = []
    for row in rows:
        standing = row.standing
        answered, expected = standing.coverage
        if standing.state == "not transferable":
            refused = standing.refused
            cells = f"all {expected}" if refused == expected else f"{refused} of {expected}"
            source = percent(row.value("source"))
            reasons = "; ".join(map(one_line, standing.reasons)) or "no reason given"
            text = f"in {cells} cells (source {source}): {reasons}"
        elif standing.state == "incomplete":
            text = f"with {answered} of {expected} cells measured, so no mean is given"
        else:
            continue
        found.append((row.title, standing.state, text))
    return found


def gap_rows(page: SuitePage) -> list[tuple[str, str, str, str, str]]:
    """Method, kind, number of rows, first place and reason of all that failed or is missing."""
    rows = []
    for gap in page.gaps():
        task, test_set, shots, seed, backbone = gap.places[0]
        where = task if test_set == task else f"{task}/{test_set}"
        first = f"{where}, {count_shots(shots)}, seed {seed}, on {backbone}"
        rows.append((gap.title, gap.kind, f"{len(gap.places):,}", first, gap.reason))
    return rows
