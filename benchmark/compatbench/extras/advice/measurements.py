"""What was measured of modules on one upgrade, ready to be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.extras.advice.price import PRICES, count_labels, price_options, retrained_modules
from compatbench.results.differences import (
    OLD,
    ZERO_SHOT,
    Difference,
    compare_answers,
    compare_tasks,
    estimate_accuracy,
    estimate_paired,
    estimate_unpaired,
)
from compatbench.results.estimate import FEWEST_UNITS, Array, Interval
from compatbench.results.evaluation import Evaluation
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.options import describe_option, option_name, options_frame
from compatbench.results.ranking import NULL
from compatbench.results.suite_results import SuiteResults
from compatbench.results.upgrade_rows import NOT_TRANSFERABLE, mean_of_complete, pair_rows

# Counts of images in the rows of an upgrade: those on both models, and those that one of two
# classifiers alone gets right.
_COUNTS = {
    "total": "target_total",
    "correct": "target_correct",
    "zero_shot": "target_zero_shot_correct",
    "only_module": "target_only_module",
    "only_zeroshot": "target_only_zeroshot",
    "negative_flips": "target_negative_flips",
    "positive_flips": "target_positive_flips",
    "old": "source_correct",
    "old_total": "source_total",
}


# From rows of an upgrade and the names of tasks to what ``compare_answers`` takes.
ReadAnswers = Callable[[pd.DataFrame, Sequence[str]], tuple[dict[str, Array], Array] | None]


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts of images, ``[seeds, tasks]``; NaN where one is missing.

    Attributes:
        total: of the test sets.
        correct: those that are classified correctly.
        gained: images that the option alone gets right, by what it is compared with.
        lost: images that the other alone gets right.
    """

    total: Array
    correct: Array
    gained: Mapping[str, Array] = field(default_factory=dict)
    lost: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Measurements:
    """What was measured of the modules of one or more methods on one upgrade.

    Attributes:
        upgrade: source and target.
        shots: of the modules; None if it is not known, of a module that was imported.
        tasks: their names.
        seeds: how many.
        images: of the test sets, in all.
        options: a row for each method and transfer, by ``option_name``: ``method``, ``transfer``,
            ``old``, the name of the module on the old model; ``not_attached``, True if it cannot be
            attached, with the ``reason``; and the columns of ``COST``.
        scores: accuracies in percent of the options, ``ZERO_SHOT`` and the old model, ``[options,
            units]``; NaN if one is missing. Units are tasks; or images, if ``right`` is known.
        prices: what options cost and are worth in labels; see ``price_options``.
        retrained: mean accuracies of the methods that were retrained with every number of labels,
            by labels per class and option.
        right: the answers to single images, as ``compare_answers`` takes them, where they are known
            and fewer tasks than a verdict takes were measured.
        task_of: the task of each image.
        half_of: the half of its task that each image is in, if modules were cross-fitted.
        counts: of images, where fewer tasks than a verdict takes were measured and the answers to
            single images are not known.
        changed: share of images, in percent, on which an option does not predict zero-shot's class,
            on the old model or the new one, whichever is more; empty if it is not known.
    """

    upgrade: Upgrade
    shots: int | None
    tasks: tuple[str, ...]
    seeds: int
    images: int
    options: pd.DataFrame
    scores: pd.DataFrame
    prices: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PRICES))
    retrained: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    right: Mapping[str, Array] | None = None
    task_of: Array = field(default_factory=lambda: np.zeros(0))
    half_of: Array | None = None
    counts: Mapping[str, Counts] | None = None
    changed: Mapping[str, float] = field(default_factory=dict)

    def is_null(self, options: Iterable[str]) -> bool:
        """Return True if these options are known to predict what zero-shot predicts."""
        measured = [name for name in options if name in self.scores.index]
        return bool(measured) and all(self.changed.get(name, 100.0) < NULL for name in measured)

    @property
    def methods(self) -> list[str]:
        """Return the methods that have options, in order."""
        return list(self._by_method)

    @property
    def units(self) -> tuple[int, str]:
        """Return how many units the intervals are over, and what they are."""
        if len(self.tasks) >= FEWEST_UNITS:
            return len(self.tasks), "task"
        return self.images, "test image"

    def difference(self, option: str, minus: str | None = None) -> Interval | None:
        """Return an option's accuracy, or how much better it is than another."""
        return compare_upgrades(self, option, self, minus)

    @cached_property
    def compare(self) -> Difference:
        """Return the function that compares options by image where that is possible."""
        if self.right is None:
            return compare_tasks(self.scores)
        return compare_answers(self.right, self.task_of, self.half_of)

    def options_of(self, method: str) -> pd.DataFrame:
        """Return the options of one method."""
        return self._by_method[method]

    @cached_property
    def _by_method(self) -> dict[str, pd.DataFrame]:
        return {str(name): part for name, part in self.options.groupby("method", sort=False)}


