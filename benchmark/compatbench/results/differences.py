"""How much better one option is than another, with an interval, from what was measured of both.

Of six tasks or more, the interval is over tasks: Student's t of the paired differences. Fewer tasks
are not a sample, and the interval is over images, and over seeds if there are several. Two
classifiers that answered the same images are compared image by image: the images that only one of
them classifies correctly decide. Below 25 such images the interval also contains the exact one
(McNemar's test). Where modules were trained on several draws of images, the interval covers other
draws as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from compatbench.results.estimate import LEVEL, Array, Interval, estimate

OLD = "old model"
ZERO_SHOT = "zero-shot"
# With fewer disagreements between two classifiers, the exact interval counts.
FEW_DISAGREEMENTS = 25
# From an option, and another that is subtracted, to an interval; None if a measurement is missing.
# Without the other it is the option's own accuracy.
Difference = Callable[[str, str | None], Interval | None]


def compare_tasks(scores: pd.DataFrame) -> Difference:
    """Return the function that compares options by their accuracies on tasks.

    Args:
        scores: in percent, ``[options, tasks]``; NaN where one is missing.
    """
    by_option = _split_rows(scores)

    def difference(option: str, minus: str | None = None) -> Interval | None:
        if option not in by_option or (minus is not None and minus not in by_option):
            return None
        values = by_option[option]
        if minus is not None:
            values = values - by_option[minus]
        return estimate(values)

    return difference


def compare_images(scores: pd.DataFrame) -> Difference:
    """Return the function that compares options by their answers to the images of one task.

    Args:
        scores: 100 where an image is classified correctly and else 0, ``[options, images]``.
    """
    right = {name: row[None] / 100 for name, row in _split_rows(scores).items()}
    return compare_answers(right, np.zeros(scores.shape[1]))


def compare_answers(
    right: Mapping[str, Array], task_of: ArrayLike, half_of: ArrayLike | None = None
) -> Difference:
    """Return the function that compares options by their answers to the images of a few tasks.

    Args:
        right: of each option 1 where an image is classified correctly and else 0, ``[seeds,
            images]``. An option that does not depend on the seed has one row.
        task_of: the task of each image, ``[images]``.
        half_of: of a cross-fit, the half of its task that an image is in, ``[images]``. Each half
            is tested with modules that were trained on the other one.
    """
    tasks = np.asarray(task_of)
    halves = np.zeros_like(tasks) if half_of is None else np.asarray(half_of)
    members = [tasks == task for task in np.unique(tasks)]

    def count(shares: Array) -> Array:
        """Return the sums over the images of each task, ``[1, tasks]``."""
        means = shares.mean(axis=0)
        return np.array([[means[images].sum() for images in members]])

    def difference(option: str, minus: str | None = None) -> Interval | None:
        if option not in right or (minus is not None and minus not in right):
            return None
        shares = right[option]
        if minus is None:
            interval = estimate_accuracy(count(shares), count(np.ones_like(shares)))
            least = 0.0
        else:
            shares = shares - right[minus]
            means = shares.mean(axis=0)[None]
            gained = count(np.clip(means, 0, None))
            lost = count(np.clip(-means, 0, None))
            total = count(np.ones_like(shares))
            interval = estimate_paired(gained, lost, total, count(means**2))
            least = -100.0
        if interval is None or len(shares) == 1:
            return interval
        return _clip(_add_draws(interval, shares, members, halves), least, 100)

    return difference


def _add_draws(
    interval: Interval, shares: Array, members: Sequence[NDArray[np.bool_]], halves: Array
) -> Interval:
    """Return an interval over images that also covers other training images.

    A module stands for a seed and a half. The variance between the modules of a task contains that
    of their training images.

    Args:
        interval: of the mean over seeds.
        shares: right answers, or their differences, ``[seeds, images]``.
        members: of each task, True for its images.
        halves: the half of each image.
    """
    from scipy.special import stdtrit

    variance = 0.0
    freedom = 0
    for images in members:
        means = []
        for half in np.unique(halves[images]):
            means.append(100 * shares[:, images & (halves == half)].mean(axis=1))
        modules = np.concatenate(means)
        variance += float(modules.var(ddof=1)) / len(modules)
        freedom += len(modules) - 1
    error = math.sqrt(variance) / len(members)
    reach = float(stdtrit(freedom, (1 + LEVEL / 100) / 2)) * error
    low = interval.value - math.hypot(interval.value - interval.low, reach)
    high = interval.value + math.hypot(interval.high - interval.value, reach)
    return Interval(interval.value, low, high, interval.units)


def _split_rows(scores: pd.DataFrame) -> dict[str, Array]:
    rows = scores.to_numpy(dtype=float)
    return {str(name): row for name, row in zip(scores.index, rows, strict=True)}


def estimate_accuracy(correct: ArrayLike, total: ArrayLike) -> Interval | None:
    """Return the mean accuracy over a few tasks with an interval over images and seeds.

    The interval lies around the share after two right and two wrong images more, and has its
    variance (Agresti and Coull, 1998). So 20 right answers of 20 do not have an interval of length
    0, and close to 100 % it reaches further down than up.

    Args:
        correct: images that are classified correctly, ``[seeds, tasks]``.
        total: images of the test sets, likewise.
    """
    images = np.asarray(total, dtype=float)
    accuracies = 100 * np.asarray(correct, dtype=float) / images
    shares = accuracies.mean(axis=0) / 100
    sizes = images.mean(axis=0)
    centres = (shares * sizes + 2) / (sizes + 4)
    variance = centres * (1 - centres) / (sizes + 4)
    interval = _over_images(accuracies, variance[None], images)
    if interval is None or not interval.bounded:
        return interval
    shift = 100 * float(centres.mean()) - interval.value
    low = min(interval.low + shift, interval.value)
    high = max(interval.high + shift, interval.value)
    interval = Interval(interval.value, low, high, interval.units)
    return _clip(interval, 0, 100)


def estimate_paired(
    gained: ArrayLike, lost: ArrayLike, total: ArrayLike, squares: ArrayLike | None = None
) -> Interval | None:
    """Return the difference between two classifiers that answered the same images of a few tasks.

    The variance of a task is that of the difference per image, −1, 0 or 1, after one image more
    that only the one and one that only the other classifies correctly, each counted by half
    (Agresti and Min, 2005). With few disagreements that is too narrow, so the interval is
    extended to the exact one (McNemar's test).

    Args:
        gained: images that the first one alone classifies correctly, ``[seeds, tasks]``.
        lost: images that the second one alone classifies correctly, likewise.
        total: images of the test sets, likewise.
        squares: the sum of the squared differences per image, likewise. It is below the number of
            disagreements where a difference is a mean over seeds.
    """
    better = np.asarray(gained, dtype=float)
    worse = np.asarray(lost, dtype=float)
    images = np.asarray(total, dtype=float)
    differences = 100 * (better - worse) / images
    more_images = images + 2
    squared = better + worse if squares is None else np.asarray(squares, dtype=float)
    mean_squares = (squared + 1) / more_images
    means = (better - worse) / more_images
    interval = _over_images(differences, (mean_squares - means**2) / more_images, images)
    disagreements = float((better + worse).mean(axis=0).sum())
    if interval is None or disagreements == 0 or disagreements >= FEW_DISAGREEMENTS:
        return _clip(interval, -100, 100)
    low, high = _exact_shares(float(better.mean(axis=0).sum()), disagreements)
    points = 100 * float(((better + worse) / images).mean())
    extended = Interval(
        interval.value,
        min(interval.low, points * (2 * low - 1)),
        max(interval.high, points * (2 * high - 1)),
        interval.units,
    )
    return _clip(extended, -100, 100)


def estimate_unpaired(correct: ArrayLike, others: ArrayLike, total: ArrayLike) -> Interval | None:
    """Return the difference between two classifiers of which only the counts are known.

    Their answers are taken to be independent. Answers to the same images agree more than that, so
    the interval is too wide rather than too narrow.

    Args:
        correct: images that the first one classifies correctly, ``[seeds, tasks]``.
        others: images that the second one classifies correctly, likewise.
        total: images of the test sets, likewise.
    """
    images = np.asarray(total, dtype=float)
    first = 100 * np.asarray(correct, dtype=float) / images
    second = 100 * np.asarray(others, dtype=float) / images
    variance = _binomial_variance(first, images) + _binomial_variance(second, images)
    return _clip(_over_images(first - second, variance, images), -100, 100)


def _binomial_variance(accuracies: Array, images: Array) -> Array:
    """Return p(1 − p) / n by task, with p the mean over seeds.

    Each task has one right and one wrong image more (Agresti and Caffo, 2000), so that 20 right
    answers of 20 have a variance.
    """
    shares = accuracies.mean(axis=0) / 100
    sizes = images.mean(axis=0)
    adjusted = (shares * sizes + 1) / (sizes + 2)
    return (adjusted * (1 - adjusted) / (sizes + 2))[None]


def _over_images(figures: Array, variance: Array, images: Array) -> Interval | None:
    """Return the mean over tasks and seeds with an interval over images and seeds.

    Args:
        figures: accuracies in percent, or their differences, ``[seeds, tasks]``.
        variance: of shares from 0 to 1 by the drawn images, likewise.
        images: of the test sets, likewise.
    """
    from scipy.special import stdtrit

    if figures.size == 0 or np.isnan(figures).any():
        return None
    seeds, tasks = figures.shape
    value = float(figures.mean())
    units = float(images.mean(axis=0).sum())
    if units < 2:
        return Interval(value, units=units)
    probability = (1 + LEVEL / 100) / 2
    error = 100 * math.sqrt(float(variance.mean(axis=0).sum())) / tasks
    reach = float(stdtrit(units - 1, probability)) * error
    if seeds > 1:
        error_of_seeds = float(figures.mean(axis=1).std(ddof=1)) / math.sqrt(seeds)
        reach = math.hypot(reach, float(stdtrit(seeds - 1, probability)) * error_of_seeds)
    return Interval(value, value - reach, value + reach, units)


def _exact_shares(gained: float, disagreements: float) -> tuple[float, float]:
    """Return Clopper and Pearson's interval of the share of disagreements that are gained."""
    from scipy.special import betaincinv

    outside = (1 - LEVEL / 100) / 2
    lost = disagreements - gained
    low = 0.0
    high = 1.0
    if gained > 0:
        low = float(betaincinv(gained, lost + 1, outside))
    if lost > 0:
        high = float(betaincinv(gained + 1, lost, 1 - outside))
    return low, high


def _clip(interval: Interval | None, least: float, most: float) -> Interval | None:
    if interval is None or not interval.bounded:
        return interval
    low = max(interval.low, least)
    high = min(interval.high, most)
    return Interval(interval.value, low, high, interval.units)
