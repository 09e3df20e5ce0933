"""The ranking of a suite on a terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.text import Text

from compatbench.data.cards.shots import count_shots
from compatbench.messages import one_line
from compatbench.tables.ranking import TERMINAL, explain_unranked, gap_table, ranking_table
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.terminal import render_table


def print_ranking(console: Console, page: SuitePage) -> None:
    """Prints the ranking of every upgrade at the most shots, and what failed or is missing."""
    console.print(render_ranking(page, console.width))
    gaps = gap_table(page)
    for title, kind, count, _, reason in ([cell.text for cell in row] for row in gaps.rows):
        rows = "1 row" if count == "1" else f"{count} rows"
        text = f"{one_line(title)}: {rows} {kind}: {one_line(reason)}".removesuffix(": –")
        console.print(Text(text, style="red" if kind == "failed" else "yellow"))


def render_ranking(page: SuitePage, width: int) -> RenderableType:
    """The ranking of every upgrade, as far as it is measured, in so many characters."""
    shots = max(page.expected.shots)
    parts: list[RenderableType] = []
    for upgrade in page.expected.upgrades:
        ranked = (page.ranks(upgrade, shots, transfer) for transfer in page.results.transfers)
        for rows in filter(None, ranked):
            through = f"through {rows[0].transfer}" if rows[0].transfer else ""
            title = [one_line(page.path_title(upgrade)), count_shots(shots), through, page.part]
            parts.append(Text(", ".join(filter(None, title)), style="bold"))
            parts.append(render_table(ranking_table(rows, TERMINAL), width))
            parts += [
                Text(f"{name}: {state} {why}", style="yellow")
                for name, state, why in explain_unranked(rows)
            ]
    if page.legend:
        parts.append(Text(page.legend))
    return Group(*parts)
