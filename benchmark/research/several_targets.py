"""Make the sections of docs/findings.md on several targets of a kind, and on anchoring."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import anchoring
import numpy as np
import pandas as pd
from method_kinds import group_methods
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

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.messages import conjugate, count, join_words
from compatbench.results.estimate import Array, estimate
from compatbench.results.result_files import ResultFiles
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import NOTHING, bounds, percent, signed, with_bounds
from compatbench.tables.table import TableCell, number, plain_table

ROOT = Path(__file__).parents[2]
SUITE = "mini-upgrades"
# The name of a target without anything special in its training, and its kind of upgrade.
PLAIN = re.compile(r".+-eva(?:-clip)?(-anew)?(?:-\d+)?")
KINDS = {None: "keeps the old embedding space", "-anew": "has a new embedding space"}
Targets = Mapping[str, Sequence[str]]  # of a kind of upgrade, by source
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
    return f"{value} ({bounds(interval)})" if interval.bounded else value


def make_sections() -> dict[str, str]:
    """Return the sections by name."""
    suite = suite_cards.read(SUITE)
    results = ResultFiles(ROOT).read_suite(SUITE)
    gains = read_gains(results.frame)
    kinds = find_kinds(suite)
    collapsed = list_collapsed(gains[list_targets(of_kind)] for of_kind in kinds.values())
    titles = {name: method.info.title for name, method in results.methods.items()}
    steady = leave_out(gains, collapsed)
    heads = describe_targets(gains, kinds, titles, collapsed)
    tables = [show_statistics(steady, kinds), *show_methods(gains, kinds, titles)]
    groups = group_by_kind(gains, collapsed, titles)
    values = anchoring.group_values(gains, read_zero_shot(results.frame), groups)
    trainings = anchoring.find_trainings(suite.upgrades)
    return {
        "targets-answer": describe_statistics(steady, kinds),
        "targets": "\n\n".join([heads, *tables]),
        "anchoring-answer": anchoring.describe_trainings(values, trainings),
        "anchoring": "\n\n".join(filter(None, show_anchoring(values, trainings))),
    }


def find_kinds(suite: SuiteCard) -> Mapping[str, Targets]:
    """Return the targets of each kind of upgrade that differ only in their source and seed."""
    kinds: dict[str, dict[str, list[str]]] = {}
    for path in suite.upgrades:
        plain = PLAIN.fullmatch(path[-1])
        if plain is not None:
            of_kind = kinds.setdefault(KINDS[plain[1]], {})
            of_kind.setdefault(path[0], []).append(path[-1])
    return kinds


def list_targets(of_kind: Targets) -> list[str]:
    """Return the targets of a kind of upgrade, of one source after the other."""
    return [target for targets in of_kind.values() for target in targets]


def describe_targets(
    gains: pd.DataFrame,
    kinds: Mapping[str, Targets],
    titles: Mapping[str, str],
    collapsed: Sequence[str],
) -> str:
    """Return what was measured, and which methods collapse.

    Args:
        gains: the gains of copied modules in points, ``[(method, task), target]``.
        kinds: the targets of each kind of upgrade and source.
        titles: of the methods.
        collapsed: the names of those that collapse on a kind of target.
    """
    measured = gains.index.get_level_values("method").nunique()
    tasks = gains.index.get_level_values("task").nunique()
    numbers = [len(list_targets(of_kind)) for of_kind in kinds.values()]
    sources = max(len(of_kind) for of_kind in kinds.values())
    text = (
        f"Suite `{SUITE}` has {count(measured, 'method')}, {count(tasks, 'task')}, and "
        f"{count_targets(numbers)} of each kind, from {count(sources, 'source')}. "
    )
    if collapsed:
        names = join_words([titles[name] for name in collapsed])
        text += (
            f"{names} {conjugate(len(collapsed), 'collapse')} on at least one kind of target and "
            "would decide every mean, so the first table leaves "
            f"{'it' if len(collapsed) == 1 else 'them'} out. "
        )
    return text + (
        "Intervals in brackets are over targets. A share that is 0, or becomes 0 without one of "
        "the targets, has no interval."
    )


def count_targets(numbers: Iterable[int]) -> str:
    """Return ``6 targets``, or ``1 or 6 targets`` if the numbers differ."""
    *fewer, most = sorted(set(numbers))
    return " or ".join([*map(str, fewer), count(most, "target")])


def show_statistics(steady: pd.DataFrame, kinds: Mapping[str, Targets]) -> str:
    """Return the table of what one target says about another, and of what one source says.

    Args:
        steady: the gains of copied modules in points, ``[(method, task), target]``, without the
            methods that collapse.
        kinds: the targets of each kind of upgrade and source.
    """
    columns = {title: to_cells(steady[list_targets(of_kind)]) for title, of_kind in kinds.items()}
    rows = []
    for description, statistic in STATISTICS.items():
        rows.append([description, *(show(cells, *statistic) for cells in columns.values())])
    header = ["One target and others of its kind", *columns]
    table = render_table(plain_table(header, rows))
    if all(len(of_kind) > 1 for of_kind in kinds.values()):
        table += "\n\n" + show_sources(steady, kinds)
    return table


def describe_statistics(steady: pd.DataFrame, kinds: Mapping[str, Targets]) -> str:
    """Return the answer: how often orders are reversed, and how far mean gains differ.

    Args:
        steady: as for ``show_statistics``.
        kinds: as for ``show_statistics``.
    """
    lines = []
    for title, of_kind in kinds.items():
        cells = to_cells(steady[list_targets(of_kind)])
        lines.append(
            f"* *{title}*: of the pairs of methods that differ significantly on one target, "
            f"{percent(reversed_orders(cells))} % have the opposite order on another. The standard "
            f"deviation of a method's mean gain between targets is "
            f"{percent(spread_of_means(cells))} points."
        )
    sources = max(len(of_kind) for of_kind in kinds.values())
    if sources == 1:
        lines.append("* All targets have the same source, so other sources may differ.")
    for title, of_kind in kinds.items():
        if len(of_kind) > 1:
            cells = average_targets(steady, of_kind)
            lines.append(
                f"* *{title}*, between sources: {percent(reversed_orders(cells))} % of such pairs "
                "have the opposite order, and the standard deviation of a method's mean gain is "
                f"{percent(spread_of_means(cells))} points."
            )
    return "\n".join(lines)


def average_targets(gains: pd.DataFrame, of_kind: Targets) -> Array:
    """Return gains with the targets of a source averaged, ``[methods, tasks, sources]``."""
    means = {source: gains[names].mean(axis="columns") for source, names in of_kind.items()}
    return to_cells(pd.DataFrame(means))


def show_sources(steady: pd.DataFrame, kinds: Mapping[str, Targets]) -> str:
    """Return the table of what one source says about another; targets are averaged.

    So few sources have no interval.
    """
    rows: dict[str, list[str]] = {}
    for of_kind in kinds.values():
        cells = average_targets(steady, of_kind)
        differences = abs(cells.mean(axis=1)[:, 1] - cells.mean(axis=1)[:, 0])
        statistics = {
            "pairs of methods that differ significantly on one source: opposite order on "
            "another, %": reversed_orders(cells),
            "gains that are significant on one source: opposite sign on another, %": reversals(
                cells
            ),
            "difference of a method's mean gain between the first two sources, points: median": (
                float(np.median(differences))
            ),
            "the same, largest": float(differences.max()),
        }
        for description, value in statistics.items():
            shown = NOTHING if np.isnan(value) else percent(value)
            rows.setdefault(description, []).append(shown)
    header = ["One source and another", *kinds]
    return render_table(plain_table(header, [[name, *values] for name, values in rows.items()]))


def show_methods(
    gains: pd.DataFrame, kinds: Mapping[str, Targets], titles: Mapping[str, str]
) -> list[str]:
    """Return a table for each kind of upgrade: the mean gain of each method, with its intervals.

    Args:
        gains: the gains of copied modules in points, ``[(method, task), target]``.
        kinds: the targets of each kind of upgrade and source.
        titles: of the methods.
    """
    tables = []
    for title, of_kind in kinds.items():
        targets = list_targets(of_kind)
        header = [f"Mean gain, points: {title}"]
        header += [f"mean of {count(len(targets), 'target')}", "interval over tasks"]
        if len(of_kind) > 1:
            header += [f"from {source}" for source in of_kind]
            header.append("second source minus first, interval over tasks")
        rows = []
        for name in gains.index.unique("method"):
            of_method = gains.loc[name, targets]
            row: list[TableCell | str] = [titles[name]]
            row.append(number(with_bounds(estimate(of_method.mean()))))
            row.append(number(bounds(estimate(of_method.mean(axis="columns")), signed)))
            if len(of_kind) > 1:
                by_task = [
                    of_method[of_source].mean(axis="columns") for of_source in of_kind.values()
                ]
                row += [number(signed(mean.mean())) for mean in by_task]
                row.append(number(with_bounds(estimate(by_task[1] - by_task[0]))))
            rows.append(row)
        tables.append(render_table(plain_table(header, rows)))
    return tables


def group_by_kind(
    gains: pd.DataFrame, collapsed: Sequence[str], titles: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return the names of the methods of each kind; those that collapse are a separate group."""
    names = list(gains.index.unique("method"))
    steady = [name for name in names if name not in collapsed]
    groups = group_methods(steady)
    groups[f"mean of these {len(steady)} methods"] = steady
    if collapsed:
        shown = ", ".join(titles[name] for name in collapsed)
        groups[f"methods that collapse without it ({shown})"] = list(collapsed)
    return groups


def show_anchoring(
    values: Mapping[str, pd.DataFrame], trainings: Mapping[str, Sequence[anchoring.Pair]]
) -> list[str]:
    """Return the tables on trainings that should keep old modules."""
    pairs = [len(of_training) for of_training in trainings.values()]
    sources = {pair.source for of_training in trainings.values() for pair in of_training}
    head = (
        f"Each training has {count_targets(pairs)}, from {count(len(sources), 'source')}. Each is "
        "compared with the target of the same source and seed that was trained without it. "
        "Intervals in brackets are over tasks."
    )
    return [
        head,
        anchoring.show_changes(values, trainings),
        anchoring.show_levels(values, trainings),
        anchoring.show_baseline(values, trainings),
    ]
