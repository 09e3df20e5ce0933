"""Make the sections of docs/findings.md on several targets of a kind, and on anchoring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import anchoring
import numpy as np
import pandas as pd
from target_kinds import (
    leave_out,
    list_collapsed,
    over_targets,
    read_gains,
    read_zero_shot,
    reversals,
    reversed_orders,
    share_of_effects,
    share_of_targets,
    spread_of_means,
    to_cells,
)

from compatbench.data.cards import backbone_cards, suite_cards
from compatbench.messages import count
from compatbench.results.estimate import Array, estimate
from compatbench.results.result_files import ResultFiles
from compatbench.results.stored_method import MethodInfo, StoredMethod
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import bounds, percent, signed
from compatbench.tables.table import plain_table

ROOT = Path(__file__).parents[2]
SUITE = "mini-upgrades"
REMAINDER = (0, 1, 2)  # methods × tasks × targets, and the chance of a test set


def share_of_remainder(cells: Array) -> float:
    """Return the share of the variance that may be due to the chance of a test set, in percent."""
    return share_of_effects(cells, [REMAINDER])


# What one target says about others: a statistic and its largest possible value, by a description.
STATISTICS: dict[str, tuple[Callable[[Array], float], float]] = {
    "pairs of methods that differ significantly on one target: opposite order on another, %": (
        reversed_orders,
        100,
    ),
    "gains that are significant on one target: opposite sign on another, %": (reversals, 100),
    "standard deviation of a method's mean gain between targets, points": (spread_of_means, np.inf),
    "share of the variance of a gain that changes with the target, at most, %": (
        share_of_targets,
        100,
    ),
    "of this, a remainder that includes the chance of a test set, percentage points": (
        share_of_remainder,
        100,
    ),
}


def show(cells: Array, statistic: Callable[[Array], float], upper: float) -> str:
    """Return a statistic of gains as text, with its interval if there is one."""
    interval = over_targets(cells, statistic, upper)
    value = percent(interval.value)
    return f"{value} ({bounds(interval)})" if interval.decides else value


def make_sections() -> dict[str, str]:
    """Return the sections by name."""
    suite = suite_cards.read(SUITE)
    results = ResultFiles(ROOT).read_suite(SUITE)
    rows = results.frame
    gains = read_gains(rows)
    # Show the kinds of which a target ships. What other pages say of it should hold for its kind.
    shipped = set(backbone_cards.builtin_names())
    kinds = {}
    for title, upgrades in suite.groups.items():
        names = [path[-1] for path in upgrades]
        if not shipped.isdisjoint(names):
            kinds[title] = names
    collapsed = list_collapsed(gains[names] for names in kinds.values())
    steady = leave_out(gains, collapsed)
    heads = describe_targets(gains, kinds, results.methods, collapsed)
    statistics = show_statistics(steady, kinds)
    methods = show_methods(gains, kinds, results.methods)
    infos = {name: method.info for name, method in results.methods.items()}
    return {
        "targets": f"{heads}\n\n{statistics}\n\n{methods}",
        "anchoring": show_anchoring(gains, steady, read_zero_shot(rows), infos, collapsed),
    }


def describe_targets(
    gains: pd.DataFrame,
    kinds: Mapping[str, Sequence[str]],
    methods: Mapping[str, StoredMethod],
    collapsed: Sequence[str],
) -> str:
    """Return what was measured, and which methods collapse.

    Args:
        gains: the gains of copied modules in points, ``[(method, task), target]``.
        kinds: the targets of each kind of upgrade.
        methods: the methods of the suite.
        collapsed: the names of those that collapse on a kind of target.
    """
    measured = gains.index.get_level_values("method").nunique()
    tasks = gains.index.get_level_values("task").nunique()
    targets = " or ".join(dict.fromkeys(str(len(names)) for names in kinds.values()))
    titles = ", ".join(methods[name].info.title for name in collapsed)
    return (
        f"Suite `{SUITE}` has {measured} methods, {tasks} tasks, and {targets} targets of each "
        f"kind. {titles} collapse on at least one kind of target and would decide every mean, so "
        "the first table leaves them out. Intervals in brackets are over targets."
    )


def show_statistics(steady: pd.DataFrame, kinds: Mapping[str, Sequence[str]]) -> str:
    """Return the table of what one target says about another.

    Args:
        steady: the gains of copied modules in points, ``[(method, task), target]``, without the
            methods that collapse.
        kinds: the targets of each kind of upgrade.
    """
    header = ["One target and others of its kind"]
    columns = []
    for title, names in kinds.items():
        header.append(short_title(title))
        columns.append(to_cells(steady[names]))
    rows = []
    for description, statistic in STATISTICS.items():
        rows.append([description, *(show(cells, *statistic) for cells in columns)])
    return render_table(plain_table(header, rows))


def short_title(title: str) -> str:
    """Return the title of a kind of upgrade without its subject."""
    return title.removeprefix("The new model ")


def show_methods(
    gains: pd.DataFrame, kinds: Mapping[str, Sequence[str]], methods: Mapping[str, StoredMethod]
) -> str:
    """Return the table of the mean gain of each method, with its intervals.

    Args:
        gains: the gains of copied modules in points, ``[(method, task), target]``.
        kinds: the targets of each kind of upgrade.
        methods: the methods of the suite.
    """
    header = ["Mean gain, points"]
    columns = []
    for title, names in kinds.items():
        header += [short_title(title), "interval over tasks"]
        columns.append(list_gains(gains[names]))
    rows = []
    for name in columns[0]:
        row = [methods[name].info.title]
        for column in columns:
            row += column[name]
        rows.append(row)
    return render_table(plain_table(header, rows))


def list_gains(gains: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Return what each method gains on a kind of target.

    Args:
        gains: the gains, ``[(method, task), target]``.

    Returns:
        By method, the mean with its interval over targets, and the interval over tasks.
    """
    shown = {}
    for name, means in gains.groupby("method").mean().iterrows():
        gain = f"{signed(means.mean())} ({bounds(estimate(means), signed)})"
        by_task = gains.xs(str(name)).to_numpy().mean(axis=1)
        shown[str(name)] = (gain, bounds(estimate(by_task), signed))
    return shown


