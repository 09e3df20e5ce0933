"""Make the generated sections of ``docs/protocol.md``: how often intervals and ties are right.

Differences between methods are drawn from those of suite ``mini``: they vary over tasks and over
seeds as the differences of pairs of its methods do, and their mean is set to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import budgets
import numpy as np
import pandas as pd
from pages import Page
from scipy import stats

from compatbench.data.cards import COPIED, suite_cards
from compatbench.results.estimate import Array, Interval, estimate, percentile_interval
from compatbench.results.ranking import rank_methods, rank_transfer
from compatbench.results.result_files import ResultFiles
from compatbench.results.ties import ALPHA, holm, paired_test, stability
from compatbench.results.upgrade_rows import pair_rows, task_means
from compatbench.tables.markdown import render_table
from compatbench.tables.suite_page import SuitePage, read_suite_page
from compatbench.tables.table import plain_table, records

ROOT = Path(__file__).parents[2]
SUITE = "mini"
PAIRS = 2_000  # simulated pairs of methods
FAMILIES = 1_000  # simulated rankings
RESAMPLES = 1_000  # of each bootstrap
SEED = 34
SIZES = ((0, 1), (1, 2), (2, 3), (3, 5), (5, 8))  # points: differences whose power is measured
MIN_SPREAD = 0.1  # points; pairs whose difference varies less over tasks are left out


@dataclass(frozen=True)
class Spread:
    """The variation of H differences between two methods, over tasks and over seeds.

    Attributes:
        of_tasks, of_seeds: standard deviations in points, ``[pairs]``.
        tasks, seeds: all deviations from the mean, in units of the pair's standard deviation.
    """

    of_tasks: Array
    of_seeds: Array
    tasks: Array
    seeds: Array


def measure_spread(h: Array, size: tuple[float, float] = (0, np.inf)) -> Spread:
    """Return the spread of the differences of all pairs; ``h`` is ``[methods, tasks, seeds]``.

    With a ``size``, only pairs are used whose mean difference is as large, in points.
    """
    pairs = np.array([h[i] - h[j] for i, j in combinations(range(len(h)), 2)])
    means = pairs.mean(axis=2)
    differences = np.abs(means.mean(axis=1))
    kept = (means.std(axis=1) > MIN_SPREAD) & (differences >= size[0]) & (differences < size[1])
    pairs = pairs[kept]
    means = means[kept]
    seeds = pairs.shape[2]
    within = pairs.var(axis=2, ddof=1).mean(axis=1)
    between = np.maximum(means.var(axis=1, ddof=1) - within / seeds, 0)
    by_task = means - means.mean(axis=1, keepdims=True)
    by_seed = (pairs - means[:, :, None])[within > MIN_SPREAD**2]
    return Spread(
        np.sqrt(between),
        np.sqrt(within),
        (by_task / by_task.std(axis=1, keepdims=True)).ravel(),
        (by_seed / by_seed.std(axis=(1, 2), keepdims=True)).ravel(),
    )


def draw_differences(spread: Spread, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Draw differences of two methods that do not differ, ``[tasks, seeds]``, in points."""
    pair = rng.integers(len(spread.of_tasks))
    of_tasks = spread.of_tasks[pair] * rng.choice(spread.tasks, shape[0])
    of_seeds = spread.of_seeds[pair] * rng.choice(spread.seeds, shape)
    return of_tasks[:, None] + of_seeds


def resampled_means(values: Array, rng: np.random.Generator) -> Array:
    """Return the means of resamples of ``[units]``, ``[RESAMPLES]``."""
    drawn = rng.integers(len(values), size=(RESAMPLES, len(values)))
    return values[drawn].mean(axis=1)


