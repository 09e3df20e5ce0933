"""The tables of a ranking: who stands where, how sure that is, and who has no place."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase

from compatbench.pages.cells import method_cell, spread_column, value
from compatbench.pages.markdown import (
    NOTHING,
    bounds,
    escape,
    percent,
    signed,
    spread,
    table,
)
from compatbench.pages.suitepage import SuitePage
from compatbench.results.intervals import measure_interval, rank_datasets
from compatbench.results.measures import Standing, Upgrade
from compatbench.results.rank_tests import ALPHA, rank_cliques
from compatbench.results.ranks import Ranked, rank_methods


def main_table(page: SuitePage, upgrade: Upgrade, shots: int, top: int | None = None) -> list[str]:
    """Ranked by H: the accuracies and the gain of every method, or of the first and the floor."""
    return ranking_table(page.ranks(upgrade, shots), top)


def ranking_table(ranks: Sequence[Ranked], top: int | None = None) -> list[str]:
    """Ranked methods with their accuracies, H with its interval, and gain.

    Args:
        top: show so many of the first alone, and the methods that insert nothing.
    """
    header = ["Rank", "Method", "Depth", "Source", "Target", "H", "95 % of H", "Gain"]
    standings = [one.standing for one in ranks]
    columns = [
        [one.rank or NOTHING for one in ranks],
        [method_cell(one) for one in standings],
        [NOTHING if one.info.depth == "none" else one.info.depth for one in standings],
        spread_column([one.mean("source") for one in standings]),
        spread_column(
            [one.mean("target") for one in standings],
            ["not transferable" if one.state == "not transferable" else "" for one in standings],
        ),
        spread_column(
            [one.mean("h") for one in standings],
            ["incomplete" if one.state == "incomplete" else "" for one in standings],
        ),
        [bounds(measure_interval(one, "h")) for one in standings],
        [signed(value(one.mean("gain"))) for one in standings],
    ]
    rows = [
        row
        for i, (row, one) in enumerate(zip(zip(*columns, strict=True), standings, strict=True))
        if top is None or i < top or one.info.depth == "none"
    ]
    return table(header, rows, left=(1, 2))


def aligned_table(page: SuitePage, upgrade: Upgrade, shots: int) -> list[str]:
    """Methods attached through a map, ranked among themselves, beside the untouched module."""
    ranks = rank_methods(page.standings(page.aligned, upgrade, shots))
    copied = {one.standing.info.name: one.standing for one in page.ranks(upgrade, shots)}
    rows = []
    for one in ranks:
        through, plain = one.standing, copied.get(one.standing.info.name)
        rows.append(
            [
                one.rank or NOTHING,
                method_cell(through),
                spread(through.mean("source")),
                *(
                    f"{percent(value(plain.mean(measure)) if plain else None)} → "
                    f"{spread(through.mean(measure))}"
                    for measure in ("target", "h")
                ),
                f"{signed(value(plain.mean('gain')) if plain else None)} → "
                f"{signed(value(through.mean('gain')))}",
            ]
        )
    return table(["Rank", "Method", "Source", "Target", "H", "Gain"], rows, left=(1,))


def rank_lines(page: SuitePage, upgrade: Upgrade, shots: int) -> tuple[str, list[str]] | None:
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
        f"{test.statistic:.1f}, {p_value}); two of these {len(standings)} methods do if their "
        f"average ranks are {test.critical_difference:.1f} or more apart (Nemenyi, 5 %)."
    )
    return text, table(["Method", "Average rank", "Group"], rows, left=(0, 2))


def _letters(method: int, cliques: Sequence[Sequence[int]]) -> str:
    """The groups that a method is in, a letter each; the 27th is ``a2``."""
    names = []
    for number, clique in enumerate(cliques):
        if method in clique:
            again, letter = divmod(number, len(ascii_lowercase))
            names.append(ascii_lowercase[letter] + (str(again + 1) if again else ""))
    return " ".join(names) or NOTHING


def unranked_lines(ranks: Sequence[Ranked]) -> list[str]:
    """Why methods at the foot of a ranking have no H."""
    lines = []
    for one in (ranked.standing for ranked in ranks):
        if one.state == "not transferable":
            reasons = "; ".join(escape(reason) for reason in one.reasons) or "no reason given"
            source = percent(value(one.mean("source")))
            lines.append(
                f"- {escape(one.title)} is **not transferable** in {_share(one)} "
                f"(source {source}): {reasons}."
            )
        elif one.state == "incomplete":
            done, wanted = one.coverage
            lines.append(
                f"- {escape(one.title)} is **incomplete**: {done} of {wanted} cells measured, "
                "so no mean is given."
            )
    return lines


def _share(standing: Standing) -> str:
    """``all 24 cells``, or how many of how many."""
    refused, total = standing.refused, standing.coverage[1]
    return f"all {total} cells" if refused == total else f"{refused} of {total} cells"