def group_methods(
    infos: Mapping[str, MethodInfo], collapsed: Iterable[str]
) -> dict[str, list[str]]:
    """Return the names of the methods of each kind; those that collapse are a separate kind."""
    kinds: dict[str, list[str]] = {}
    for name, info in infos.items():
        if info.learns and name not in collapsed:
            kinds.setdefault(anchoring.kind_of(info.inserts), []).append(name)
    ordered = {title: kinds[title] for title in sorted(kinds, reverse=True)}
    return {**ordered, "methods that collapse without the penalty": list(collapsed)}


def show_anchoring(
    gains: pd.DataFrame,
    steady: pd.DataFrame,
    zero_shot: pd.DataFrame,
    infos: Mapping[str, MethodInfo],
    collapsed: Sequence[str],
) -> str:
    """Return the answer on the penalty, and the table of its weights.

    Args:
        gains: the gains of copied modules in points, ``[(method, task), target]``.
        steady: the gains without the methods that collapse.
        zero_shot: the accuracy of zero-shot in percent, ``[task, target]``.
        infos: the methods by name.
        collapsed: the names of those that collapse.
    """
    prices = anchoring.price_weights(steady, zero_shot)
    best = anchoring.best_price(prices)
    best_of_all = anchoring.best_price(anchoring.price_weights(gains, zero_shot))
    assert best is not None
    assert best_of_all is not None
    assert best.weight == best_of_all.weight
    kinds = anchoring.compare_kinds(gains, group_methods(infos, collapsed), best.weight)
    answer = anchoring.answer(
        best,
        kinds,
        anchoring.levels_of(steady, best.weight),
        anchoring.levels_of(gains, best.weight),
    )
    rows = []
    for price in prices:
        row = [f"{price.weight:g}"]
        for change in (price.gain, price.zero_shot):
            row.append(f"{signed(change.value)} ({bounds(change, signed)})")
        row.append("yes" if price.keeps else "not shown")
        row.append("yes" if price.is_free else "not shown")
        rows.append(row)
    header = ["weight", "gain of copied modules, points", "zero-shot, points", "modules gain more"]
    header.append(f"zero-shot loses less than {anchoring.FREE:g}")
    table = render_table(plain_table(header, rows, left=(3, 4)))
    measured = count(steady.index.get_level_values("method").nunique(), "method")
    return f"**Answer.** {answer}\n\nOf the {measured} that do not collapse:\n\n{table}"
