"""How sure the leaderboard's means are: bootstraps over datasets, a family of them counted once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compatbench.results.bootstrap import Interval, family_means, mean_interval
from compatbench.results.measures import Measure, Standing
from compatbench.results.rank_tests import RankTest, average_ranks, rank_test
from compatbench.results.ranks import Ranked


def dataset_means(standing: Standing, measure: Measure) -> dict[str, float] | None:
    """A measure per dataset, in mean over seeds and over the upgrades that were joined.

    A task counts once, whatever its variants and however many upgrades it was measured on: all
    come from one set of modules. Variants are not part of a standing over tasks.

    Returns:
        None if anything is missing.
    """
    means = {task: standing.mean(measure, task) for task in standing.tasks}
    values = {task: mean.value for task, mean in means.items() if mean is not None}
    if len(values) < len(means) or (standing.target_rows < 0).any():
        return None
    datasets = dict(zip(standing.tasks, standing.datasets, strict=True))
    return family_means(values, datasets) if values else None


def measure_interval(standing: Standing, measure: Measure) -> Interval | None:
    """The mean of a measure over datasets with its 95 % interval; None if anything is missing."""
    means = dataset_means(standing, measure)
    return None if means is None else mean_interval(list(means.values()))


def paired_interval(one: Standing, other: Standing, measure: Measure) -> Interval | None:
    """The mean difference ``one`` − ``other`` over datasets; None if anything is missing."""
    own, theirs = dataset_means(one, measure), dataset_means(other, measure)
    if own is None or theirs is None or own.keys() != theirs.keys():
        return None
    return mean_interval([own[dataset] - theirs[dataset] for dataset in own])


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
