"""Make the section of docs/findings.md on classes that a module was not trained on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from method_kinds import group_methods, kind_of

import compatbench as cb
from compatbench.data.cards import COPIED
from compatbench.messages import count
from compatbench.results.estimate import Interval, estimate
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import with_bounds
from compatbench.tables.table import TableCell, code, number, plain_table

REPOSITORY = Path(__file__).parents[2]
SUITE = "mini-base-to-new"
OWN = "own"
OTHER = "other"
FORGOTTEN = "forgotten"


def make_sections(root: Path = REPOSITORY) -> dict[str, str]:
    """Return the table of what modules lose in an upgrade on own and on other classes."""
    results = cb.results(SUITE, root)
    losses = read_losses(results)
    header = ["Upgrade to", "Kind of method", "Methods"]
    header += ["lost on own classes", "lost on other classes", "forgotten"]
    rows: list[list[TableCell | str]] = []
    found: dict[str, list[Interval]] = {OWN: [], OTHER: [], FORGOTTEN: []}
    for target, of_target in losses.groupby("target", sort=False):
        for kind, methods in group_methods(of_target.index.unique("method")).items():
            of_kind = of_target[of_target.index.isin(methods, level="method")]
            by_task = of_kind[[OWN, OTHER, FORGOTTEN]].groupby("task").median()
            row: list[TableCell | str] = [code(str(target)), kind, str(len(methods))]
            for column, values in by_task.items():
                interval = estimate(values)
                assert interval is not None
                row.append(number(with_bounds(interval)))
                found[str(column)].append(interval)
            rows.append(row)
    tasks = count(len(results.expected.tasks), "task")
    seeds = count(results.frame["seed"].nunique(), "seed")
    head = (
        f"Suite `{SUITE}`, {tasks}, {seeds}. The "
        "median over the methods of a kind is taken on each task; the table has the means of these "
        "medians in points, with intervals over tasks."
    )
    table = render_table(plain_table(header, rows, left=(0, 1)))
    return {"new-classes-answer": describe_answer(found), "new-classes": f"{head}\n\n{table}"}


def describe_answer(found: dict[str, list[Interval]]) -> str:
    """Return the answer: on which classes kinds of methods lose significantly, and lose more.

    Args:
        found: of each column of the table, the intervals of all kinds and upgrades.
    """
    total = len(found[OWN])
    loses = {
        name: sum(interval.sign > 0 for interval in intervals) for name, intervals in found.items()
    }
    larger = f"in {loses[FORGOTTEN]} of {total} cases" if loses[FORGOTTEN] else "in no case"
    smaller = sum(interval.sign < 0 for interval in found[FORGOTTEN])
    return (
        "Modules were trained on half of the classes of each task. On these classes, the median "
        f"module loses a part of its gain in {loses[OWN]} of {total} cases (a kind of method and "
        f"an upgrade); on the other half, in {loses[OTHER]}. The loss is significantly larger on "
        f"the other half {larger}, and significantly smaller in {smaller} of {total}."
    )


def read_losses(results: cb.Results) -> pd.DataFrame:
    """Return what copied modules lose of their gain in an upgrade, by method and task, in points.

    Seeds are averaged. Methods that lack a result, such as those that cannot be used on other
    classes, are left out.

    Returns:
        ``own`` and ``other`` classes, ``forgotten`` (the second minus the first) and ``target``.
    """
    frame = results.frame
    frame = frame[(frame["transfer"] == COPIED) & (frame["status"] == "ok")]
    frame = frame[[kind_of(method) is not None for method in frame["method"]]]
    is_own = frame["test_set"] == frame["task"]
    frame = frame.assign(classes=is_own.map({True: OWN, False: OTHER}))
    gains = frame.pivot_table("gain", ["method", "task"], ["backbone", "classes"])
    parts = []
    for source, target in results.expected.upgrades:
        lost = gains[source] - gains[target]
        lost = lost.assign(forgotten=lost[OTHER] - lost[OWN], target=target)
        complete = lost["forgotten"].notna().groupby("method").transform("sum")
        parts.append(lost[complete == len(results.expected.tasks)])
    return pd.concat(parts)
