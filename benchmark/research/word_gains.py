"""Make the section of docs/findings.md on the transfer ``words``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from method_kinds import group_methods, kind_of
from target_kinds import FEWEST_TARGETS

import compatbench as cb
from compatbench.data.cards import COPIED, suite_cards
from compatbench.messages import count, count_are
from compatbench.results.estimate import Interval, estimate
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import NOTHING, signed, with_bounds
from compatbench.tables.table import TableCell, code, number, plain_table

REPOSITORY = Path(__file__).parents[2]
SUITE = "mini"
WORDS = "words"
FIRST_TARGET = "mini-eva-clip-anew"  # the answer is about it, and it orders the methods
ALL = "all of these methods"


def make_sections(root: Path = REPOSITORY) -> dict[str, str]:
    """Return the answer with the table by kind of method, and the table of all methods."""
    results = cb.results(SUITE, root)
    gains = read_gains(results)
    titles = {info.name: info.title for info in results.suite.infos}
    kinds = {target: title for title, path in list_targets() for target in path}
    measured = [target for target in kinds if target in gains.columns]
    gains = gains[measured]
    return {
        "words-answer": describe_answer(gains),
        "words-kinds": show_kinds(gains, {target: kinds[target] for target in measured}),
        "words": show_methods(gains, titles) + "\n\n" + describe_targets(gains, titles),
    }


def list_targets() -> list[tuple[str, tuple[str, ...]]]:
    """Return the targets of the suite under the title of their kind of upgrade."""
    groups = suite_cards.read(SUITE).groups
    return [(title, tuple(path[-1] for path in paths)) for title, paths in groups.items()]


def read_gains(results: cb.Results) -> pd.DataFrame:
    """Return gains over zero-shot in points, ``[(transfer, method, task), target]``.

    Seeds are averaged. A method is there if it trains a module and was measured with both
    transfers on every task, with every seed. On a target that was not measured, its gains are NaN;
    a target without any gain is left out.
    """
    frame = results.frame
    rows = frame[
        frame["transfer"].isin([COPIED, WORDS])
        & frame["task"].isin(results.expected.tasks)
        & (frame["task"] == frame["test_set"])
        & (frame["backbone"] != frame["source"])
    ]
    both = set(rows.loc[rows["transfer"] == WORDS, "method"])
    both &= set(rows.loc[rows["transfer"] == COPIED, "method"])
    rows = rows[[method in both and kind_of(method) is not None for method in rows["method"]]]
    by_seed = rows.groupby(["transfer", "method", "task", "backbone"])["gain"]
    has_every_seed = by_seed.count() == len(results.expected.seeds)
    table = by_seed.mean().where(has_every_seed).unstack("backbone")
    both_transfers = table.loc[COPIED].notna() & table.loc[WORDS].notna()
    complete = both_transfers.groupby("method").transform("all")
    known = table.where(pd.concat({COPIED: complete, WORDS: complete}, names=["transfer"]))
    return known.dropna(axis="columns", how="all")


def mean_by_task(gains: pd.DataFrame, methods: Sequence[str], target: str) -> pd.DataFrame:
    """Return the mean over methods on one target, ``[task, transfer]``."""
    of_target = gains[target].dropna()
    chosen = of_target[of_target.index.isin(methods, level="method")]
    return chosen.groupby(["task", "transfer"]).mean().unstack("transfer")


def compare(means: pd.DataFrame) -> dict[str, Interval | None]:
    """Return the gain copied, the gain through words, and their difference.

    Args:
        means: ``[unit, transfer]``; intervals are over the units.
    """
    return {
        COPIED: estimate(means[COPIED]),
        WORDS: estimate(means[WORDS]),
        "difference": estimate(means[WORDS] - means[COPIED]),
    }


def methods_on(gains: pd.DataFrame, target: str) -> list[str]:
    """Return the methods that were measured on a target."""
    return list(dict.fromkeys(gains[target].dropna().index.get_level_values("method")))


def methods_on_all(gains: pd.DataFrame) -> list[str]:
    """Return the methods that were measured on every target."""
    return list(gains.dropna().index.unique("method"))


def show_kinds(gains: pd.DataFrame, kinds: dict[str, str]) -> str:
    """Return the table of mean gains by kind of method and target.

    A mean of targets is over the methods that all targets have.

    Args:
        gains: as from ``read_gains``.
        kinds: the kind of upgrade of each target.
    """
    rows: list[list[TableCell | str]] = []
    for target in gains.columns:
        methods = methods_on(gains, target)
        for kind, of_kind in {**group_methods(methods), ALL: methods}.items():
            means = mean_by_task(gains, of_kind, target)
            rows.append([code(target), kind, str(len(of_kind)), *show(compare(means))])
    targets = len(gains.columns)
    if targets >= FEWEST_TARGETS:
        methods = methods_on_all(gains)
        for kind, of_kind in {**group_methods(methods), ALL: methods}.items():
            means = pd.DataFrame(
                {target: mean_by_task(gains, of_kind, target).mean() for target in gains.columns}
            ).T
            cells = show(compare(means))
            title = f"mean of {targets} targets, interval over targets"
            rows.append([title, kind, str(len(of_kind)), *cells])
    header = ["Target", "Kind of method", "Methods", "copied", "through words", "difference"]
    table = render_table(plain_table(header, rows, left=(0, 1)))
    notes = [f"`{target}`: {title[:1].lower()}{title[1:]}" for target, title in kinds.items()]
    note = f"{'; '.join(notes)}."
    if targets >= FEWEST_TARGETS:
        note += " A mean of targets is over the methods that all of them have."
    return f"{table}\n\n{note}"


def show(compared: dict[str, Interval | None]) -> list[TableCell]:
    """Return the cells of a comparison."""
    return [number(with_bounds(interval)) for interval in compared.values()]


def describe_answer(gains: pd.DataFrame) -> str:
    """Return the answer: the mean gain of all methods on the first target."""
    methods = methods_on(gains, FIRST_TARGET)
    compared = compare(mean_by_task(gains, methods, FIRST_TARGET))
    copied = with_bounds(compared[COPIED])
    words = with_bounds(compared[WORDS])
    difference = with_bounds(compared["difference"])
    return (
        f"On `{FIRST_TARGET}`, whose embedding space is new, the mean gain over zero-shot of "
        f"{count(len(methods), 'method')} is {copied} points when modules are copied and {words} "
        f"through words. The difference is {difference} points. Intervals are over tasks."
    )


def show_methods(gains: pd.DataFrame, titles: dict[str, str]) -> str:
    """Return the table of all methods: the difference between words and copied on each target."""
    columns = {target: list_differences(gains, target) for target in gains.columns}
    first = columns[FIRST_TARGET]
    header = ["Method", f"gain on {FIRST_TARGET}, copied → words"]
    header += [f"difference on {target}" for target in columns]
    rows = []
    for method in sorted(first, key=lambda name: -first[name].value):
        means = mean_by_task(gains, [method], FIRST_TARGET).mean()
        values = f"{signed(means[COPIED])} → {signed(means[WORDS])}"
        row: list[TableCell | str] = [titles[method], number(values)]
        for differences in columns.values():
            shown = with_bounds(differences[method]) if method in differences else NOTHING
            row.append(number(shown))
        rows.append(row)
    return render_table(plain_table(header, rows))


def list_differences(gains: pd.DataFrame, target: str) -> dict[str, Interval]:
    """Return what words gain over copied modules on a target, by method."""
    differences = {}
    for method in methods_on(gains, target):
        interval = compare(mean_by_task(gains, [method], target))["difference"]
        if interval is not None:
            differences[method] = interval
    return differences


def describe_targets(gains: pd.DataFrame, titles: dict[str, str]) -> str:
    """Return a line for each target: how many intervals exclude 0, and who ends above zero-shot."""
    lines = []
    for target in gains.columns:
        differences = list_differences(gains, target)
        signs = [interval.sign for interval in differences.values()]
        ends: dict[int, list[str]] = {1: [], 0: [], -1: []}
        for method in differences:
            interval = compare(mean_by_task(gains, [method], target))[WORDS]
            assert interval is not None
            ends[interval.sign].append(titles[method])
        lines.append(
            f"* `{target}`: of {count(len(signs), 'method')}, words are significantly better than "
            f"copying for {signs.count(1)} and worse for {signs.count(-1)}. Through words, "
            f"{count_are(len(ends[1]), 'method')} above zero-shot{_name(ends[1])}, and "
            f"{len(ends[-1])} below{_name(ends[-1])}."
        )
    return "\n".join(lines)


def _name(titles: list[str]) -> str:
    return f" ({', '.join(titles)})" if titles else ""
