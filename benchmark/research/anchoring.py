"""Measure whether a new model can be trained to keep old modules, and at what price.

A target that was trained with something that should keep old modules is compared with the same
training without it: same source, same seed. The hypothesis, and the limit below which a loss of
zero-shot counts as free, were written before the first of these targets was trained. The kinds of
methods, the second source and backward-compatible training were added afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from target_kinds import FEWEST_TARGETS

from compatbench.results.estimate import Interval, estimate
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import bounds, signed, with_bounds
from compatbench.tables.table import TableCell, number, plain_table

# A training costs nothing if zero-shot loses fewer points, by the whole interval.
FREE = 2.0
ZERO_SHOT = "zero-shot accuracy"
BASELINE = "backward-compatible training"
# The end of a target's name, and what its training is called.
_TRAININGS = (
    (re.compile(r"-anchored-([\d.]+)$"), "penalty, weight {}"),
    (re.compile(r"-(compatible)$"), BASELINE),
)


class Pair(NamedTuple):
    """Two targets of one source and seed, trained with and without something that keeps modules."""

    source: str
    without: str
    trained: str


def split_name(target: str) -> tuple[str, str]:
    """Return the name of a target's plain training, and what its own training is called."""
    for pattern, title in _TRAININGS:
        found = pattern.search(target)
        if found is not None:
            return target[: found.start()], title.format(found[1])
    return target, ""


def find_trainings(upgrades: Iterable[Sequence[str]]) -> dict[str, list[Pair]]:
    """Return the pairs of targets of each training, in the order of the suite.

    Args:
        upgrades: from a source to a target.
    """
    known = {(path[0], path[-1]) for path in upgrades}
    trainings: dict[str, list[Pair]] = {}
    for path in upgrades:
        source = path[0]
        target = path[-1]
        without, training = split_name(target)
        if training and (source, without) in known:
            trainings.setdefault(training, []).append(Pair(source, without, target))
    return trainings


def list_changes(table: pd.DataFrame, pairs: Sequence[Pair]) -> pd.DataFrame:
    """Return what a training changes, ``[task, pair]``.

    Args:
        table: a value in points or percent, ``[task, target]``.
    """
    changes = {pair: table[pair.trained] - table[pair.without] for pair in pairs}
    return pd.DataFrame(changes).set_axis(range(len(pairs)), axis="columns")


def over_tasks(changes: pd.DataFrame) -> Interval:
    """Return the mean change with its interval over tasks; pairs are averaged."""
    interval = estimate(changes.mean(axis="columns"))
    assert interval is not None
    return interval


def show_targets(changes: pd.DataFrame) -> str:
    """Return the interval of the mean change over targets, or each change if they are few."""
    means = changes.mean()
    if len(means) < FEWEST_TARGETS:
        return ", ".join(map(signed, means))
    return bounds(estimate(means), signed)


def is_free(change: Interval) -> bool:
    """Return True if zero-shot loses less than ``FREE`` points, by the whole interval."""
    return change.decides and change.low > -FREE


def group_values(
    gains: pd.DataFrame, zero_shot: pd.DataFrame, groups: Mapping[str, Sequence[str]]
) -> dict[str, pd.DataFrame]:
    """Return the mean gain of each group of methods, and zero-shot's accuracy, ``[task, target]``.

    Args:
        gains: the gains of copied modules in points, ``[(method, task), target]``.
        zero_shot: the accuracy of zero-shot in percent, ``[task, target]``.
        groups: the names of the methods of each group.
    """
    values = {}
    for title, methods in groups.items():
        values[title] = gains.loc[list(methods)].groupby("task").mean()
    return {**values, ZERO_SHOT: zero_shot}


def describe_trainings(
    values: Mapping[str, pd.DataFrame], trainings: Mapping[str, Sequence[Pair]]
) -> str:
    """Return a line for each training: what it costs, and which groups of methods it keeps.

    Args:
        values: as from ``group_values``.
        trainings: as from ``find_trainings``.
    """
    lines = []
    for training, pairs in trainings.items():
        change = over_tasks(list_changes(values[ZERO_SHOT], pairs))
        cost = f"a loss of {FREE:g} points is not excluded"
        if is_free(change):
            cost = f"it loses less than {FREE:g}"
        named: dict[int, list[str]] = {1: [], -1: [], 0: []}
        for group, table in values.items():
            if group != ZERO_SHOT:
                named[over_tasks(list_changes(table, pairs)).sign].append(group)
        lines.append(
            f"* *{training}*: zero-shot changes by {with_bounds(change)} points, so {cost}. Copied "
            f"modules gain more: {_join(named[1])}; they gain less: {_join(named[-1])}; no "
            f"difference is shown: {_join(named[0])}."
        )
    return "\n".join(lines)


def _join(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def show_changes(
    values: Mapping[str, pd.DataFrame], trainings: Mapping[str, Sequence[Pair]]
) -> str:
    """Return the table of changes: rows are groups of methods and zero-shot."""
    has_several = any(len(pairs) > 1 for pairs in trainings.values())
    header = ["Change, points"]
    for training in trainings:
        header.append(training)
        if has_several:
            header.append("by target")
    rows = []
    for group, table in values.items():
        row: list[TableCell | str] = [group]
        for pairs in trainings.values():
            changes = list_changes(table, pairs)
            row.append(number(with_bounds(over_tasks(changes))))
            if has_several:
                row.append(number(show_targets(changes)))
        rows.append(row)
    return render_table(plain_table(header, rows))


def show_levels(values: Mapping[str, pd.DataFrame], trainings: Mapping[str, Sequence[Pair]]) -> str:
    """Return the table of mean gains over zero-shot, without and with each training."""
    first = next(iter(trainings.values()))
    columns = {"plain training": [pair.without for pair in first]}
    for training, pairs in trainings.items():
        columns[training] = [pair.trained for pair in pairs]
    rows = []
    for group, table in values.items():
        if group == ZERO_SHOT:
            continue
        row: list[TableCell | str] = [group]
        for targets in columns.values():
            row.append(number(with_bounds(estimate(table[targets].mean(axis="columns")))))
        rows.append(row)
    return render_table(plain_table(["Gain over zero-shot, points", *columns], rows))


def show_baseline(
    values: Mapping[str, pd.DataFrame], trainings: Mapping[str, Sequence[Pair]]
) -> str:
    """Return the table of each penalty minus the baseline; empty if there is no baseline."""
    baseline = next((name for name in trainings if name == BASELINE), None)
    if baseline is None:
        return ""
    penalties = [name for name in trainings if name != baseline]
    rows = []
    for group, table in values.items():
        row: list[TableCell | str] = [group]
        without_penalty = list_changes(table, trainings[baseline]).mean(axis="columns")
        for penalty in penalties:
            changed = list_changes(table, trainings[penalty]).mean(axis="columns")
            row.append(number(with_bounds(estimate(changed - without_penalty))))
        rows.append(row)
    header = [f"Change minus that by {baseline}, points", *penalties]
    return render_table(plain_table(header, rows))
