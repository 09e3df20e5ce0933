"""The ranking in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from compatbench.data.shots import count_shots
from compatbench.errors import one_line
from compatbench.pages.markdown import is_best, percent
from compatbench.pages.ranking import COLUMNS, explain_unranked, gap_rows, row_cells
from compatbench.pages.suite_page import SuitePage
from compatbench.results.ranks import Ranked

_SPREAD_WIDTH = 76  # a narrower terminal shows means without their spread


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
