"""Make the sections of docs/findings.md on Rosetta."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rosetta_overlap import COUNTS

import compatbench as cb
from compatbench.messages import count, join_words
from compatbench.results.estimate import Interval, estimate
from compatbench.results.ranking import rank_methods
from compatbench.results.ties import ALPHA, holm, paired_test
from compatbench.results.tuning_records import read_record, tuning_path
from compatbench.results.upgrade_rows import pair_rows, task_means
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import NOTHING, percent, with_bounds
from compatbench.tables.table import Table, TableCell, number, plain_table

REPOSITORY = Path(__file__).parents[2]
SOURCE = "mini-clip"
TARGETS = ("mini-eva-clip", "mini-eva-clip-anew")
OWN = ("rosetta", "words")
RIVAL = ("proker", "words")
# Its nearest rivals, the best methods of other kinds, and zero-shot.
BESIDE = ("proker", "tip_adapter", "gda", "contcoop", "zeroshot")

Option = tuple[str, str]  # a method and the transfer that it is ranked with


@dataclass(frozen=True)
class TargetResults:
    """The results on one target.

    Attributes:
        ranking: the ranking with a row for each option.
        h: H of each option on each task, seeds averaged.
    """

    ranking: pd.DataFrame
    h: pd.DataFrame

    def lead(self, other: Option, tasks: list[str] | None = None) -> Interval:
        """Return H of Rosetta minus that of another option, in points, over some or all tasks."""
        differences: Any = self.h.T[OWN] - self.h.T[other]
        if tasks is not None:
            differences = differences[tasks]
        interval = estimate(differences.to_numpy())
        assert interval is not None
        return interval


def read() -> list[TargetResults]:
    """Return the results on each target of suite ``mini``."""
    results = cb.results("mini", REPOSITORY)
    found = []
    for target in TARGETS:
        ranking, h = read_options(results, (SOURCE, target), "h")
        found.append(TargetResults(ranking, h))
    return found


def read_options(
    results: cb.Results, upgrade: tuple[str, str], column: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the ranking of all options, and a column of each option on each task."""
    shots = max(results.expected.shots)
    ranking = rank_methods(results.suite, results.expected, (upgrade,), shots)
    options = pd.MultiIndex.from_frame(ranking[["method", "ranked_with"]])
    means = task_means(pair_rows(results.suite, results.expected, upgrade, shots), column)
    means = means.reindex(ranking["module"]).set_axis(options, axis="index")
    return ranking.set_index(options), means


def compare(targets: list[TargetResults]) -> Table:
    """Return the table of Rosetta and other methods, copied and by words."""
    rows: list[list[TableCell | str]] = []
    for option in list_options():
        if option not in targets[0].ranking.index:
            continue
        method, transfer = option
        first: Any = targets[0].ranking.loc[option]
        row: list[TableCell | str] = [first["title"], transfer, settings_tried(method)]
        row.append(percent(first["source"]))
        for target in targets:
            of_option: Any = target.ranking.loc[option]
            row += [percent(of_option["target"]), percent(of_option["h"])]
            row.append(NOTHING if option == OWN else number(with_bounds(target.lead(option))))
        rows.append(row)
    header = ["Method", "Transfer", "Settings", "Source"]
    for target in TARGETS:
        header += [target, "H", "Rosetta's lead"]
    return plain_table(header, rows, left=(0, 1))


def describe_leads(targets: list[TargetResults]) -> str:
    """Return the sentence on the methods of the table that Rosetta is not significantly above."""
    compared: list[tuple[str, TargetResults, Option]] = []
    p_values = []
    for name, target in zip(TARGETS, targets, strict=True):
        others = [other for other in list_options() if other in target.h.index and other != OWN]
        compared += [(name, target, other) for other in others]
        p_values += paired_test(target.h.loc[[OWN, *others]])
    not_below: dict[str, list[str]] = {}
    for (name, target, other), p_value in zip(compared, holm(p_values), strict=True):
        if p_value >= ALPHA or target.lead(other).value < 0:
            title = target.ranking.loc[other, "title"]
            not_below.setdefault(name, []).append(f"{title} ({other[1]})")
    found = [f"{join_words(titles)} on `{name}`" for name, titles in not_below.items()]
    exceptions = f", except {'; '.join(found)}" if found else ""
    return (
        f"Its H is significantly higher than that of every method below{exceptions} (paired tests "
        f"over tasks, with Holm's correction over {count(len(compared), 'comparison')}). The "
        "intervals in the table are not corrected."
    )


def list_options() -> list[Option]:
    """Return the options of the table: Rosetta, then each other method copied and by words."""
    options: list[Option] = [OWN]
    for method in BESIDE:
        options += [(method, "copied"), (method, "words")]
    return options


def settings_tried(method: str) -> str:
    """Return the number of a method's settings that were compared on the development tasks."""
    record = tuning_path(REPOSITORY, "mini", method)
    if not record.is_file():
        return "1"
    return str(len(read_record(record).settings))


def describe_overlap(targets: list[TargetResults]) -> str:
    """Return the sentences on test drawings that were used, and the lead with and without them."""
    counts = pd.read_csv(COUNTS)
    names = "mini-" + counts["task"]
    tested = counts["tested"].sum()
    design = counts["in_design"].sum()
    held_out = counts["in_first_held_out"].sum()
    clean = counts["in_design"] == 0
    without = [with_bounds(target.lead(RIVAL, list(names[clean]))) for target in targets]
    others = [with_bounds(target.lead(RIVAL, list(names[~clean]))) for target in targets]
    return (
        f"Matched by icon set and class, {design} of the {tested:,} test drawings "
        f"({100 * design / tested:.0f} %) were in the tasks of the design. Another {held_out} "
        f"({100 * held_out / tested:.0f} %) were in the tasks that tested the first configuration. "
        "The nearest rival is ProKeR moved by words. On the two targets, Rosetta's lead over it is "
        f"{' and '.join(without)} on the {count(clean.sum(), 'task')} without design drawings, and "
        f"{' and '.join(others)} on the {count((~clean).sum(), 'other')}. So few tasks decide "
        "nothing, and the difference was not tested."
    )


def make_sections() -> dict[str, str]:
    """Return the sections by name."""
    targets = read()
    return {
        "rosetta": f"{describe_leads(targets)}\n\n{render_table(compare(targets))}",
        "overlap": describe_overlap(targets),
    }
