"""The page ``docs/intervals.md``: how often intervals and ties are right, in a simulation.

Its differences between methods are drawn from those of suite ``mini``: their size and spread over
tasks and over seeds are those of pairs of methods, and their mean is set to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pages import Page
from scipy import stats

from compatbench.data.cards import suite_cards
from compatbench.results.estimate import Array, Interval, estimate, percentile_interval
from compatbench.results.ranks import ALPHA, holm, paired_test
from compatbench.tables.suite_page import SuitePage, read_suite_page

ROOT = Path(__file__).parents[2]
SUITE = "mini"
PAIRS, FAMILIES, RESAMPLES, SEED = 2_000, 1_000, 1_000, 34
LEAST = 0.1  # points: pairs of methods whose difference varies less from task to task say nothing
Draws = tuple[Array, Array]  # [pairs, tasks] and [pairs, tasks, seeds]: what tasks and seeds add


class Upgrade(NamedTuple):
    """What the page says of one upgrade; shares in percent."""

    name: str
    methods: int
    between_tasks: float  # share of the variance, in the median pair
    covered: dict[str, float]
    width: dict[str, float]  # mean, in points
    pairs_told_apart: dict[str, float]
    families_told_apart: dict[str, float]


@dataclass(frozen=True)
class Spread:
    """How H varies: standard deviations ``[pairs]``, and what deviates, in units of them."""

    of_tasks: Array
    of_seeds: Array
    tasks: Array
    seeds: Array


def measure_spread(h: Array) -> Spread:
    """The spread of differences, of all pairs of methods; ``h`` is ``[methods, tasks, seeds]``."""
    pairs = np.array([h[i] - h[j] for i, j in combinations(range(len(h)), 2)])
    means = pairs.mean(axis=2)
    pairs, means = (values[means.std(axis=1) > LEAST] for values in (pairs, means))
    seeds = pairs.shape[2]
    within = pairs.var(axis=2, ddof=1).mean(axis=1)
    between = np.maximum(means.var(axis=1, ddof=1) - within / seeds, 0)
    by_task = means - means.mean(axis=1, keepdims=True)
    by_seed = (pairs - means[:, :, None])[within > LEAST**2]
    return Spread(
        np.sqrt(between),
        np.sqrt(within),
        (by_task / by_task.std(axis=1, keepdims=True)).ravel(),
        (by_seed / by_seed.std(axis=(1, 2), keepdims=True)).ravel(),
    )


def draw_differences(spread: Spread, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Differences of a pair of methods that do not differ, ``[tasks, seeds]``, in points."""
    pair = rng.integers(len(spread.of_tasks))
    tasks = spread.of_tasks[pair] * rng.choice(spread.tasks, shape[0])
    return tasks[:, None] + spread.of_seeds[pair] * rng.choice(spread.seeds, shape)


def resampled_means(values: Array, rng: np.random.Generator) -> Array:
    """Means of resamples of ``[units]``."""
    return values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)


def list_intervals(cells: Array, rng: np.random.Generator) -> Iterator[tuple[str, Interval]]:
    """Intervals of a mean of ``[tasks, seeds]``, by their names on the page."""
    means, value = cells.mean(axis=1), float(cells.mean())
    student = estimate(means)
    assert student is not None
    yield "Student's t, over tasks", student
    resampled = resampled_means(means, rng)
    yield "bootstrap over tasks, expanded", percentile_interval(value, resampled, len(means))
    yield (
        "bootstrap over tasks, percentile",
        Interval(value, *np.percentile(resampled, [2.5, 97.5])),
    )
    bounds = stats.bootstrap((means,), np.mean, n_resamples=RESAMPLES, rng=rng, method="BCa")
    yield "bootstrap over tasks, BCa", Interval(value, *bounds.confidence_interval)
    resampled = resampled_means(cells.ravel(), rng)
    yield (
        "bootstrap over tasks and seeds, percentile",
        Interval(value, *np.percentile(resampled, [2.5, 97.5])),
    )


def tie_tests(rng: np.random.Generator) -> dict[str, Callable[[list[Array]], list[float]]]:
    """What makes p values of differences from the best, each ``[tasks, seeds]``."""

    def by_task(differences: list[Array]) -> list[float]:
        means = [cells.mean(axis=1) for cells in differences]
        return paired_test([np.zeros(len(means[0])), *means])

    def by_cell(differences: list[Array]) -> list[float]:
        bounds = [np.percentile(resampled_means(d.ravel(), rng), [2.5, 97.5]) for d in differences]
        return [float(low <= 0 <= high) for low, high in bounds]

    return {
        "paired t-test over tasks, Holm": lambda differences: holm(by_task(differences)),
        "paired t-test over tasks": by_task,
        "bootstrap over tasks and seeds": by_cell,
    }


def simulate(name: str, h: Array) -> Upgrade:
    """How often intervals hold zero, and methods that do not differ are told apart."""
    rng, spread = np.random.default_rng(SEED), measure_spread(h)
    shape = h.shape[1:]
    covered, width = dict[str, list[bool]](), dict[str, list[float]]()
    for _ in range(PAIRS):
        for kind, interval in list_intervals(draw_differences(spread, shape, rng), rng):
            covered.setdefault(kind, []).append(interval.low <= 0 <= interval.high)
            width.setdefault(kind, []).append(interval.high - interval.low)
    tests = tie_tests(rng)
    apart = {kind: [0, 0] for kind in tests}  # pairs, families
    for _ in range(FAMILIES):
        methods = [draw_differences(spread, shape, rng) / np.sqrt(2) for _ in range(len(h))]
        best = methods.pop(int(np.argmax([cells.mean() for cells in methods])))
        differences = [best - cells for cells in methods]
        for kind, test in tests.items():
            different = np.array(test(differences)) < ALPHA
            apart[kind][0] += int(different.sum())
            apart[kind][1] += bool(different.any())
    variance = spread.of_tasks**2, spread.of_seeds**2
    return Upgrade(
        name,
        len(h),
        100 * float(np.median(variance[0] / (variance[0] + variance[1]))),
        {kind: 100 * float(np.mean(hits)) for kind, hits in covered.items()},
        {kind: float(np.mean(widths)) for kind, widths in width.items()},
        {kind: 100 * pairs / (FAMILIES * (len(h) - 1)) for kind, (pairs, _) in apart.items()},
        {kind: 100 * families / FAMILIES for kind, (_, families) in apart.items()},
    )


def read_h(page: SuitePage, upgrade: tuple[str, str]) -> Array:
    """H of the methods that learn and are measured by every seed, ``[methods, tasks, seeds]``."""
    standings = [row.standing for row in page.ranks(upgrade, max(page.expected.shots))]
    seeds = len(page.expected.seeds)
    return np.array(
        [one.figures("h").T for one in standings if one.is_measured and len(one.seeds) == seeds]
    )


def make_page() -> Page:
    """The page, of all upgrades of the suite."""
    page = read_suite_page(suite_cards.read(SUITE), ROOT)
    upgrades = [
        simulate(page.path_title(upgrade), read_h(page, upgrade))
        for upgrade in page.expected.upgrades
    ]
    tasks, seeds = len(page.expected.tasks), len(page.expected.seeds)
    values = {"upgrades": upgrades, "tasks": tasks, "seeds": seeds, "suite": SUITE}
    return Page(values | {"pairs": PAIRS, "families": FAMILIES})
