"""The ranking of an upgrade: its rows and columns, once for Markdown, HTML and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from compatbench.data.cards.suite import COPIED
from compatbench.data.shots import count_shots
from compatbench.pages.markdown import NOTHING, bounds, duration, one_line, percent, signed, spread
from compatbench.pages.suite_page import SuitePage
from compatbench.results.bootstrap import Interval
from compatbench.results.measures import Mean, Measure, Standing, Upgrade
from compatbench.results.ranking_table import all_figures, find_gaps
from compatbench.results.ranks import Ranked

Kind = Literal["floor", "shallow", "deep", "transferred"]


@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        """Its rounded figures, but no times: these differ from run to run."""
        means = [self.value(measure) for measure in ("source", "target", "h", "gain")]
        by_task = [(self.value("h", t), self.value("gain", t)) for t in self.standing.tasks]
        return repr((self.title, self.kind, self.figures["rank"], means, by_task))

    @property
    def transfer(self) -> str:
        """How its module reached the target; empty if it was attached untouched."""
        return "" if self.figures["transfer"] == COPIED else self.figures["transfer"]

    @property
    def kind(self) -> Kind:
        depth = self.figures["depth"]
        return "transferred" if self.transfer else "floor" if depth == "none" else depth

    @property
    def title(self) -> str:
        """One line, not long; with the transfer, if there is one."""
        title = one_line(self.figures["title"], longest=40) or self.figures["method"]
        return f"{title} ({self.transfer})" if self.transfer else title

    def value(self, measure: Measure, task: str | None = None) -> float | None:
        """A mean, of all tasks or of one, with four decimals: none depends on the last digit."""
        return round_mean(self.standing.mean(measure, task))


def round_mean(mean: Mean | None, digits: int = 4) -> float | None:
    # Adding 0 makes -0.0 the 0 that it is.
    return None if mean is None else round(mean.value, digits) + 0.0


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
    cell: Callable[[RankingRow], Cell]
    bold: Measure | None = None
    descending: bool = False
    text: bool = False
    markdown: bool = True
    min_width: int | None = 0


def ranking_rows(page: SuitePage, upgrade: Upgrade, shots: int) -> list[RankingRow]:
    """All methods on an upgrade: the untouched modules first, then those of each transfer."""
    transfers = (COPIED, *page.results.transferred)
    return rows_of([one for name in transfers for one in page.ranks(upgrade, shots, name)])


def rows_of(ranks: Sequence[Ranked]) -> list[RankingRow]:
    """The rows of rankings, one ranking after the other."""
    return [RankingRow(all_figures(one), one.standing, i) for i, one in enumerate(ranks, 1)]


def format_parameters(row: RankingRow) -> str:
    """``8,192``, or the least and the most if datasets differ."""
    low, high = row.figures["parameters_low"], row.figures["parameters"]
    return NOTHING if low is None else f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _rank(row: RankingRow) -> Cell:
    # Other transfers are ranked among themselves.
    rank = row.figures["rank"]
    return Cell(f"{row.transfer} {rank}".strip() if rank else NOTHING, row.place)


def _text(text: str) -> Cell:
    return Cell(text, text)


def _depth(row: RankingRow) -> Cell:
    return _text(row.figures["depth"] if row.kind != "floor" else NOTHING)


def _mean(measure: Measure, instead: str = "") -> Callable[[RankingRow], Cell]:
    """A mean with its spread; a state stands in place of a mean that it explains."""

    def cell(row: RankingRow) -> Cell:
        mean, state = row.standing.mean(measure), row.figures["state"]
        text = instead if mean is None and instead == state else spread(mean)
        return Cell(text, round_mean(mean, 3))

    return cell


def _plain(measure: Measure, show: Callable[[float | None], str]) -> Callable[[RankingRow], Cell]:
    """A mean without its spread."""
    return lambda row: Cell(show(row.value(measure)), round_mean(row.standing.mean(measure), 3))


def _interval(row: RankingRow) -> Cell:
    h, low, high = (row.figures[name] for name in ("h", "h_low", "h_high"))
    interval = None if low is None else Interval(h, low, high)
    return Cell(bounds(interval), interval and round(interval.low, 3))


def _seconds(row: RankingRow) -> Cell:
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


def explain_unranked(rows: Sequence[RankingRow]) -> list[tuple[str, str, str]]:
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
