"""Make the comparisons of docs/rosetta.md from the committed results of suite ``mini``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pages import Page
from rosetta_overlap import COUNTS

import compatbench as cb
from compatbench.results.estimate import Interval, estimate
from compatbench.results.ranking import rank_methods
from compatbench.results.tuning_records import read_record, tuning_path
from compatbench.results.upgrade_rows import pair_rows, task_means
from compatbench.tables.numbers import NOTHING, percent, signed
from compatbench.tables.table import Table, TableCell, number, plain_table

REPOSITORY = Path(__file__).parents[2]
SOURCE = "mini-clip"
TARGETS = ("mini-eva-clip", "mini-eva-clip-anew")
OWN = ("rosetta", "words")
RIVAL = ("proker", "words")
# Its nearest rivals, the best methods of other kinds, and zero-shot.
BESIDE = ("proker", "tip_adapter", "tip_adapter_f", "taskres", "gda", "contcoop", "zeroshot")

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
    """Return the results on each target."""
    results = cb.results("mini", REPOSITORY)
    shots = max(results.expected.shots)
    found = []
    for target in TARGETS:
        upgrade = (SOURCE, target)
        ranking = rank_methods(results.suite, results.expected, (upgrade,), shots)
        options = pd.MultiIndex.from_frame(ranking[["method", "ranked_with"]])
        h = task_means(pair_rows(results.suite, results.expected, upgrade, shots), "h")
        h = h.reindex(ranking["module"]).set_axis(options, axis="index")
        found.append(TargetResults(ranking.set_index(options), h))
    return found


def show_lead(lead: Interval) -> str:
    """Return ``+1.0 [-0.1, +2.0]``."""
    return f"{signed(lead.value)} [{signed(lead.low)}, {signed(lead.high)}]"


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


def show_overlap(targets: list[TargetResults]) -> Table:
    """Return the table of test drawings that were used before, and the lead over ProKeR by task."""
    counts = pd.read_csv(COUNTS)
    counts["name"] = "mini-" + counts["task"]
    clean = counts["in_design"] == 0
    rows = []
    for name, part in counts.groupby("task", sort=False):
        rows.append([str(name), *_show_counts(part), *_show_leads(targets, part)])
    for title, part in (
        ("without design drawings", counts[clean]),
        ("with design drawings", counts[~clean]),
        ("all", counts),
    ):
        title = f"{len(part)} tasks {title}" if title != "all" else f"all {len(part)} tasks"
        rows.append([title, *_show_counts(part), *_show_leads(targets, part)])
    header = ["Task", "Test drawings", "in design tasks", "in the first held-out tasks"]
    header += [f"lead, {target}" for target in TARGETS]
    return plain_table(header, rows, left=(0,))


def _show_counts(part: pd.DataFrame) -> list[str]:
    return [str(part[name].sum()) for name in ("tested", "in_design", "in_first_held_out")]


def _show_leads(targets: list[TargetResults], part: pd.DataFrame) -> list[TableCell | str]:
    leads: list[TableCell | str] = []
    for target in targets:
        lead = target.lead(RIVAL, list(part["name"]))
        leads.append(number(show_lead(lead) if lead.bounded else signed(lead.value)))
    return leads


def describe_overlap(targets: list[TargetResults]) -> str:
    """Return the sentences on the lead over ProKeR with and without design drawings."""
    counts = pd.read_csv(COUNTS)
    names = "mini-" + counts["task"]
    clean = counts["in_design"] == 0
    without = [target.lead(RIVAL, list(names[clean])).value for target in targets]
    others = [target.lead(RIVAL, list(names[~clean])).value for target in targets]
    pairs = zip(without, others, strict=True)
    order = "larger" if all(one > other for one, other in pairs) else "not larger"
    return (
        f"Neither {clean.sum()} nor {(~clean).sum()} tasks decide anything. The mean lead "
        f"is {order} on the tasks without design drawings "
        f"({' and '.join(map(signed, without))} against "
        f"{' and '.join(map(signed, others))}), but the difference was not tested."
    )


def make_page() -> Page:
    """Return the tables of the page, and the sentences on the tasks with design drawings."""
    targets = read()
    return Page(
        {
            "beside": compare(targets),
            "overlap": show_overlap(targets),
            "design": describe_overlap(targets),
        }
    )
