"""The ranking of an upgrade: its rows and columns, for all pages, and its form in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from compatbench.data.cards.shots import count_shots
from compatbench.messages import one_line
from compatbench.results.bootstrap import Interval
from compatbench.results.ranking_table import find_gaps
from compatbench.results.ranks import Ranked, exact, rounded
from compatbench.results.standing import MeasureName
from compatbench.tables.markdown import NOTHING, bounds, duration, is_best, percent, signed, spread
from compatbench.tables.suite_page import SuitePage

_SPREAD_WIDTH = 76  # a narrower terminal shows means without their spread


class Cell(NamedTuple):
    """What a cell shows, and what it is sorted by; None is last."""

    text: str
    value: float | str | None


@dataclass(frozen=True)
class Column:
    """A column of the ranking."""

    title: str
    explanation: str  # for readers who point at it
    bold: MeasureName | None = None  # the measure whose best value is highlighted
    descending: bool = False  # how the first click sorts, as for what is in bold
    text: bool = False  # aligned left
    markdown: bool = True  # whether the leaderboard shows it
    exact: bool = True  # whether a number that it is sorted by is what it shows
    min_width: int | None = 0  # characters that a terminal must have to show it; None is never


COLUMNS = (
    Column("Rank", "=: shared, H differs by no more than chance", exact=False),
    Column("Method", "links to its paper", text=True),
    Column("Depth", "where the module acts", text=True, min_width=110),
    Column("Source", "accuracy on the model it was trained for, percent", "source", min_width=46),
    Column("Target", "accuracy of the same module on the new model, percent", "target"),
    Column("H", "harmonic mean of source and target, per dataset and seed, then averaged", "h"),
    Column(*("95 % of H", "bootstrap over datasets"), descending=True, min_width=None, exact=False),
    Column("Gain", "target accuracy minus the target's zero-shot, points", descending=True),
    Column(
        *("NFR", "negative flip rate: right before, wrong now, percent"),
        markdown=False,
        min_width=None,
    ),
    Column("Parameters", "numbers that the fit determined", markdown=False, min_width=96),
    Column("Fit", "mean seconds of one fit on one core", markdown=False, min_width=96),
)


def row_cells(row: Ranked, place: int | None = None) -> list[Cell]:
    """What a method shows in each of ``COLUMNS``; by rank it is sorted by its place in the table.

    A state stands in place of a mean that it explains.
    """
    one, state, mean = row.figures, row.figures["state"], row.standing.mean
    # Other tracks are ranked among themselves.
    rank = f"{row.track} {row.rank}".strip() if row.rank else NOTHING
    depth = NOTHING if row.kind == "floor" else one["depth"]
    interval = None if one["h_low"] is None else Interval(one["h"], one["h_low"], one["h_high"])
    seconds = one["fit_seconds"]
    texts = {
        "source": spread(mean("source")),
        "target": state if one["target"] is None and one["refused"] else spread(mean("target")),
        "h": state if state in ("incomplete", "refused") else spread(mean("h")),
        "95 %": bounds(interval),
        "gain": signed(row.value("gain")),
        "negative_flips": percent(row.value("negative_flips")),
    }
    figures: list[MeasureName] = ["source", "target", "h", "gain", "negative_flips"]
    values = {name: rounded(exact(mean(name)), 3) for name in figures}
    values["95 %"] = interval and round(interval.low, 3)
    return [
        Cell(rank, place),
        *(Cell(text, text) for text in (row.title, depth)),
        *(Cell(text, values[name]) for name, text in texts.items()),
        Cell(format_parameters(row), one["parameters"]),
        Cell(duration(seconds), seconds and round(seconds, 4)),
    ]


def format_parameters(row: Ranked) -> str:
    """``8,192``, or the least and the most if datasets differ."""
    low, high = row.figures["parameters_low"], row.figures["parameters"]
    return NOTHING if low is None else f"{low:,}" if low == high else f"{low:,} to {high:,}"


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
        elif one["state"] == "not ranked":
            found.append((row.title, one["state"], f"here: {row.standing.unranked}"))
        elif one["state"] == "refused":
            found.append((row.title, one["state"], f"by {row.standing.info.refused}"))
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


def print_ranking(console: Console, page: SuitePage) -> None:
    """Prints the ranking of every upgrade at the most shots, and what failed or is missing."""
    console.print(ranking_renderable(page, console.width))
    for title, kind, count, _, reason in gap_rows(page):
        rows = "1 row" if count == "1" else f"{count} rows"
        text = f"{one_line(title)}: {rows} {kind}" + (f": {one_line(reason)}" if reason else "")
        console.print(Text(text, style="red" if kind == "failed" else "yellow"))


def ranking_renderable(page: SuitePage, width: int) -> RenderableType:
    """The ranking of every upgrade, as far as it is measured, in so many characters."""
    shots = max(page.expected.shots)
    parts: list[RenderableType] = []
    for upgrade in page.expected.upgrades:
        rows = page.all_ranks(upgrade, shots)
        for transfer in dict.fromkeys(row.transfer for row in rows):
            group = [row for row in rows if row.transfer == transfer]
            through = f"through {transfer}" if transfer else ""
            title = [one_line(page.path_title(upgrade)), count_shots(shots), through, page.part]
            parts.append(Text(", ".join(filter(None, title)), style="bold"))
            parts.append(_table(group, width))
            parts += [
                Text(f"{name}: {state} {text}", style="yellow")
                for name, state, text in explain_unranked(group)
            ]
    if page.legend:
        parts.append(Text(page.legend))
    return Group(*parts)


def _table(rows: Sequence[Ranked], width: int) -> Table:
    columns, shown = [], {}
    for column, cells in zip(COLUMNS, zip(*map(row_cells, rows), strict=True), strict=True):
        if column.min_width is None or column.min_width > width:
            continue
        columns.append(column)
        shown[column.title] = [Text(cell.text) for cell in cells]
        if column.bold:
            values = [row.value(column.bold) for row in rows]
            if width < _SPREAD_WIDTH:
                shown[column.title] = [Text(percent(value)) for value in values]
            for text, best in zip(shown[column.title], is_best(values), strict=True):
                text.stylize("bold green" if best else "")
    for text, row in zip(shown["Method"], rows, strict=True):
        text.append(" (floor)" if row.kind == "floor" else "")
    # The names of methods take the room that the numbers leave.
    widths = {title: max(len(title), *map(len, texts)) for title, texts in shown.items()}
    room = width - sum(widths.values()) + widths["Method"] - 2 * (len(widths) - 1)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        justify = "left" if column.text else "right"
        most = max(room, 8) if column.title == "Method" else None
        table.add_column(
            column.title, justify=justify, no_wrap=True, overflow="ellipsis", max_width=most
        )
    for line in zip(*shown.values(), strict=True):
        table.add_row(*line)
    return table
