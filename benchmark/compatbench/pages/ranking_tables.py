"""The ranking of an upgrade as Markdown, and what is known of its certainty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_lowercase

from compatbench.pages.markdown import (
    NOTHING,
    bold_best,
    escape,
    linked,
    percent,
    signed,
    spread,
    table,
)
from compatbench.pages.ranking import COLUMNS, RankingRow
from compatbench.pages.suite_page import SuitePage
from compatbench.results.intervals import rank_datasets
from compatbench.results.measures import Mean, Measure, Standing, Upgrade
from compatbench.results.rank_tests import ALPHA, rank_cliques

Table = list[str]


def ranking_table(rows: Sequence[RankingRow], top: int | None = None) -> Table:
    """The ranking, by H.

    Args:
        top: show only so many methods and the floor.
    """
    columns = [column for column in COLUMNS if column.markdown]
    shown = []
    for column in columns:
        cells = [column.cell(row) for row in rows]
        texts = [cell.text for cell in cells]
        if column.title == "Method":
            texts = [method_cell(row.standing) for row in rows]
        elif column.bold:
            texts = bold_best([row.value(column.bold) for row in rows], texts)
        shown.append(texts)
    lines = [
        line
        for i, (line, row) in enumerate(zip(zip(*shown, strict=True), rows, strict=True))
        if top is None or i < top or row.kind == "floor"
    ]
    left = [i for i, column in enumerate(columns) if column.text]
    return table([column.title for column in columns], lines, left)


def transfer_table(page: SuitePage, transfer: str, upgrade: Upgrade, shots: int) -> Table:
    """Modules attached through a transfer, ranked among themselves, beside untouched ones."""
    untouched = {one.standing.info.name: one.standing for one in page.ranks(upgrade, shots)}
    rows = []
    for one in page.ranks(upgrade, shots, transfer):
        through, plain = one.standing, untouched.get(one.standing.info.name)

        def beside(measure: Measure, show: Callable, plain: Standing | None = plain) -> str:
            return show(value(plain.mean(measure))) if plain else NOTHING

        rows.append(
            [
                one.rank or NOTHING,
                method_cell(through),
                spread(through.mean("source")),
                *(f"{beside(m, percent)} → {spread(through.mean(m))}" for m in ("target", "h")),
                f"{beside('gain', signed)} → {signed(value(through.mean('gain')))}",
            ]
        )
    return table(["Rank", "Method", "Source", "Target", "H", "Gain"], rows, left=(1,))


def average_ranks(page: SuitePage, upgrade: Upgrade, shots: int) -> tuple[str, Table] | None:
    """Friedman's test in a sentence, and the average ranks as a table.

    Methods that share a letter cannot be told apart by Nemenyi's critical difference.
    """
    found = rank_datasets(page.ranks(upgrade, shots))
    if found is None:
        return None
    standings, test = found
    cliques = rank_cliques(test.ranks, test.critical_difference)
    rows = [
        [method_cell(one), f"{rank:.1f}", _letters(i, cliques)]
        for i, (one, rank) in enumerate(zip(standings, test.ranks, strict=True))
    ]
    p_value = "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"
    differ = "the methods differ" if test.p_value < ALPHA else "the methods cannot be told apart"
    text = (
        f"By rank on each of {test.datasets} datasets, {differ} (Friedman's test, χ² = "
        f"{test.statistic:.1f}, {p_value}). Two of these {len(standings)} methods differ if their "
        f"average ranks are {test.critical_difference:.1f} or more apart (Nemenyi, 5 %)."
    )
    return text, table(["Method", "Average rank", "Group"], rows, left=(0, 2))


def method_cell(standing: Standing, transfer: str = "") -> str:
    """The title, linked; the zero-shot classifier, which inserts nothing, is the floor."""
    title = linked(standing.info.title, standing.info.paper)
    note = "floor" if standing.info.depth == "none" else escape(transfer)
    return f"{title} ({note})" if note else title


def value(mean: Mean | None) -> float | None:
    """The number alone."""
    return None if mean is None else mean.value


def _letters(method: int, cliques: Sequence[Sequence[int]]) -> str:
    """The groups that a method is in, a letter each; the 27th is ``a2``."""
    names = []
    for number, clique in enumerate(cliques):
        if method in clique:
            again, letter = divmod(number, len(ascii_lowercase))
            names.append(ascii_lowercase[letter] + (str(again + 1) if again else ""))
    return " ".join(names) or NOTHING
