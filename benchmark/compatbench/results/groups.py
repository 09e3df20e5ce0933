"""Methods over all upgrades of one kind, such as those that share a text tower's lineage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compatbench.pages.suite_page import SuitePage
from compatbench.results.measures import Pair, Standing, Upgrade, compute_standing
from compatbench.results.ranks import Ranked, rank_methods


def rank_group(page: SuitePage, upgrades: Sequence[Upgrade], shots: int) -> list[Ranked]:
    """The methods ranked by their mean over datasets and upgrades, per seed, then over seeds.

    A method that lacks a cell of any of the upgrades has no mean.
    """
    return rank_methods(
        [
            _join([compute_standing(method, page.expected, upgrade, shots) for upgrade in upgrades])
            for method in page.copied
        ]
    )


def _join(standings: Sequence[Standing]) -> Standing:
    """One standing over several upgrades: a dataset counts once for each."""
    first = standings[0]
    times = [one.fit_seconds for one in standings if one.fit_seconds is not None]
    pairs = tuple(pair for one in standings for pair in _named_apart(one))
    seconds = sum(times) / len(times) if len(times) == len(standings) else None
    return replace(first, pairs=pairs, fit_seconds=seconds)


def _named_apart(standing: Standing) -> list[Pair]:
    source, target = standing.upgrade
    return [replace(p, task=f"{source} → {target}: {p.task}") for p in standing.pairs]
