"""Ways to bring a module along: what each needs and costs, and what was measured of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from compatbench.data.cards import COPIED
from compatbench.data.declared_transfers import Needs, declared_needs
from compatbench.data.labels import ACCESS
from compatbench.results.choice_of_ways import Way
from compatbench.results.estimate import Array
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.method_results import MethodInfo, SuiteResults
from compatbench.results.standing import Standing, compute_standing, dataset_means, measure_interval

UNKNOWN = "unknown"  # what a transfer that is not here needs


@dataclass(frozen=True, eq=False)
class MeasuredWay(Way):
    """A way of a method's modules on an upgrade; ``figures`` and ``by_task`` are by dataset."""

    standing: Standing
    needs: frozenset[str]
    by_task: Array  # gains
    datasets: tuple[str, ...]

    @property
    def info(self) -> MethodInfo:
        return self.standing.info

    @property
    def transfer(self) -> str:
        """That it is ranked with: words of a method that takes them when it is attached."""
        return self.standing.results.ranked_with or COPIED


def list_ways(results: SuiteResults, expected: Expected, upgrade: Upgrade) -> Iterator[MeasuredWay]:
    """Every way of the methods that learn and have a rank, at the most shots."""
    shots = max(expected.shots)
    for method in results.all:
        transfer, info = method.ranked_with or COPIED, method.info
        if not info.learns or info.sees_tests or UNKNOWN in access_of(transfer):
            continue
        standing = compute_standing(method, expected, upgrade, shots)
        means = [dataset_means(standing, name) for name in ("target", "gain")]
        interval = measure_interval(standing, "gain")
        if standing.state != "complete" or interval is None or None in means:
            continue
        target, gain = (np.array([*(mean or {}).values()]) for mean in means)
        needs, datasets = frozenset(access_of(transfer)), tuple(means[0] or ())
        about = standing, needs, gain, datasets
        yield MeasuredWay(method.transfer or COPIED, interval, cost_of(transfer), target, *about)


def needs_of(transfer: str) -> Needs:
    """What a way needs; its class is loaded only where its card does not say it."""
    if (needs := declared_needs(transfer)) is not None:
        return needs
    from compatbench.method.registry import known_transfer

    if (way := known_transfer(transfer)) is None:
        return Needs(frozenset({UNKNOWN}), 0)
    return Needs(frozenset(way.card.access), getattr(way.config, "shots", 0))


def access_of(transfer: str) -> list[str]:
    """What a way needs besides the module and the target, always in one order."""
    access = needs_of(transfer).access
    return [each for each in (*ACCESS, UNKNOWN) if each in access]


def cost_of(transfer: str) -> tuple[int, bool, int, bool]:
    """The least is the cheapest: by labels, the old model beside the new, and other access."""
    needs = access_of(transfer)
    labels = max(needs_of(transfer).shots, "labels" in needs)
    return labels, "old model" in needs, len(needs), transfer != COPIED
