"""Methods over all upgrades of one kind, such as those that share a text tower's lineage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from compatbench.results.measures import Expected, Standing, Upgrade, compute_standing
from compatbench.results.ranks import Ranked, rank_methods
from compatbench.results.store import SuiteResults


class Suite(Protocol):
    """What is needed of a suite: what it asks for, and its results."""

    @property
    def expected(self) -> Expected: ...
    @property
    def results(self) -> SuiteResults: ...


def rank_group(page: Suite, upgrades: Sequence[Upgrade], shots: int) -> list[Ranked]:
    """The methods ranked by their mean over datasets and upgrades, per seed, then over seeds.

    A method that lacks a cell of any of the upgrades has no mean.
    """
    return rank_methods(
        [
            _join([compute_standing(method, page.expected, upgrade, shots) for upgrade in upgrades])
            for method in page.results.methods.values()
        ]
    )


def _join(standings: Sequence[Standing]) -> Standing:
    """One standing over several upgrades: a dataset counts once for each."""
    times = [one.fit_seconds for one in standings if one.fit_seconds is not None]
    return replace(
        standings[0],
        tasks=tuple(
            f"{one.upgrade[0]} → {one.upgrade[1]}: {task}"
            for one in standings
            for task in one.tasks
        ),
        datasets=tuple(task for one in standings for task in one.datasets),
        source_rows=np.hstack([one.source_rows for one in standings]),
        target_rows=np.hstack([one.target_rows for one in standings]),
        fit_seconds=sum(times) / len(times) if len(times) == len(standings) else None,
    )
