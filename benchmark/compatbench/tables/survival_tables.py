"""The first answer for owners of a module: does it survive the upgrade?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.messages import conjugate, count, lower_first, one_line
from compatbench.results.expected import Upgrade
from compatbench.results.survival import (
    VERDICTS,
    WELL_KNOWN,
    count_after_correction,
    judge_survival,
)
from compatbench.results.upgrade_rows import task_means
from compatbench.tables.numbers import NOTHING, signed, with_interval
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import (
    Column,
    Table,
    TableCell,
    make_table,
    number,
    records,
    sentence,
    text,
)

# The head of a row of modules.
_HEADS = {
    "gains": "gains over zero-shot",
    "cannot tell": "we cannot tell",
    "loses": "loses: drop it",
    "cannot be attached": "cannot be attached",
    "not ranked": "not ranked",
    "not measured": "not measured",
}
_ORDINALS = ("first", "second", "third")


def has_survival(page: SuitePage) -> bool:
    """Return True for a suite that names the kind of each upgrade and has results."""
    return bool(page.results.methods and page.kinds)


def read_survival(page: SuitePage, more: bool = False) -> pd.DataFrame:
    """Return the verdict on each untouched module, for each kind of upgrade of a suite.

    Kinds of several upgrades are left out. See ``judge_survival`` for the columns.

    Args:
        more: the kinds that only the suite's own page shows, instead of the leaderboard's.
    """
    rankings = {}
    for kind, upgrade in _shown_kinds(page, more).items():
        rankings[kind] = page.ranking(upgrade, page.most_shots)
    return judge_survival(rankings)


def count_survivors(page: SuitePage, more: bool = False) -> dict[str, dict[str, int]]:
    """Return the number of modules with each verdict, and of ``all``, for each kind of upgrade.

    Methods that read a list of words when they are attached are not counted, because their modules
    are not untouched; nor are those that the suite does not rank. ``gains corrected`` and ``loses
    corrected`` are after Holm's correction over all ``attached`` modules.

    Args:
        more: as for ``read_survival``.
    """
    kinds = _shown_kinds(page, more)
    if not kinds:
        return {}
    frame = read_survival(page, more)
    not_counted = frame["with_words"] | frame["verdict"].isin(["not measured", "not ranked"])
    frame = frame[~not_counted]
    counts = {}
    for kind in frame["kind"].unique():
        verdicts = frame.loc[frame["kind"] == kind, "verdict"]
        counts[kind] = {verdict: int((verdicts == verdict).sum()) for verdict in VERDICTS}
        counts[kind]["all"] = len(verdicts)
        counts[kind] |= _count_corrected(page, kinds[kind])
    return counts


def _shown_kinds(page: SuitePage, more: bool) -> dict[str, Upgrade]:
    """Return the kinds that the leaderboard shows, or those that only the suite's page shows."""
    return page.more_kinds if more else page.kinds


def describe_counts(page: SuitePage) -> str:
    """Return in words what ``count_survivors`` counts, and what it does not count and why."""
    counts = count_survivors(page)
    cases = []
    for kind, of_kind in counts.items():
        gain = _count_modules(of_kind["gains"], "gain")
        lose = _count_modules(of_kind["loses"], "lose")
        refused = of_kind["cannot be attached"]
        condition = f"if {lower_first(one_line(kind))}"
        cases.append(f"{gain}, {lose} and {refused} cannot be attached {condition}")
    modules = max((of_kind["all"] for of_kind in counts.values()), default=0)
    return (
        f"Of {count(modules, 'module')} copied unchanged, {'; '.join(cases)}. For the others we "
        "cannot tell. Each verdict rests on one 95 % interval over "
        f"{count(len(page.expected.tasks), 'task')}. After Holm's correction for the number of "
        f"modules, {_describe_corrected(list(counts.values()))}.{_describe_not_counted(page)}"
    )


def _count_modules(number: int, verb: str) -> str:
    """Return ``7 gain``, ``1 gains`` or ``none gains``."""
    return f"{number or 'none'} {conjugate(max(number, 1), verb)}"


def _describe_corrected(counts: Sequence[Mapping[str, int]]) -> str:
    """Return how many modules still gain and lose in each case."""
    parts = []
    for place, of_kind in enumerate(counts):
        gain = _count_modules(of_kind["gains corrected"], "gain")
        lose = _count_modules(of_kind["loses corrected"], "lose")
        ordinal = _ORDINALS[place] if place < len(_ORDINALS) else f"{place + 1}th"
        where = f" in the {ordinal} case" if len(counts) > 1 else ""
        parts.append(f"{gain} and {lose}{where}")
    return "; ".join(parts)


