"""The ranking of an upgrade as a table, whoever shows it, and what has no place in it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pandas as pd

from compatbench.data.cards.shots import count_shots
from compatbench.messages import one_line
from compatbench.results.estimate import FEWEST_UNITS
from compatbench.results.expected import Upgrade
from compatbench.results.gaps import find_gaps
from compatbench.results.measures import list_measures
from compatbench.results.ranking import NULL, describe_first_place, rank_transfer
from compatbench.results.upgrade_rows import tabulate_tasks
from compatbench.tables.numbers import (
    NOTHING,
    duration,
    interval_text,
    percent,
    rounded,
    signed,
)
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import (
    Column,
    Table,
    TableCell,
    make_table,
    number,
    plain_table,
    records,
    sentence,
    spread,
    text,
)

# What every method's tables show, in this order; measures that are registered since come behind.
EVERYWHERE = ("source", "target", "h", "gain", "negative_flips", "positive_flips", "target_ece")
# What tables of their own show.
_ELSEWHERE = frozenset({"source_gain", "inconsistent_errors", "source_ece", "diversity"})
_TITLES = {"target_ece": "ECE"}  # where the source's is not shown


@cache
def measure_column(name: str, **more: Any) -> Column:
    """Return the column of a registered measure.

    Args:
        more: fields of ``Column``.
    """
    measure = list_measures("upgrade")[name]
    about = ", ".join(filter(None, (measure.sentence, measure.unit)))
    show = signed if measure.unit == "points" else percent
    return Column(name, _TITLES.get(name, measure.title), about, show, **more)


def further_measures(shown: Collection[str] = EVERYWHERE) -> list[str]:
    """Return the registered measures that no table names."""
    known = {*shown, *EVERYWHERE, *_ELSEWHERE}
    return [name for name in list_measures("upgrade") if name not in known]


PAGE = ("rank", "method", "depth", "source", "target", "h", "gain")
EVERY_COLUMN = (*PAGE, "negative_flips", "parameters", "fit")
SHORT = ("rank", "method", "source", "target", "h", "gain")
TERMINAL = ("rank", "method", "depth", "source", "target", "h", "gain", "parameters", "fit")
NARROW = ("fit", "parameters", "depth", "±", "source")
SPREAD = ("source", "target", "h")  # shown with their standard deviation
_FIRST = (
    Column("rank", "Rank", "=: shared, H does not differ significantly", exact=False),
    Column("method", "Method", "links to its paper", left=True),
    Column("depth", "Depth", "where the module acts", left=True),
    measure_column("source", best=True),
    measure_column("target", best=True),
    measure_column("h", best=True),
    Column("interval", "95 % of H", "over datasets", descending=True, exact=False),
    measure_column("gain", descending=True),
    measure_column("negative_flips"),
)
_LAST = (
    Column("parameters", "Parameters", "numbers that the fit determined"),
    Column("fit", "Fit", "mean seconds of one fit on one core", duration),
)


def main_ranking(page: SuitePage, upgrade: Upgrade) -> pd.DataFrame:
    """Return the copied modules at the most shots, without methods that see the test images."""
    ranking = rank_transfer(page.ranking(upgrade, page.most_shots))
    return ranking[~ranking["sees_tests"]]


def ranking_table(ranking: pd.DataFrame, keys: Sequence[str] = PAGE) -> Table:
    """Return the ranking as a table.

    By rank a method is sorted by its place in the whole ranking. The highest numbers are in bold if
    there are as many datasets as a verdict takes.
    """
    columns = {column.key: column for column in list_columns()}
    if (ranking["datasets"] < FEWEST_UNITS).any():
        columns = {key: replace(column, best=False) for key, column in columns.items()}
    cells = [_record(place, method) for place, method in enumerate(records(ranking), 1)]
    return make_table((columns[key] for key in keys), cells, narrow=NARROW)


def list_columns() -> tuple[Column, ...]:
    """Return all columns that a ranking can have; measures that were registered later come last."""
    fixed = {column.key for column in (*_FIRST, *_LAST)}
    return (*_FIRST, *map(measure_column, further_measures(fixed)), *_LAST)


def _record(place: int, method: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells of a method. A state stands in place of a mean that it explains."""
    state = method["state"]
    rank = method["place"] or NOTHING
    if method["rank"] is not None:
        # Other tracks are ranked among themselves.
        rank = f"{method['track']} {rank}".strip()
    cells: dict[str, Any] = {}
    for name in list_measures("upgrade"):
        mean = method[name]
        value = rounded(mean, 3)
        if name in SPREAD:
            cells[name] = spread(mean, method[f"{name}_std"], value)
        else:
            cells[name] = number(measure_column(name).show(rounded(mean, 4)), value)
    if method["target"] is None and method["not_attached"]:
        cells["target"] = number(state)
    if state in ("incomplete", "refused"):
        cells["h"] = number(state)
    cells["rank"] = number(rank, place)
    cells["method"] = method_cell(method)
    cells["depth"] = NOTHING if method["kind"] == "floor" else method["depth"]
    cells["interval"] = number(interval_text(method, "h"), rounded(method["h_low"], 3))
    cells["parameters"] = number(format_parameters(method), method["parameters"])
    cells["fit"] = rounded(method["fit_seconds"], 4)
    return cells


