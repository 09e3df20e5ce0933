"""How much better one option is than another: over tasks, or over images that both answered."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, norm, t, ttest_rel

from compatbench.results.differences import (
    ZERO_SHOT,
    compare_answers,
    compare_images,
    compare_tasks,
    estimate_accuracy,
    estimate_paired,
    estimate_unpaired,
)

Right = NDArray[np.float64]


def draw_pair(images: int, seed: int, disagree: float = 0.1) -> tuple[Right, Right]:
    """Return the right answers of two classifiers that disagree on a share of the images."""
    rng = np.random.default_rng(seed)
    first = (rng.random(images) < 0.7).astype(float)
    second = np.where(rng.random(images) < disagree, 1 - first, first)
    return first, second


def test_two_classifiers_on_the_same_images_are_compared_image_by_image() -> None:
    """The variance is that of the difference per image, as in McNemar's test."""
    first, second = draw_pair(500, seed=1)
    difference = compare_images(pd.DataFrame([100 * first, 100 * second], index=["a", "b"]))
    found = difference("a", "b")
    assert found is not None
    gained = int(((first == 1) & (second == 0)).sum())
    lost = int(((first == 0) & (second == 1)).sum())
    variance = (gained + lost - (gained - lost) ** 2 / 500) / 500**2
    naive = 100 * norm.ppf(0.975) * math.sqrt(variance)
    assert found.value == pytest.approx(100 * (gained - lost) / 500)
    assert (found.high - found.low) / 2 == pytest.approx(naive, rel=0.03)
    # Independent answers would vary several times as much.
    apart = estimate_unpaired([[first.sum()]], [[second.sum()]], [[500]])
    assert apart is not None
    assert apart.value == pytest.approx(found.value)
    assert apart.high - apart.low > 1.8 * (found.high - found.low)


def test_few_disagreements_decide_only_if_the_exact_test_does() -> None:
    for gained in range(25):
        for lost in range(25 - gained):
            found = estimate_paired([[gained]], [[lost]], [[300]])
            assert found is not None
            assert found.low <= found.value <= found.high
            if found.low > 0 or found.high < 0:
                assert binomtest(gained, gained + lost).pvalue < 0.05
    assert estimate_paired([[6]], [[0]], [[300]]).low > 0  # type: ignore[union-attr]
    assert estimate_paired([[5]], [[0]], [[300]]).low < 0  # type: ignore[union-attr]
    same = estimate_paired([[0]], [[0]], [[300]])
    assert same is not None
    assert same.low < 0 < same.high


@pytest.mark.parametrize(("images", "disagree"), [(30, 0.3), (200, 0.1), (200, 0.3)])
def test_the_interval_holds_the_true_difference(images: int, disagree: float) -> None:
    """In 1,000 draws of images, of which classifiers disagree on a share, three to one."""
    rng = np.random.default_rng(2)
    draws = rng.choice(
        [1, -1, 0], p=[disagree * 3 / 4, disagree / 4, 1 - disagree], size=(1000, images)
    )
    held = 0
    for draw in draws:
        found = estimate_paired([[(draw == 1).sum()]], [[(draw == -1).sum()]], [[images]])
        assert found is not None
        held += found.low <= 100 * disagree / 2 <= found.high
    assert held >= 940


def test_the_interval_of_a_few_tasks_is_over_images_and_seeds() -> None:
    """As the formulas are written: the variance per task, and Student's t over seeds."""
    total = np.array([[40, 160], [40, 160], [40, 160]])
    gained = np.array([[10, 30], [12, 40], [8, 36]])
    lost = np.array([[4, 12], [2, 20], [6, 9]])
    variance = 0.0
    for task, images in enumerate((40, 160)):
        of_seeds = []
        for seed in range(3):
            more = images + 2
            squares = (gained[seed, task] + lost[seed, task] + 1) / more
            mean = (gained[seed, task] - lost[seed, task]) / more
            of_seeds.append((squares - mean**2) / more)
        variance += float(np.mean(of_seeds)) / 2**2
    by_seed = (100 * (gained - lost) / total).mean(axis=1)
    spread = t.ppf(0.975, 2) * by_seed.std(ddof=1) / math.sqrt(3)
    half = math.hypot(100 * t.ppf(0.975, 199) * math.sqrt(variance), spread)
    found = estimate_paired(gained, lost, total)
    assert found is not None
    expected = [by_seed.mean(), by_seed.mean() - half, by_seed.mean() + half]
    assert [found.value, found.low, found.high] == pytest.approx(expected)


def test_an_accuracy_is_not_certain_if_all_images_are_right() -> None:
    whole = estimate_accuracy([[20]], [[20]])
    assert whole is not None
    assert (whole.value, whole.high) == (100, 100)
    exact = binomtest(20, 20).proportion_ci(method="exact")
    assert 100 * exact.low - 5 < whole.low < 100 * exact.low