def read_measurements(
    results: SuiteResults,
    expected: Expected,
    upgrade: Upgrade,
    methods: Sequence[str],
    read_answers: ReadAnswers = lambda rows, tasks: None,
) -> Measurements:
    """Return what was measured of some methods on one upgrade, at the most shots.

    Args:
        read_answers: returns the answers to single images of rows, if they are known; it is called
            where fewer tasks than a verdict takes were measured.
    """
    shots = max(expected.shots)
    labels = count_labels(results.transfers)
    rows = _name_options(pair_rows(results, expected, upgrade, shots))
    if expected.retrained and f"retrained+{shots}" not in results.transfers:
        rows = pd.concat([rows, _retrained_rows(results, expected, upgrade, shots)])
    retrained: dict[int, dict[str, float]] = {}
    for number, accuracies in retrained_modules(results, expected, upgrade).items():
        means = {}
        for method, mean in accuracies.mean(axis="columns").items():
            means[option_name(str(method), labels[number])] = float(mean)
        retrained[number] = means
    prices = pd.DataFrame(columns=PRICES)
    if retrained:
        prices = price_options(results, expected, upgrade)
        prices = prices[prices["method"].isin(set(methods))]
    images = rows.groupby("test_set")["target_total"].first().sum()
    options = _describe_options(rows[rows["method"].isin(set(methods))])
    order = {name: place for place, name in enumerate(methods)}
    options = options.iloc[np.argsort(options["method"].map(order), kind="stable")]
    scores = _average_tasks(rows, expected.tasks)
    counts = None
    right = None
    task_of = np.zeros(0)
    if len(expected.tasks) < FEWEST_UNITS:
        answers = read_answers(rows, expected.tasks)
        if answers is None:
            counts = _count_images(rows, expected.tasks)
        else:
            right, task_of = answers
            by_image = {name: 100 * rows.mean(axis=0) for name, rows in right.items()}
            scores = pd.DataFrame.from_dict(by_image, "index")
    return Measurements(
        upgrade=upgrade,
        shots=shots,
        tasks=expected.tasks,
        seeds=len(expected.seeds),
        images=int(images),
        options=options,
        scores=scores,
        prices=prices,
        retrained={number: means for number, means in retrained.items() if means},
        right=right,
        task_of=task_of,
        counts=counts,
    )


def _name_options(rows: pd.DataFrame) -> pd.DataFrame:
    names = [option_name(*pair) for pair in zip(rows["method"], rows["transfer"], strict=True)]
    return rows.assign(option=names)


def _retrained_rows(
    results: SuiteResults, expected: Expected, upgrade: Upgrade, shots: int
) -> pd.DataFrame:
    """Return the rows of modules that the suite fits on the target, which are retrained ones.

    Nothing is known of them on the old model: their numbers of it are NaN.
    """
    rows = pair_rows(results, expected, (upgrade[1], upgrade[1]), shots)
    rows = rows[rows["transfer"] == COPIED].assign(transfer=f"retrained+{shots}")
    numbers = map(str, rows.select_dtypes("number").columns)
    of_old = [name for name in numbers if name.startswith("source")]
    of_old += [_COUNTS["negative_flips"], _COUNTS["positive_flips"]]
    unknown: dict[str, Any] = dict.fromkeys(of_old, np.nan)
    return _name_options(rows.assign(**unknown))


