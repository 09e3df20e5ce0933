"""Make the sections of docs/findings.md on the transfer ``words`` and on Rosetta."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rosetta_overlap import COUNTS

import compatbench as cb
from compatbench.results.estimate import Interval, estimate
from compatbench.results.ranking import rank_methods
from compatbench.results.tuning_records import read_record, tuning_path
from compatbench.results.upgrade_rows import pair_rows, task_means
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import NOTHING, bounds, percent, signed
from compatbench.tables.table import Table, TableCell, number, plain_table

REPOSITORY = Path(__file__).parents[2]
SOURCE = "mini-clip"
TARGETS = ("mini-eva-clip", "mini-eva-clip-anew")
OWN = ("rosetta", "words")
RIVAL = ("proker", "words")
# Its nearest rivals, the best methods of other kinds, and zero-shot.
BESIDE = ("proker", "tip_adapter", "gda", "contcoop", "zeroshot")

# The suites and targets of the table on ``words``, and the target that orders its rows.
WORD_UPGRADES = (
    ("mini", "mini-eva-clip-anew"),
    ("mini", "mini-eva-clip"),
    ("mini-no-lineage", "mini-clip-other"),
)
ORDERED_BY = "mini-eva-clip-anew"

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


def show_lead(lead: Interval) -> str:
    """Return ``+1.0 (-0.1 to +2.0)``."""
    return f"{signed(lead.value)} ({bounds(lead, signed)})"


def compare(targets: list[TargetResults]) -> Table:
    """Return the table of Rosetta and other methods, copied and by words."""
    options = [OWN]
    for method in BESIDE:
        options += [(method, "copied"), (method, "words")]
    rows: list[list[TableCell | str]] = []
    for option in options:
        if option not in targets[0].ranking.index:
            continue
        method, transfer = option
        first: Any = targets[0].ranking.loc[option]
        row: list[TableCell | str] = [first["title"], transfer, settings_tried(method)]
        row.append(percent(first["source"]))
        for target in targets:
            of_option: Any = target.ranking.loc[option]
            row += [percent(of_option["target"]), percent(of_option["h"])]
            row.append(NOTHING if option == OWN else number(show_lead(target.lead(option))))
        rows.append(row)
    header = ["Method", "Transfer", "Settings", "Source"]
    for target in TARGETS:
        header += [target, "H", "Rosetta's lead"]
    return plain_table(header, rows, left=(0, 1))


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
    without = [show_lead(target.lead(RIVAL, list(names[clean]))) for target in targets]
    others = [show_lead(target.lead(RIVAL, list(names[~clean]))) for target in targets]
    return (
        f"Matched by icon set and class, {design} of the {tested:,} test drawings "
        f"({100 * design / tested:.0f} %) were in the tasks of the design. Another {held_out} "
        f"({100 * held_out / tested:.0f} %) were in the tasks that tested the first configuration. "
        "The nearest rival is ProKeR moved by words. On the two targets, Rosetta's lead over it is "
        f"{' and '.join(without)} on the {clean.sum()} tasks without design drawings, and "
        f"{' and '.join(others)} on the {(~clean).sum()} others. So few tasks decide nothing, and "
        "the difference was not tested."
    )


def show_word_gains() -> str:
    """Return the table of what ``words`` adds to the accuracy of copied modules."""
    gains = {}
    accuracies = {}
    names: dict[Any, str] = {}
    for suite, target in WORD_UPGRADES:
        results = cb.results(suite, REPOSITORY)
        ranking, accuracy = read_options(results, (SOURCE, target), "target")
        gains[target] = list_word_gains(accuracy)
        accuracies[target] = accuracy.mean(axis=1)
        names |= ranking["title"].droplevel("ranked_with").to_dict()
    first = gains[ORDERED_BY]
    rows = []
    for method in sorted(first, key=lambda name: -first[name].value):
        copied = accuracies[ORDERED_BY][method, "copied"]
        moved = accuracies[ORDERED_BY][method, "words"]
        row: list[TableCell | str] = [names[method]]
        row.append(number(f"{percent(copied)} → {percent(moved)}"))
        for of_target in gains.values():
            row.append(number(show_gain(of_target.get(method))))
        rows.append(row)
    header = ["Method", f"accuracy on {ORDERED_BY}, copied → words"]
    header += [f"gain on {target}" for target in gains]
    return render_table(plain_table(header, rows))


def list_word_gains(accuracy: pd.DataFrame) -> dict[str, Interval]:
    """Return the gain of ``words`` over copied modules by method, with intervals over tasks.

    Args:
        accuracy: the accuracy on the target of each option, ``[(method, transfer), task]``.
    """
    gains = {}
    for method in dict.fromkeys(accuracy.index.get_level_values("method")):
        if (method, "copied") not in accuracy.index or (method, "words") not in accuracy.index:
            continue
        by_task: Any = accuracy.T[method, "words"] - accuracy.T[method, "copied"]
        interval = estimate(by_task.to_numpy())
        if interval is not None:
            gains[method] = interval
    return gains


def show_gain(gain: Interval | None) -> str:
    """Return ``+7.1 (+3.4 to +10.8)``; a dash if it was not measured."""
    if gain is None:
        return NOTHING
    return f"{signed(gain.value)} ({bounds(gain, signed)})"


def make_sections() -> dict[str, str]:
    """Return the sections by name."""
    targets = read()
    return {
        "words": show_word_gains(),
        "rosetta": render_table(compare(targets)),
        "overlap": describe_overlap(targets),
    }
