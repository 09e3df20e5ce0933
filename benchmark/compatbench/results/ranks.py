"""The places of methods on an upgrade or on several, and which the data cannot tell apart.

Friedman's test and Nemenyi's critical difference are as in Demšar, *Statistical Comparisons of
Classifiers over Multiple Data Sets*, JMLR 7 (2006).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from compatbench.results.bootstrap import dataset_means, mean_interval
from compatbench.results.measures import Expected, Figures, Standing, Upgrade, compute_standing
from compatbench.results.store import MethodResults

ALPHA = 0.05


@dataclass(frozen=True)
class Ranked:
    """A standing with its place: ``2``, or ``2=`` if tied; empty for a method that has no H."""

    rank: str
    standing: Standing


def rank_methods(standings: Sequence[Standing]) -> list[Ranked]:
    """Complete standings by H, best first; then those not transferable, then the incomplete."""
    standings = sorted(standings, key=lambda item: item.info.name)
    complete = [item for item in standings if item.state == "complete"]
    ranked = []
    for group in tied_groups(sorted(complete, key=_h, reverse=True)):
        place = f"{len(ranked) + 1}{'=' if len(group) > 1 else ''}"
        ranked += [Ranked(place, item) for item in group]
    for state in ("not transferable", "incomplete"):
        ranked += [Ranked("", item) for item in standings if item.state == state]
    return ranked


def rank_upgrades(
    methods: Iterable[MethodResults], expected: Expected, upgrades: Sequence[Upgrade], shots: int
) -> list[Ranked]:
    """Ranks methods by H on one upgrade, or by their mean over datasets and several upgrades.

    A method without a result in any cell of any of the upgrades has no mean.
    """
    by_method = (
        [compute_standing(method, expected, upgrade, shots) for upgrade in upgrades]
        for method in methods
    )
    return rank_methods([_join(standings) for standings in by_method])


def _join(standings: Sequence[Standing]) -> Standing:
    """One standing over several upgrades: a dataset counts once for each."""
    first, *others = standings
    if not others:
        return first
    return replace(
        first,
        tasks=tuple(
            f"{' → '.join(one.upgrade)}: {task}" for one in standings for task in one.tasks
        ),
        datasets=tuple(task for one in standings for task in one.datasets),
        rows={side: np.hstack([one.rows[side] for one in standings]) for side in first.rows},
    )


def tied_groups(standings: Sequence[Standing]) -> list[list[Standing]]:
    """Splits complete standings, best first, where their H can be told apart.

    A method is tied with the best of a group if the 95 % interval of their mean difference
    contains 0, by a paired bootstrap over tasks and seeds. The best is compared, not the
    neighbour, so that a chain of small steps is not one tie.
    """
    groups: list[list[Standing]] = []
    for item in standings:
        if groups and _tied(groups[-1][0], item):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _tied(first: Standing, second: Standing) -> bool:
    seeds = sorted({*first.seeds, *second.seeds})
    differences = (_h_by_cell(first, seeds) - _h_by_cell(second, seeds)).ravel()
    # One pair of numbers says nothing about chance.
    return len(differences) > 1 and mean_interval(differences).sign == 0


def _h_by_cell(standing: Standing, seeds: Sequence[int]) -> Figures:
    """``[tasks, seeds]``, tasks by name; a method that learns nothing has the same at each seed."""
    tasks = sorted(range(len(standing.tasks)), key=lambda i: standing.tasks[i])
    known = {seed: i for i, seed in enumerate(standing.seeds)}
    return standing.figures("h").T[np.ix_(tasks, [known.get(seed, 0) for seed in seeds])]


def _h(standing: Standing) -> float:
    mean = standing.mean("h")
    return 0.0 if mean is None else mean.value


@dataclass(frozen=True)
class RankTest:
    """Friedman's test of methods over datasets, and Nemenyi's critical difference.

    Attributes:
        ranks: average rank of each method, 1 for the best.
        datasets: how many there are.
        statistic: Friedman's chi-squared, corrected for ties.
        p_value: that methods which do not differ give so large a statistic.
        critical_difference: average ranks that differ by less cannot be told apart.
    """

    ranks: tuple[float, ...]
    datasets: int
    statistic: float
    p_value: float
    critical_difference: float


def rank_datasets(ranks: Sequence[Ranked]) -> tuple[list[Standing], RankTest] | None:
    """The complete methods, best average rank first, and Friedman's test of their H per dataset.

    Returns:
        None where there is nothing to test: fewer than three methods, or a single dataset.
    """
    complete = [one.standing for one in ranks if one.standing.state == "complete"]
    tables = [dataset_means(one, "h") for one in complete]
    scores = np.array([list(table.values()) for table in tables if table is not None])
    if len(complete) < 3 or scores.shape[1] < 2:
        return None
    averages = average_ranks(scores)
    order = sorted(range(len(complete)), key=lambda i: (averages[i], i))
    return [complete[i] for i in order], rank_test(scores[order])


def rank_test(scores: ArrayLike) -> RankTest:
    """Tests whether methods differ at all, of scores ``[methods, datasets]``, higher is better."""
    from scipy.stats import friedmanchisquare

    table = np.asarray(scores, dtype=float)
    statistic, p_value = 0.0, 1.0
    if not (table == table[0]).all():  # of nothing but ties the formula makes 0 / 0
        statistic, p_value = map(float, friedmanchisquare(*table))
    ranks = tuple(average_ranks(table))
    return RankTest(ranks, table.shape[1], statistic, p_value, critical_difference(*table.shape))


def average_ranks(scores: ArrayLike) -> list[float]:
    """The mean place of each method over datasets; those that are equal on one share theirs."""
    from scipy.stats import rankdata

    return rankdata(-np.asarray(scores, dtype=float), axis=0).mean(axis=1).tolist()


def critical_difference(methods: int, datasets: int, alpha: float = ALPHA) -> float:
    """Nemenyi's: q_α · √(k (k + 1) / 6N), with q_α the studentised range over √2."""
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(1 - alpha, methods, math.inf)) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * datasets))


def rank_cliques(ranks: Sequence[float], difference: float) -> list[list[int]]:
    """The largest groups of two or more methods whose ranks differ by less than ``difference``.

    These are the bars of a critical-difference diagram, from best to worst; they may overlap.
    """
    order = sorted(range(len(ranks)), key=lambda i: (ranks[i], i))
    cliques: list[list[int]] = []
    reached = 0
    for start, first in enumerate(order):
        end = start + sum(ranks[i] - ranks[first] < difference for i in order[start:])
        if end > reached and end - start > 1:
            cliques.append(order[start:end])
        reached = max(reached, end)
    return cliques