def _describe_options(rows: pd.DataFrame) -> pd.DataFrame:
    """Return ``Measurements.options``."""
    refused = rows[rows["target_status"] == NOT_TRANSFERABLE].drop_duplicates("option")
    reasons = dict(zip(refused["option"], refused["target_reason"], strict=True))
    described = {}
    options = rows.drop_duplicates("option")[["option", "method", "transfer"]]
    for name, method, transfer in options.itertuples(index=False):
        described[name] = describe_option(method, transfer, reasons.get(name))
    return options_frame(described)


def _average_tasks(rows: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Return ``Measurements.scores`` over tasks."""
    means = mean_of_complete(rows, ["option", "test_set"], ["source", "target"])
    sources = means["source"].unstack("test_set")[list(tasks)]
    targets = means["target"].unstack("test_set")[list(tasks)]
    methods = rows.drop_duplicates("option").set_index("option")["method"]
    # The module on the old model does not depend on the transfer. Its first complete row counts.
    sources = sources.reindex(methods.index).dropna()
    of_method = methods.loc[sources.index]
    sources = sources[~of_method.duplicated()]
    sources.index = [option_name(methods[option], OLD) for option in sources.index]
    zero_shot = rows.groupby("test_set")["target_zero_shot"].first().reindex(list(tasks))
    return pd.concat([zero_shot.rename(ZERO_SHOT).to_frame().T, targets, sources])


def _count_images(rows: pd.DataFrame, tasks: Sequence[str]) -> dict[str, Counts]:
    """Return the counts of every option, of zero-shot, and of each method on the old model."""
    places = rows.set_index(["option", "seed", "test_set"])
    tables = {}
    for name, column in _COUNTS.items():
        tables[name] = places[column].unstack("test_set")[list(tasks)]
    known = rows.groupby("test_set")[["target_total", "target_zero_shot_correct"]].first()
    known = known.reindex(list(tasks))
    total, zero_shot = known.to_numpy(dtype=float).T
    counts = {ZERO_SHOT: Counts(total[None], zero_shot[None])}
    for option, of_option in rows.groupby("option", sort=False):
        table = {name: tables[name].loc[option].to_numpy(dtype=float) for name in tables}
        old = option_name(of_option["method"].iloc[0], OLD)
        counts[str(option)] = Counts(
            table["total"],
            table["correct"],
            gained={ZERO_SHOT: table["only_module"], old: table["positive_flips"]},
            lost={ZERO_SHOT: table["only_zeroshot"], old: table["negative_flips"]},
        )
        # The old model does not depend on the transfer. Its first complete row counts.
        if old not in counts or np.isnan(counts[old].correct).any():
            counts[old] = Counts(table["old_total"], table["old"])
    return counts


def compare_upgrades(
    first: Measurements, option: str, second: Measurements, minus: str | None
) -> Interval | None:
    """Return how much better an option of one upgrade is than one of another, or of the same.

    Both were measured on the same tasks. Without ``minus`` it is the accuracy of the option.
    """
    if first.counts is not None and second.counts is not None:
        if option not in first.counts:
            return None
        if minus is None:
            return estimate_accuracy(first.counts[option].correct, first.counts[option].total)
        if minus not in second.counts:
            return None
        if first is second:
            return _compare_counts(first.counts, option, minus)
        return _compare_unpaired(first.counts[option], second.counts[minus])
    if first is second or minus is None:
        return first.compare(option, minus)
    if option not in first.scores.index or minus not in second.scores.index:
        return None
    if first.right is not None and second.right is not None:
        answers = {"option": first.right[option], "minus": second.right[minus]}
        compare = compare_answers(answers, first.task_of, first.half_of)
        return compare("option", "minus")
    both = pd.DataFrame({"option": first.scores.loc[option], "minus": second.scores.loc[minus]}).T
    return compare_tasks(both)("option", "minus")


def _compare_counts(counts: Mapping[str, Counts], option: str, minus: str) -> Interval | None:
    """Compare two options by their counts of images, paired where the counts allow it."""
    first = counts[option]
    second = counts[minus]
    if minus in first.gained:
        gained = first.gained[minus]
        lost = first.lost[minus]
        # A row may lack these counts; others may be of another run of the old module.
        if np.array_equal(gained - lost, first.correct - second.correct + np.zeros_like(gained)):
            return estimate_paired(gained, lost, first.total)
    return _compare_unpaired(first, second)


def _compare_unpaired(first: Counts, second: Counts) -> Interval | None:
    return estimate_unpaired(first.correct, second.correct, first.total)


@dataclass(frozen=True, eq=False)
class Answered:
    """An option with the images that it classifies correctly.

    Attributes:
        method: the name of its method, or of a module.
        transfer: how it reaches the new model.
        right: 1 where an image is classified correctly, ``[seeds, images]``; None if the module
            cannot be attached.
        reason: why it cannot.
        old: the same of the module on the old model; None if that was not measured.
        changed: see ``Measurements.changed``; None if it is not known.
    """

    method: str
    transfer: str
    right: Array | None
    reason: str = ""
    old: Array | None = None
    changed: float | None = None


def measure_answers(
    upgrade: Upgrade,
    answered: Sequence[Answered],
    zero_shot: Array | None,
    tasks: Sequence[str],
    task_of: Array,
    half_of: Array | None = None,
    shots: int | None = None,
) -> Measurements:
    """Return what was measured of options whose answers to every image are known.

    Args:
        upgrade: source and target.
        answered: the options.
        zero_shot: the answers of the new model's zero-shot, ``[1, images]``.
        tasks: the names of the tasks.
        task_of: the number of the task of each image.
        half_of: the half of its task that each image is in, if modules were cross-fitted.
        shots: of the modules.
    """
    right: dict[str, Array] = {}
    described = {}
    changed = {}
    if zero_shot is not None:
        right[ZERO_SHOT] = zero_shot
    for option in answered:
        name = option_name(option.method, option.transfer)
        refused = None if option.right is not None else option.reason
        described[name] = describe_option(option.method, option.transfer, refused)
        if option.right is not None:
            right[name] = option.right
        if option.changed is not None:
            changed[name] = option.changed
        if option.old is not None:
            right.setdefault(option_name(option.method, OLD), option.old)
    scores = {name: 100 * answers.mean(axis=0) for name, answers in right.items()}
    return Measurements(
        upgrade=upgrade,
        shots=shots,
        tasks=tuple(tasks),
        seeds=max([len(answers) for answers in right.values()], default=1),
        images=len(task_of),
        options=options_frame(described),
        scores=pd.DataFrame.from_dict(scores, "index"),
        right=right,
        task_of=task_of,
        half_of=half_of,
        changed=changed,
    )


def answers_of(
    measured: Sequence[tuple[str, Evaluation]],
) -> tuple[list[Answered], Array | None]:
    """Return the options of evaluations on one backbone, and the answers of its zero-shot."""
    answered = []
    zero_shot = None
    for module, evaluation in measured:
        right = {}
        for name, answers in evaluation.right_images().items():
            right[name] = answers.astype(float)[None]
        zero_shot = right.get(ZERO_SHOT, zero_shot)
        transfer = evaluation.transfer
        option = Answered(
            module,
            transfer,
            right.get(transfer),
            evaluation.reason,
            right.get(OLD),
            max(evaluation.changed.values(), default=None),
        )
        answered.append(option)
    return answered, zero_shot


def measure_evaluations(measured: Sequence[tuple[str, Evaluation]]) -> Measurements:
    """Return what was measured of modules by several transfers on one backbone.

    Args:
        measured: evaluations on the same images, each with the name of its module.
    """
    _, first = measured[0]
    answered, zero_shot = answers_of(measured)
    upgrade = (first.fitted.source, first.backbone)
    shots = first.fitted.shots
    one_task = np.zeros(first.images)
    return measure_answers(upgrade, answered, zero_shot, [first.test_set], one_task, shots=shots)