def method_cell(method: Mapping[str, Any]) -> TableCell:
    """Return the title, linked; the zero-shot classifier, which inserts nothing, is the floor."""
    notes = []
    if method["depth"] == "none":
        notes.append("floor")
    if method["sees_tests"]:
        notes.append("transductive")
    title = text(method["title"], method["paper"])
    return sentence(title, " (", text(" ".join(notes)), ")") if notes else title


def format_parameters(method: Mapping[str, Any]) -> str:
    """Return ``8,192``, or the least and the most if datasets differ."""
    low = method["parameters_low"]
    high = method["parameters"]
    if low is None:
        return NOTHING
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def task_numbers(
    page: SuitePage, upgrade: Upgrade, shots: int, ranking: pd.DataFrame, measures: list[str]
) -> dict[str, list[list[float | None]]]:
    """Return measures by task with one decimal, ``[methods, tasks]``; None where one is missing.

    Methods are in the order of the ranking, which is of this upgrade and these shots.
    """
    means = tabulate_tasks(page.upgrade_rows(upgrade, shots), measures)
    numbers: dict[str, list[list[float | None]]] = {}
    for name in measures:
        table = means[name].loc[ranking["module"]].to_numpy().tolist()
        numbers[name] = [[_one_decimal(value) for value in row] for row in table]
    return numbers


def _one_decimal(value: float) -> float | None:
    return None if math.isnan(value) else rounded(round(value, 4), 1)


def first_place(page: SuitePage, upgrade: Upgrade) -> dict[str, Any] | None:
    """Return which methods are first, and how stable that is; see ``describe_first_place``."""
    return describe_first_place(page.results, page.expected, upgrade, page.most_shots)


def best_of_tracks(ranking: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the first method of each track that gives a method more, in the order of names.

    Transfers of methods that see the test images are left out.
    """
    ranked = ranking[ranking["rank"].notna() & (ranking["track"] != "")]
    first = ranked.drop_duplicates("track").sort_values("track")
    return records(first[~first["sees_tests"] | (first["track_transfer"] == "")])


def explain_unranked(ranking: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return title, state and explanation of the methods of a ranking that have no rank."""
    explained = []
    for method in records(ranking):
        cells = method["cells"]
        state = method["state"]
        if state == "not transferable":
            without = method["not_attached"]
            where = "all cells" if without == cells else f"{without} of {cells} cells"
            reasons = "; ".join(map(one_line, method["reasons"])) or "no reason given"
            source = percent(rounded(method["source"], 4))
            why = f"in {where} (source {source}): {reasons}"
        elif state == "incomplete":
            why = f"with {method['measured']} of {cells} cells measured, so no mean is given"
        elif state == "null":
            answers = f"{NULL:g} % of the zero-shot predictions"
            why = f"it changes fewer than {answers}, on source and target"
        elif state == "at chance":
            target = percent(rounded(method["target"], 4))
            why = f"with {target} on the target, less than twice what guessing gives"
        elif state == "not ranked":
            why = f"here: {method['unranked']}"
        elif state == "refused":
            why = f"by {method['refused_by']}"
        else:
            continue
        explained.append((method["shown_title"], state, why))
    return explained


def group_unranked(ranking: pd.DataFrame) -> dict[str, list[str]]:
    """Return the titles of the methods that a suite does not rank, by its reason."""
    groups: dict[str, list[str]] = {}
    for method in records(ranking[ranking["state"] == "not ranked"]):
        titles = groups.setdefault(method["unranked"], [])
        if method["title"] not in titles:
            titles.append(method["title"])
    return groups


def list_unstable(page: SuitePage) -> list[tuple[str, str]]:
    """Return title and reason of the measured methods whose numbers depend on the processor."""
    measured = page.results.methods
    unstable = page.card.unstable.items()
    return [(measured[name].info.title, why) for name, why in unstable if name in measured]


def gap_table(page: SuitePage) -> Table:
    """Return failed and missing measurements: how many, the first place, and the reason."""
    rows = []
    gaps = find_gaps(page.results, page.expected)
    for _, same in gaps.groupby(["method", "title", "kind", "reason"], sort=False):
        first = same.iloc[0]
        where = first["task"]
        if first["test_set"] != where:
            where += f"/{first['test_set']}"
        where += f", {count_shots(first['shots'])}, seed {first['seed']}, on {first['backbone']}"
        count = number(f"{len(same):,}", len(same))
        rows.append([first["title"], first["kind"], count, where, first["reason"] or None])
    return plain_table(["Method", "What", "Rows", "First", "Reason"], rows, left=(0, 1, 3, 4))
