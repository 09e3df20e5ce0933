"""The ranking of an upgrade: its rows and columns, once for Markdown, HTML and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compatbench.data.cards.suite import COPIED
from compatbench.data.shots import count_shots
from compatbench.pages.markdown import NOTHING, bounds, duration, one_line, percent, signed, spread
from compatbench.pages.suite_page import SuitePage
from compatbench.results.bootstrap import Interval
from compatbench.results.gaps import find_gaps
from compatbench.results.measures import Mean, Measure, Standing, Upgrade
from compatbench.results.ranking_table import all_figures
from compatbench.results.ranks import Ranked

Kind = Literal["floor", "shallow", "deep", "transferred"]


@dataclass(frozen=True, eq=False)
class RankingRow:
    """A method in the ranking of an upgrade.

    Attributes:
        figures: its row of ``ranking_frame``; a missing figure is None.
        standing: what the figures are computed from, for figures of one task.
        place: its line in the table, from 1.
    """

    figures: Mapping[str, Any]
    standing: Standing
    place: int

    @property
    def rank(self) -> str:
        """Its place among methods of the same transfer; empty if it has no H."""
        return self.figures["rank"]

    @property
    def transfer(self) -> str:
        """How its module reached the target; empty if it was attached untouched."""
        return "" if self.figures["transfer"] == COPIED else self.figures["transfer"]

    @property
    def kind(self) -> Kind:
        if self.transfer:
            return "transferred"
        depth = self.figures["depth"]
        return "floor" if depth == "none" else depth

    @property
    def title(self) -> str:
        """One line, not long; with the transfer, if there is one."""
        title = one_line(self.figures["title"], longest=40) or self.figures["method"]
        return f"{title} ({self.transfer})" if self.transfer else title

    def mean(self, column: str) -> Mean | None:
        """A figure with its spread over seeds, if it has one."""
        value = self.figures[column]
        return None if value is None else Mean(value, self.figures.get(f"{column}_std"))

    def value(self, column: str) -> float | None:
        """A figure with four decimals, so that none depends on the last digit of a sum."""
        return round_mean(self.mean(column))

    def task_value(self, measure: Measure, task: str) -> float | None:
        """The same of one task."""
        return round_mean(self.standing.mean(measure, task))

    @property
    def parameters(self) -> int | None:
        """Of its largest module."""
        return self.figures["parameters"]

    @property
    def seconds(self) -> float | None:
        """Mean wall clock of a fit; None for a method that fits nothing."""
        return self.figures["fit_seconds"]


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
    transfers = (COPIED, *page.transferred)
    return rows_of([one for name in transfers for one in page.ranks(upgrade, shots, name)])


def rows_of(ranks: Sequence[Ranked]) -> list[RankingRow]:
    """The rows of rankings, one after the other."""
    return [RankingRow(all_figures(one), one.standing, i) for i, one in enumerate(ranks, 1)]


def format_parameters(row: RankingRow) -> str:
    """``8,192``, or the least and the most if datasets differ."""
    low, high = row.figures["parameters_low"], row.figures["parameters"]
    return NOTHING if low is None else f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _rank(row: RankingRow) -> Cell:
    # Other transfers are ranked among themselves.
    rank = f"{row.transfer} {row.rank}".strip() if row.rank else NOTHING
    return Cell(rank, row.place)


def _text(text: str) -> Cell:
    return Cell(text, text)


def _mean(row: RankingRow, column: str, instead: str = "") -> Cell:
    """A mean with its spread; a state stands in place of a mean that it explains."""
    mean = row.mean(column)
    if mean is None:
        return Cell(instead if instead == row.figures["state"] else NOTHING, None, NOTHING)
    return Cell(spread(mean), round(mean.value, 3) + 0.0, percent(mean.value))


def _interval(row: RankingRow) -> Cell:
    low, high = row.figures["h_low"], row.figures["h_high"]
    if low is None or high is None:
        return Cell(NOTHING, None)
    return Cell(bounds(Interval(row.figures["h"], low, high)), round(low, 3))


def _signed(row: RankingRow, column: str, show: Callable[[float | None], str]) -> Cell:
    value = row.value(column)
    return Cell(show(value), None if value is None else round(value, 3) + 0.0)


COLUMNS = (
    Column("Rank", "=: shared, H differs by no more than chance", _rank, descending=False),
    Column("Method", "links to its paper", lambda row: _text(row.title), False, text=True),
    Column(
        "Depth",
        "where the module acts",
        lambda row: _text(row.figures["depth"] if row.kind != "floor" else NOTHING),
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
        lambda row: _signed(row, "nfr", percent),
        descending=False,
        markdown=False,
        min_width=None,
    ),
    Column(
        "Parameters",
        "numbers that the fit determined",
        lambda row: Cell(format_parameters(row), row.parameters),
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
        figures = row.figures
        state, cells = figures["state"], figures["cells"]
        if state == "not transferable":
            refused = figures["refused"]
            where = f"all {cells}" if refused == cells else f"{refused} of {cells}"
            source = percent(row.value("source"))
            reasons = "; ".join(map(one_line, figures["reasons"])) or "no reason given"
            text = f"in {where} cells (source {source}): {reasons}"
        elif state == "incomplete":
            measured = figures["measured"]
            text = f"with {measured} of {cells} cells measured, so no mean is given"
        else:
            continue
        found.append((row.title, state, text))
    return found


def gap_rows(page: SuitePage) -> list[tuple[str, str, str, str, str]]:
    """Method, kind, number of rows, first place and reason of all that failed or is missing."""
    rows = []
    for gap in find_gaps(page.results, page.expected):
        task, test_set, shots, seed, backbone = gap.places[0]
        where = task if test_set == task else f"{task}/{test_set}"
        first = f"{where}, {count_shots(shots)}, seed {seed}, on {backbone}"
        rows.append((gap.title, gap.kind, f"{len(gap.places):,}", first, gap.reason))
    return rows
