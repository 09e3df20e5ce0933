"""The ranking of a suite on a terminal."""

from __future__ import annotations

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.text import Text

from compatbench.data.cards.shots import count_shots
from compatbench.messages import one_line
from compatbench.results.ranking_table import ranking_frame
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


def list_rankings(page: SuitePage) -> pd.DataFrame:
    """The rankings that are printed as one frame: of ``upgrade`` and ``transfer``, best first."""
    ranked = (
        (upgrade, transfer, page.ranks(upgrade, max(page.expected.shots), transfer))
        for upgrade in page.expected.upgrades
        for transfer in page.results.transfers
    )
    frames = [
        ranking_frame(rows).assign(upgrade=" → ".join(upgrade), transfer=transfer)
        for upgrade, transfer, rows in ranked
        if rows
    ]
    return pd.concat(frames) if frames else pd.DataFrame()


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