def percentiles(resampled: Array) -> tuple[float, float]:
    """Return the bounds of the plain percentile bootstrap, at 95 %."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return low, high


def list_intervals(cells: Array, rng: np.random.Generator) -> Iterator[tuple[str, Interval]]:
    """Yield the intervals of a mean of ``[tasks, seeds]``, with their names on the page."""
    means = cells.mean(axis=1)
    value = float(cells.mean())
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
    """Return the tests of differences from the best method, by their names on the page.

    A test takes the differences from each other method, ``[tasks, seeds]``, and returns a p-value
    for each.
    """

    def by_task(differences: list[Array]) -> list[float]:
        means = [cells.mean(axis=1) for cells in differences]
        return paired_test([np.zeros(len(means[0])), *means])

    def by_cell(differences: list[Array]) -> list[float]:
        # An interval has no p-value: take 1 if it contains 0, and 0 otherwise.
        p_values = []
        for cells in differences:
            low, high = percentiles(resampled_means(cells.ravel(), rng))
            p_values.append(float(low <= 0 <= high))
        return p_values

    return {
        "paired t-test over tasks, Holm": lambda differences: holm(by_task(differences)),
        "paired t-test over tasks": by_task,
        "bootstrap over tasks and seeds": by_cell,
    }


def simulate(h: Array) -> dict[str, Any]:
    """Measure how often intervals contain 0 and tests find a difference, where there is none.

    Args:
        h: the values that differences are drawn from, ``[methods, tasks, seeds]``.

    Returns:
        ``intervals``: a record of each kind, with its coverage and mean width in points.
        ``tests``: a record of each test, with the share of ``pairs`` that differ significantly,
        and of ``families``, simulated rankings, that have such a pair. ``between_tasks``: the share
        of the variance that is between tasks, in percent, in the median pair.
    """
    rng = np.random.default_rng(SEED)
    spread = measure_spread(h)
    shape = h.shape[1:]
    intervals = []
    for _ in range(PAIRS):
        differences = draw_differences(spread, shape, rng)
        for kind, interval in list_intervals(differences, rng):
            covered = interval.low <= 0 <= interval.high
            intervals.append((kind, covered, interval.high - interval.low))
    tests = tie_tests(rng)
    significant = []
    for _ in range(FAMILIES):
        # The difference of two methods has the variance of both.
        methods = [draw_differences(spread, shape, rng) / np.sqrt(2) for _ in range(len(h))]
        means = [cells.mean() for cells in methods]
        best = methods.pop(int(np.argmax(means)))
        from_best = [best - cells for cells in methods]
        for kind, test in tests.items():
            different = np.array(test(from_best)) < ALPHA
            significant.append((kind, different.mean(), different.any()))
    of_tasks = spread.of_tasks**2
    of_seeds = spread.of_seeds**2
    return {
        "methods": len(h),
        "between_tasks": 100 * float(np.median(of_tasks / (of_tasks + of_seeds))),
        "intervals": average_by_kind(intervals, "covered", "width"),
        "tests": average_by_kind(significant, "pairs", "families"),
    }


def measure_power(h: Array) -> list[dict[str, Any]]:
    """Measure how often a true difference between two methods is missed, by its size.

    A pair of methods is drawn that differs by as much in the results; the simulated difference has
    a mean drawn from the range of the size, and the spread of such pairs. It is tested alone, and
    as the only difference among all methods of the ranking, where Holm's correction multiplies its
    p-value by the number of comparisons.

    Returns:
        A record of each of ``SIZES``: ``low``, ``high``, the number of ``pairs`` in the results,
        and the shares of differences ``missed`` and ``missed_in_ranking``.
    """
    rng = np.random.default_rng(SEED)
    shape = h.shape[1:]
    means = h.mean(axis=(1, 2))
    observed = np.abs([means[i] - means[j] for i, j in combinations(range(len(h)), 2)])
    records_of_sizes = []
    for low, high in SIZES:
        spread = measure_spread(h, (low, high))
        alone = []
        for _ in range(PAIRS):
            true = rng.uniform(low, high)
            differences = true + draw_differences(spread, shape, rng)
            by_task = differences.mean(axis=1)
            alone += paired_test([by_task, np.zeros(len(by_task))])
        p_values = np.array(alone)
        records_of_sizes.append(
            {
                "low": low,
                "high": high,
                "pairs": int(((observed >= low) & (observed < high)).sum()),
                "missed": float((p_values >= ALPHA).mean()),
                "missed_in_ranking": float((p_values * (len(h) - 1) >= ALPHA).mean()),
            }
        )
    return records_of_sizes


def average_by_kind(rows: list[tuple], *columns: str) -> list[dict[str, Any]]:
    """Return the mean of each column by the kind, which is the first value of a row."""
    frame = pd.DataFrame(rows, columns=["kind", *columns])
    return records(frame.groupby("kind", sort=False, as_index=False).mean())


def read_ranked(page: SuitePage, upgrade: tuple[str, str]) -> pd.DataFrame:
    """Return the ranking of copied modules: of methods with a rank that do not see test images."""
    shots = max(page.expected.shots)
    ranking = rank_transfer(rank_methods(page.results, page.expected, (upgrade,), shots), COPIED)
    return ranking[(ranking["state"] == "complete") & ~ranking["sees_tests"]]


def measure_stability(page: SuitePage, upgrade: tuple[str, str]) -> float:
    """Return the share of tasks without which the same methods share the first rank."""
    rows = pair_rows(page.results, page.expected, upgrade, max(page.expected.shots))
    return stability(task_means(rows, "h").loc[read_ranked(page, upgrade)["module"]])


def read_h(page: SuitePage, upgrade: tuple[str, str]) -> Array:
    """Return H of the methods that have a rank and learn, ``[methods, tasks, seeds]``."""
    ranking = read_ranked(page, upgrade)
    rows = pair_rows(page.results, page.expected, upgrade, max(page.expected.shots))
    values = []
    for module in ranking.loc[ranking["learns"], "module"]:
        of_module = rows[rows["module"] == module]
        table = of_module.pivot(index="task", columns="seed", values="h")
        values.append(table.loc[list(page.expected.tasks)].to_numpy())
    return np.array(values)


def make_page() -> Page:
    """Return the sections on intervals and ties, from a simulation for each upgrade."""
    page = read_suite_page(suite_cards.read(SUITE), ResultFiles(ROOT))
    tasks = len(page.expected.tasks)
    seeds = len(page.expected.seeds)
    upgrades = []
    for upgrade in page.leaderboard_upgrades:
        h = read_h(page, upgrade)
        upgrades.append(
            {
                "target": upgrade[-1],
                **simulate(h),
                "power": measure_power(h),
                "stability": measure_stability(page, upgrade),
            }
        )
    return Page(
        {
            "units": describe_units(upgrades, tasks, seeds),
            "intervals": show_intervals(upgrades, tasks, seeds),
            "false": show_tests(upgrades),
            "missed": show_power(upgrades),
            "budgets": budgets.describe_budgets(),
        }
    )


def describe_units(upgrades: list[dict[str, Any]], tasks: int, seeds: int) -> str:
    """Return the paragraph on the variance between tasks and on the stability of the first rank."""
    between = " and ".join(f"{upgrade['between_tasks']:.0f} %" for upgrade in upgrades)
    stable = " and ".join(f"{upgrade['stability'] * tasks:.0f} of {tasks}" for upgrade in upgrades)
    return (
        f"On the two upgrades of the leaderboard, {between} of the variance of a difference "
        "between two ranked methods lies between tasks, not between seeds (median pair of "
        f"methods). An interval that counted {tasks} tasks and {seeds} seeds as {tasks * seeds} "
        "independent results would be far too narrow. If one task is left out, the same methods "
        f"share the first rank in {stable} cases. So who shares the first rank is known only "
        "roughly."
    )


def show_intervals(upgrades: list[dict[str, Any]], tasks: int, seeds: int) -> str:
    """Return how often each kind of interval contains the true difference, and its width."""
    rows = []
    for kinds in zip(*(upgrade["intervals"] for upgrade in upgrades), strict=True):
        row = [kinds[0]["kind"]]
        for kind in kinds:
            row += [f"{100 * kind['covered']:.1f} %", f"{kind['width']:.1f}"]
        rows.append(row)
    header = ["Interval"]
    for upgrade in upgrades:
        header += [f"right, {upgrade['target']}", "width, points"]
    head = (
        f"Simulated: {PAIRS:,} pairs of methods that do not differ, with {tasks} tasks and {seeds} "
        "seeds. A 95 % interval should contain the true difference, 0, in 95 % of cases (*right*)."
    )
    return f"{head}\n\n{render_table(plain_table(header, rows, left=(0,)))}"


def show_tests(upgrades: list[dict[str, Any]]) -> str:
    """Return how often each test finds a difference from the best method where there is none."""
    rows = []
    for kinds in zip(*(upgrade["tests"] for upgrade in upgrades), strict=True):
        row = [kinds[0]["kind"]]
        for kind in kinds:
            row += [f"{100 * kind['families']:.0f} %", f"{100 * kind['pairs']:.1f} %"]
        rows.append(row)
    header = ["Test of the best against the others"]
    for upgrade in upgrades:
        header += [f"false rankings, {upgrade['target']}", "false pairs"]
    counts = " and ".join(str(upgrade["methods"]) for upgrade in upgrades)
    used = " and ".join(f"{100 * upgrade['tests'][0]['families']:.0f} %" for upgrade in upgrades)
    head = (
        f"Simulated: {FAMILIES:,} rankings of {counts} methods that do not differ. The method that "
        "happens to be the best is compared with all others. A correct procedure finds a "
        "significant difference in at most 5 % of rankings."
    )
    foot = (
        f"This project uses the first line. It is wrong in {used} of these rankings. Holm's "
        "correction assumes that you named the best method before you saw the results, but here "
        "the same results choose it."
    )
    return f"{head}\n\n{render_table(plain_table(header, rows, left=(0,)))}\n\n{foot}"


def show_power(upgrades: list[dict[str, Any]]) -> str:
    """Return how often a true difference is missed, by its size."""
    rows = []
    for sizes in zip(*(upgrade["power"] for upgrade in upgrades), strict=True):
        row = [f"{sizes[0]['low']} to {sizes[0]['high']}"]
        for size in sizes:
            row += [f"{100 * size['missed']:.0f} %", f"{100 * size['missed_in_ranking']:.0f} %"]
        rows.append(row)
    header = ["True difference of H, points"]
    for upgrade in upgrades:
        header += [f"missed, {upgrade['target']}", "missed in a ranking"]
    head = (
        f"Simulated: {PAIRS:,} differences of each size. *Missed* is a comparison of two methods "
        "that were named beforehand. *In a ranking*, this is the only difference among all "
        "methods, and Holm's correction counts all of them."
    )
    return f"{head}\n\n{render_table(plain_table(header, rows, left=(0,)))}"