@pytest.mark.parametrize("images", [22, 40, 200])
@pytest.mark.parametrize("accuracy", [0.05, 0.5, 0.7, 0.9, 0.95])
def test_interval_of_an_accuracy_contains_the_true_one_in_94_percent_of_cases(
    images: int, accuracy: float
) -> None:
    coverage = 0.0
    for right in range(images + 1):
        found = estimate_accuracy([[right]], [[images]])
        assert found is not None
        if found.low <= 100 * accuracy <= found.high:
            coverage += float(binom.pmf(right, images, accuracy))
    assert coverage >= 0.94


def test_measurements_that_are_missing_give_no_comparison() -> None:
    assert estimate_accuracy([[10, np.nan]], [[20, 20]]) is None
    assert estimate_paired([[np.nan]], [[1]], [[20]]) is None
    difference = compare_tasks(pd.DataFrame([[1, 2], [3, np.nan]], index=["a", "b"]))
    assert difference("a", "b") is None
    assert difference("a", "c") is None
    assert difference("c", None) is None


def test_tasks_are_compared_by_students_paired_test() -> None:
    scores = pd.DataFrame(np.random.default_rng(4).normal(60, 5, size=(2, 8)), index=["a", "b"])
    found = compare_tasks(scores)("a", "b")
    assert found is not None
    theirs = ttest_rel(scores.loc["a"], scores.loc["b"]).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def cross_fit(
    rng: np.random.Generator, classes: int, images: int, shots: int
) -> tuple[dict[str, Right], NDArray[np.intp], float]:
    """Return right answers of a cross-fitted module and of zero-shot, halves, and the true gain.

    Each class is a cloud of points. A module keeps the mean of a few points of each; zero-shot has
    means that are off.
    """
    centres = rng.normal(0, 0.3, (classes, 16))

    def draw(number: int) -> tuple[Right, NDArray[np.intp]]:
        labels = np.repeat(np.arange(classes), number)
        return centres[labels] + rng.normal(0, 1, (len(labels), 16)), labels

    def fit(points: Right, labels: NDArray[np.intp]) -> Right:
        means = []
        for label in range(classes):
            of_class = points[labels == label]
            means.append(of_class[rng.permutation(len(of_class))[:shots]].mean(axis=0))
        return np.stack(means)

    def test(means: Right, points: Right, labels: NDArray[np.intp]) -> Right:
        distances = ((points[:, None] - means) ** 2).sum(axis=-1)
        return (distances.argmin(axis=1) == labels).astype(float)

    zero_shot = centres + rng.normal(0, 0.25, centres.shape)
    many = draw(300)
    of_modules = [test(fit(*draw(shots)), *many).mean() for _ in range(8)]
    truth = 100 * (np.mean(of_modules) - test(zero_shot, *many).mean())
    points, labels = draw(images)
    halves = np.tile(np.arange(images) % 2, classes)
    right = {"module": np.zeros((3, len(labels))), ZERO_SHOT: test(zero_shot, points, labels)[None]}
    for seed in range(3):
        for half in (0, 1):
            tested = halves == half
            means = fit(points[~tested], labels[~tested])
            right["module"][seed, tested] = test(means, points[tested], labels[tested])
    return right, halves, float(truth)


@pytest.mark.parametrize(("images", "shots"), [(10, 4), (20, 1), (60, 4)])
def test_the_interval_of_a_cross_fit_holds_the_gain_and_is_not_much_too_wide(
    images: int, shots: int
) -> None:
    """In 300 tasks of five classes, with other images and draws."""
    rng = np.random.default_rng(images)
    held = 0
    errors = []
    reaches = []
    for _ in range(300):
        right, halves, truth = cross_fit(rng, 5, images, shots)
        found = compare_answers(right, np.zeros_like(halves), halves)("module", ZERO_SHOT)
        assert found is not None
        held += found.low <= truth <= found.high
        errors.append(found.value - truth)
        reaches.append((found.high - found.low) / 2)
    assert held >= 280  # 93 %
    assert np.mean(reaches) <= 1.35 * 1.96 * np.std(errors)


def test_training_on_several_draws_widens_an_interval() -> None:
    """Each draw disagrees with the other option about 40 images, so that only the draws differ."""
    second = np.repeat([0.0, 1.0], 200)
    first = second.copy()
    first[:40] = 1
    other = second.copy()
    other[200:240] = 0
    flat = np.zeros(400)
    before = compare_answers({"a": first[None], "b": second[None]}, flat)("a", "b")
    after = compare_answers({"a": np.stack([first, other]), "b": second[None]}, flat)("a", "b")
    assert before is not None
    assert after is not None
    assert after.high - after.low > 2 * (before.high - before.low)
