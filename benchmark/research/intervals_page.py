"""The page ``docs/intervals.md``: how often intervals and ties are right, in a simulation.

Its differences between methods are drawn from those of suite ``mini``: their size and spread over
tasks and over seeds are those of pairs of methods, and their mean is set to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pages import Page
from scipy import stats

from compatbench.data.cards import suite_cards
from compatbench.results.estimate import Array, Interval, estimate, percentile_interval
from compatbench.results.ranks import ALPHA, holm, paired_test
from compatbench.results.result_files import ResultFiles
from compatbench.tables.suite_page import SuitePage, read_suite_page
from compatbench.tables.table import records

ROOT = Path(__file__).parents[2]
SUITE = "mini"
PAIRS, FAMILIES, RESAMPLES, SEED = 2_000, 1_000, 1_000, 34
LEAST = 0.1  # points: pairs of methods whose difference varies less from task to task say nothing


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


def percentiles(resampled: Array) -> tuple[float, float]:
    """The bounds of the plain percentile bootstrap."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return low, high


def list_intervals(cells: Array, rng: np.random.Generator) -> Iterator[tuple[str, Interval]]:
    """Intervals of a mean of ``[tasks, seeds]``, by their names on the page."""
    means, value = cells.mean(axis=1), float(cells.mean())
    student = estimate(means)
    assert student is not None
    yield "Student's t, over tasks", student
    of_tasks = resampled_means(means, rng)
    yield "bootstrap over tasks, expanded", percentile_interval(value, of_tasks, len(means))
    yield "bootstrap over tasks, percentile", Interval(value, *percentiles(of_tasks))
    bounds = stats.bootstrap((means,), np.mean, n_resamples=RESAMPLES, rng=rng, method="BCa")
    yield "bootstrap over tasks, BCa", Interval(value, *bounds.confidence_interval)
    of_cells = percentiles(resampled_means(cells.ravel(), rng))
    yield "bootstrap over tasks and seeds, percentile", Interval(value, *of_cells)


def tie_tests(rng: np.random.Generator) -> dict[str, Callable[[list[Array]], list[float]]]:
    """What makes p values of differences from the best, each ``[tasks, seeds]``."""

    def by_task(differences: list[Array]) -> list[float]:
        means = [cells.mean(axis=1) for cells in differences]
        return paired_test([np.zeros(len(means[0])), *means])

    def by_cell(differences: list[Array]) -> list[float]:
        bounds = [percentiles(resampled_means(cells.ravel(), rng)) for cells in differences]
        return [float(low <= 0 <= high) for low, high in bounds]

    return {
        "paired t-test over tasks, Holm": lambda differences: holm(by_task(differences)),
        "paired t-test over tasks": by_task,
        "bootstrap over tasks and seeds": by_cell,
    }


def simulate(h: Array) -> dict[str, Any]:
    """How often intervals hold zero, and methods that do not differ are told apart.

    Of ``intervals`` also the mean width in points; and which share of the variance is between
    tasks, in percent, in the median pair.
    """
    rng, spread = np.random.default_rng(SEED), measure_spread(h)
    shape = h.shape[1:]
    intervals = [
        (kind, interval.low <= 0 <= interval.high, interval.high - interval.low)
        for _ in range(PAIRS)
        for kind, interval in list_intervals(draw_differences(spread, shape, rng), rng)
    ]
    tests, told_apart = tie_tests(rng), []
    for _ in range(FAMILIES):
        methods = [draw_differences(spread, shape, rng) / np.sqrt(2) for _ in range(len(h))]
        best = methods.pop(int(np.argmax([cells.mean() for cells in methods])))
        differences = [best - cells for cells in methods]
        for kind, test in tests.items():
            different = np.array(test(differences)) < ALPHA
            told_apart.append((kind, different.mean(), different.any()))
    variance = spread.of_tasks**2, spread.of_seeds**2
    return {
        "methods": len(h),
        "between_tasks": 100 * float(np.median(variance[0] / (variance[0] + variance[1]))),
        "intervals": average_by_kind(intervals, "covered", "width"),
        "tests": average_by_kind(told_apart, "pairs", "families"),
    }


def average_by_kind(rows: list[tuple], *columns: str) -> list[dict[str, Any]]:
    """The mean of each column by the ``kind`` that stands first."""
    frame = pd.DataFrame(rows, columns=["kind", *columns])
    return records(frame.groupby("kind", sort=False, as_index=False).mean())


def read_h(page: SuitePage, upgrade: tuple[str, str]) -> Array:
    """H of the methods that learn and are measured by every seed, ``[methods, tasks, seeds]``."""
    standings = [row.standing for row in page.ranks(upgrade, max(page.expected.shots))]
    seeds = len(page.expected.seeds)
    return np.array(
        [one.figures("h").T for one in standings if one.is_measured and len(one.seeds) == seeds]
    )


def make_page() -> Page:
    """The page, of all upgrades of the suite."""
    page = read_suite_page(suite_cards.read(SUITE), ResultFiles(ROOT))
    upgrades = [
        {"name": page.path_title(upgrade), **simulate(read_h(page, upgrade))}
        for upgrade in page.expected.upgrades
    ]
    tasks, seeds = len(page.expected.tasks), len(page.expected.seeds)
    values = {"upgrades": upgrades, "tasks": tasks, "seeds": seeds, "suite": SUITE}
    return Page(values | {"pairs": PAIRS, "families": FAMILIES})
