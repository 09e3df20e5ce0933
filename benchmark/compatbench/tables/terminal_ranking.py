"""The ranking of a suite on a terminal."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.text import Text

from compatbench.data.cards.shots import count_shots
from compatbench.messages import count, one_line
from compatbench.results.estimate import FEWEST_UNITS
from compatbench.results.public_results import Results
from compatbench.results.ranking import rank_transfer
from compatbench.tables.flags import FLAG, list_flags
from compatbench.tables.ranking_tables import TERMINAL, explain_unranked, gap_table, ranking_table
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.terminal import render_table


def print_ranking(console: Console, page: SuitePage) -> None:
    """Print the leaderboard's rankings at the most shots, and what failed or is missing."""
    console.print(render_ranking(page, console.width))
    for row in gap_table(page).rows:
        title, kind, count, _, reason = [cell.text for cell in row]
        rows = "1 row" if count == "1" else f"{count} rows"
        text = f"{one_line(title)}: {rows} {kind}: {one_line(reason)}".removesuffix(": –")
        console.print(Text(text, style="red" if kind == "failed" else "yellow"))


def print_flags(console: Console, page: SuitePage, methods: Collection[str]) -> None:
    """Print the implausible results of some methods of a suite that no maintainer has reviewed.

    Args:
        page: the whole suite, with the methods that these are compared with.
    """
    for name, sentences in list_flags(page).items():
        if name in methods:
            for sentence in sentences:
                console.print(Text(f"{FLAG}: {sentence}", style="yellow"))


def list_rankings(page: SuitePage) -> pd.DataFrame:
    """Return the rankings of all upgrades as one frame, with ``upgrade`` and ``transfer``.

    The best of a ranking is first. Unlike ``render_ranking``, this includes the upgrades that only
    the suite's page shows.
    """
    results = Results(page.results, page.expected)
    frames = []
    for upgrade in page.expected.upgrades:
        for transfer in page.results.transfers:
            frame = results.ranking(*upgrade, transfer=transfer)
            if not frame.empty:
                frames.append(frame.assign(upgrade=" → ".join(upgrade), transfer=transfer))
    return pd.concat(frames) if frames else pd.DataFrame()


def render_ranking(page: SuitePage, width: int) -> RenderableType:
    """Return the ranking of each upgrade of the leaderboard, in so many characters."""
    parts: list[RenderableType] = []
    for upgrade in page.leaderboard_upgrades:
        every = page.ranking(upgrade, page.most_shots)
        for transfer in page.results.transfers:
            ranking = rank_transfer(every, transfer)
            if ranking.empty:
                continue
            through = ranking["track_transfer"].iloc[0]
            title = [one_line(page.path_title(upgrade)), count_shots(page.most_shots)]
            title += [f"through {through}" if through else "", page.part]
            parts.append(Text(", ".join(filter(None, title)), style="bold"))
            parts.append(render_table(ranking_table(ranking, TERMINAL), width))
            if (ranking["datasets"] < FEWEST_UNITS).any():
                parts.append(Text(f"No ranks: a ranking needs at least {FEWEST_UNITS} tasks."))
            for name, state, why in explain_unranked(ranking):
                between = ": " if state == "null" else " "
                parts.append(Text(f"{name}: {state}{between}{why}", style="yellow"))
    if page.more_upgrades:
        more = count(len(page.more_upgrades), "more upgrade")
        parts.append(Text(f"{more}: see results/{page.card.name}/README.md, or the site."))
    if page.legend:
        parts.append(Text(page.legend))
    return Group(*parts)