def _describe_not_counted(page: SuitePage) -> str:
    """Return the sentence on methods that are listed but not counted; empty if there are none."""
    reasons = {}
    for row in records(read_survival(page)):
        if row["verdict"] == "not ranked":
            reasons[one_line(row["title"])] = one_line(row["unranked"])
        elif row["with_words"] and row["verdict"] != "not measured":
            reasons[one_line(row["title"])] = "it also reads a list of words"
    if not reasons:
        return ""
    named = [f"{title} ({reason})" for title, reason in reasons.items()]
    return f" Listed but not counted: {'; '.join(named)}."


def _count_corrected(page: SuitePage, upgrade: Upgrade) -> dict[str, int]:
    """Return how many modules are attached, and still gain or lose after Holm's correction."""
    ranking = page.ranking(upgrade, page.most_shots)
    untouched = (ranking["ranked_with"] == COPIED) & ranking["learns"] & ~ranking["sees_tests"]
    counted = untouched & (ranking["state"] != "not ranked") & ranking["gain"].notna()
    modules = ranking.loc[counted, "module"]
    gains = task_means(page.upgrade_rows(upgrade, page.most_shots), "gain").loc[modules]
    gain, lose = count_after_correction(gains)
    return {"attached": len(gains), "gains corrected": gain, "loses corrected": lose}


def survival_table(page: SuitePage) -> Table:
    """Return a row for each verdict with its methods by title; a column for each kind."""
    frame = read_survival(page)
    kinds = list(frame["kind"].unique())
    rows = []
    for verdict in VERDICTS:
        row: dict[str, Any] = {"verdict": number(_HEADS[verdict]).bold()}
        of_verdict = frame[frame["verdict"] == verdict]
        for kind in kinds:
            entries = [_entry(each) for each in _records(of_verdict, kind)]
            row[kind] = _list(entries)
        if len(of_verdict):
            rows.append(row)
    columns = [Column("verdict", "The module", left=True)]
    columns += [Column(kind, kind, left=True) for kind in kinds]
    return make_table(columns, rows)


def _records(frame: pd.DataFrame, kind: str) -> list[dict[str, Any]]:
    return records(frame[frame["kind"] == kind])


def _list(entries: list[TableCell]) -> TableCell:
    """Return the entries, which may contain commas, with dots between them, or a dash."""
    if not entries:
        return number(NOTHING)
    parts: list[str | TableCell] = [entries[0]]
    for entry in entries[1:]:
        parts += [" · ", entry]
    return sentence(*parts)


def _entry(row: Mapping[str, Any]) -> TableCell:
    """Return a method with its gain, such as ``CoOp -15.8``; a well-known one is in bold."""
    title = text(row["title"])
    parts: list[str | TableCell] = [title.bold() if row["method"] in WELL_KNOWN else title]
    if row["with_words"]:
        parts.append(" with words")
    if row["gain"] is not None:
        # A name and its gain stay on one line.
        parts.append(f"\N{NO-BREAK SPACE}{signed(row['gain'])}")
    return sentence(*parts)


def survival_by_method(page: SuitePage, more: bool = False) -> Table:
    """Return a row for each method with the verdict, the gain and its interval for each kind.

    Args:
        more: as for ``read_survival``.
    """
    frame = read_survival(page, more)
    kinds = list(frame["kind"].unique())
    rows: dict[str, dict[str, Any]] = {}
    for each in records(frame):
        row = rows.setdefault(each["method"], {"method": text(each["title"], each["paper"])})
        row[each["kind"]] = number(_show_verdict(each))
    columns = [Column("method", "Method", left=True)]
    columns += [Column(kind, kind, left=True) for kind in kinds]
    return make_table(columns, rows.values())


def _show_verdict(row: Mapping[str, Any]) -> str:
    """Return ``loses -15.8 (-20.4 to -11.2)``, or the verdict alone."""
    if row["gain"] is None:
        return str(row["verdict"])
    if row["gain_low"] is None:
        return f"{row['verdict']} {signed(row['gain'])} (one task)"
    return f"{row['verdict']} {with_interval(row, 'gain')}"
