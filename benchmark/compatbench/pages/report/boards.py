"""The leaderboard of the page: one board per suite, upgrade and number of shots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from compatbench.data.shots import show_shots
from compatbench.pages import markdown
from compatbench.pages.markdown import NOTHING, bounds, one_line, percent, signed, spread
from compatbench.pages.report.data import Kind, kind_of, rank_aligned, real_upgrades, show_title
from compatbench.pages.suitepage import SuitePage
from compatbench.results.gaps import find_gaps
from compatbench.results.intervals import measure_interval
from compatbench.results.measures import Mean, Standing, Upgrade
from compatbench.results.ranks import Ranked


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and what it is sorted by; None comes last in either direction.

    Text is sorted by itself.
    """

    text: str
    value: float | str | None


@dataclass(frozen=True)
class BoardRow:
    """One method.

    Attributes:
        paper: its arXiv identifier, or empty.
        cells: one per column.
    """

    kind: Kind
    paper: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Board:
    """The table of one upgrade at one number of shots; all of its texts are plain text."""

    suite: str
    upgrade: str
    shots: str
    rows: tuple[BoardRow, ...]

    def as_json(self) -> dict[str, Any]:
        """For the page's script: every cell as [text, value], or [text] if that is the value."""
        rows = [
            {"kind": row.kind, "paper": row.paper, "cells": [_pair(cell) for cell in row.cells]}
            for row in self.rows
        ]
        return asdict(self) | {"rows": rows}


@dataclass(frozen=True)
class Column:
    """A column of the boards.

    Attributes:
        explains: what it holds, for readers who point at it.
        best_first: how the first click sorts: descending for what is better the higher.
    """

    name: str
    explains: str
    descending: bool = True


COLUMNS = (
    Column("Rank", "= is shared: H differs by no more than chance", descending=False),
    Column("Method", "links to its paper", descending=False),
    Column("H", "harmonic mean of source and target, per dataset and seed, then averaged"),
    Column("95 % of H", "bootstrap over datasets", descending=True),
    Column("Source", "accuracy on the model it was trained for, percent"),
    Column("Target", "accuracy of the same module on the new model, percent"),
    Column("Gain", "target accuracy minus the target's zero-shot, points"),
    Column("NFR", "negative flip rate: right before, wrong now, percent", descending=False),
    Column("Depth", "where the module acts", descending=False),
    Column("Parameters", "numbers that the fit determined", descending=False),
    Column("Fit", "mean seconds of one fit on one core", descending=False),
)


def all_boards(pages: Sequence[SuitePage]) -> list[Board]:
    """The boards of all suites: their upgrades in their order, the most shots first.

    A suite that measures the same cells for another purpose repeats no board.
    """
    boards: list[Board] = []
    seen: dict[tuple[str, str], set[tuple[Cell, ...]]] = {}
    for page in pages:
        for upgrade in real_upgrades(page):
            for shots in sorted(page.expected.shots, reverse=True):
                board = _board(page, upgrade, shots)
                known = seen.setdefault((board.upgrade, board.shots), set())
                figures = {row.cells[1:] for row in board.rows}
                if not figures <= known:
                    boards.append(board)
                known |= figures
    return boards


def gap_rows(pages: Sequence[SuitePage]) -> list[tuple[str, str, str, str, str]]:
    """Suite, method, what, rows and reason of all that failed, is missing, or was refused."""
    found = []
    for page in pages:
        for gap in find_gaps(page.results, page.expected):
            found.append(
                (
                    page.name,
                    one_line(gap.title, longest=40),
                    gap.kind,
                    f"{len(gap.places):,}",
                    gap.reason,
                )
            )
        for method in page.results.all:
            refused = [row for row in method.rows if row.status == "not transferable"]
            for reason in sorted({row.reason for row in refused}):
                count = sum(row.reason == reason for row in refused)
                title = show_title(method)
                found.append((page.name, title, "not transferable", f"{count:,}", reason))
    return [(*row[:4], one_line(row[4]) or NOTHING) for row in found]


def _board(page: SuitePage, upgrade: Upgrade, shots: int) -> Board:
    plain, aligned = page.ranks(upgrade, shots), rank_aligned(page, upgrade, shots)
    # Their places are among themselves, so the letter; they stand below all others.
    places = [*((one, "") for one in plain), *((one, "A") for one in aligned)]
    rows = tuple(_row(one, letter, i) for i, (one, letter) in enumerate(places, 1))
    source, target = (one_line(page.backbone_title(name)) for name in upgrade)
    return Board(one_line(page.title), f"{source} → {target}", str(show_shots(shots)), rows)


def _row(ranked: Ranked, letter: str, place: int) -> BoardRow:
    standing = ranked.standing
    info = standing.info
    counts, interval = standing.parameters, measure_interval(standing, "h")
    learned = standing.fit_seconds if info.learns else None
    cells = (
        Cell(letter + ranked.rank if ranked.rank else NOTHING, place),
        _text(show_title(standing)),
        _mean(standing.mean("h"), spread, "incomplete" if standing.state == "incomplete" else ""),
        Cell(bounds(interval), round(interval.low, 3) if interval and interval.bounded else None),
        _mean(standing.mean("source"), spread),
        _mean(standing.mean("target"), spread, _refusal(standing)),
        _mean(standing.mean("gain"), lambda mean: signed(mean.value)),
        _mean(standing.mean("negative_flips"), lambda mean: percent(mean.value)),
        _text(NOTHING if info.depth == "none" else info.depth),
        Cell(markdown.parameters(standing), None if counts is None else counts[1]),
        Cell(markdown.fit_time(standing), None if learned is None else round(learned, 4)),
    )
    return BoardRow(kind_of(standing), markdown.paper_id(info.paper) or "", cells)


def _pair(cell: Cell) -> list[float | str | None]:
    return [cell.text] if isinstance(cell.value, str) else [cell.text, cell.value]


def _refusal(standing: Standing) -> str:
    return "not transferable" if standing.state == "not transferable" else ""


def _text(text: str) -> Cell:
    return Cell(text, text)


def _mean(mean: Mean | None, show: Callable[[Mean], str], without: str = "") -> Cell:
    if mean is None:
        return Cell(without or NOTHING, None)
    return Cell(show(mean), round(mean.value, 3) + 0.0)
