"""The ranking of an upgrade as a table, whoever shows it, and what has no place in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from compatbench.data.cards.shots import count_shots
from compatbench.messages import one_line
from compatbench.results.estimate import FEWEST_UNITS, Interval
from compatbench.results.gaps import find_gaps
from compatbench.results.measures import list_measures
from compatbench.results.method_results import MethodInfo
from compatbench.results.ranks import Ranked, exact, rounded
from compatbench.results.standing import NULL
from compatbench.tables.numbers import NOTHING, bounds, duration, percent, signed
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import (
    Column,
    Table,
    TableCell,
    make_table,
    number,
    plain_table,
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
    """The column of a registered measure; ``more`` are fields of ``Column``."""
    measure = list_measures("upgrade")[name]
    about = ", ".join(filter(None, (measure.sentence, measure.unit)))
    show = signed if measure.unit == "points" else percent
    return Column(name, _TITLES.get(name, measure.title), about, show, **more)


def further_measures(
    shown: Collection[str] = EVERYWHERE, rows: Iterable[Ranked] | None = None
) -> list[str]:
    """Registered measures that no table names; of ``rows``, those of which one has a figure."""
    rows = None if rows is None else list(rows)
    return [
        name
        for name in list_measures("upgrade")
        if name not in shown and name not in EVERYWHERE and name not in _ELSEWHERE
        if rows is None or any(row.value(name) is not None for row in rows)
    ]


PAGE = ("rank", "method", "depth", "source", "target", "h", "interval", "gain")
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


def ranking_table(
    rows: Sequence[Ranked],
    keys: Sequence[str] = PAGE,
    top: int | None = None,
    floors: int | None = None,
) -> Table:
    """The ranking, by H; if ``top`` is given, only so many methods and the first floors below.

    By rank a method is sorted by its place among all ``rows``. The highest figures are in bold if
    there are as many datasets as a verdict takes.
    """
    columns = {column.key: column for column in list_columns()}
    if any(len({*row.standing.datasets}) < FEWEST_UNITS for row in rows):
        columns = {key: replace(column, best=False) for key, column in columns.items()}
    records = list(map(_record, range(1, len(rows) + 1), rows))
    shown = make_table((columns[key] for key in keys), records, narrow=NARROW)
    if top is None:
        return shown
    ranked_floors = [i for i, row in enumerate(rows) if row.kind == "floor" and row.rank]
    below = [i for i in ranked_floors if i >= top][:floors]
    return replace(shown, rows=(*shown.rows[:top], *(shown.rows[i] for i in below)))


def list_columns() -> tuple[Column, ...]:
    """All columns that a ranking can have, with those of measures that are registered since."""
    fixed = {column.key for column in (*_FIRST, *_LAST)}
    return (*_FIRST, *map(measure_column, further_measures(fixed)), *_LAST)


def _record(place: int, row: Ranked) -> dict[str, Any]:
    """What a method shows in every column. A state stands in place of a mean that it explains."""
    figures, state = row.figures, row.figures["state"]
    # Other tracks are ranked among themselves.
    rank = f"{row.track} {row.rank}".strip() if row.rank else row.place or NOTHING
    interval, low, seconds = None, figures["h_low"], figures["fit_seconds"]
    if low is not None:
        interval = Interval(figures["h"], low, figures["h_high"])
    record: dict[str, Any] = {}
    for name in list_measures("upgrade"):
        mean = row.standing.mean(name)
        value = rounded(exact(mean), 3)
        shown = number(measure_column(name).show(row.value(name)), value)
        record[name] = spread(mean, value) if name in SPREAD else shown
    if figures["target"] is None and figures["refused"]:
        record["target"] = number(state)
    if state in ("incomplete", "refused"):
        record["h"] = number(state)
    return record | {
        "rank": number(rank, place),
        "method": method_cell(row.standing.info),
        "depth": NOTHING if row.kind == "floor" else figures["depth"],
        "interval": number(bounds(interval), rounded(low, 3)),
        "parameters": number(format_parameters(row), figures["parameters"]),
        "fit": seconds and round(seconds, 4),
    }


def method_cell(info: MethodInfo) -> TableCell:
    """The title, linked; the zero-shot classifier, which inserts nothing, is the floor."""
    notes = "floor" * (info.depth == "none"), "transductive" * info.sees_tests
    note = " ".join(filter(None, notes))
    title = text(info.title, info.paper)
    return sentence(title, " (", text(note), ")") if note else title


def format_parameters(row: Ranked) -> str:
    """``8,192``, or the least and the most if datasets differ."""
    low, high = row.figures["parameters_low"], row.figures["parameters"]
    return NOTHING if low is None else f"{low:,}" if low == high else f"{low:,} to {high:,}"


def explain_unranked(rows: Sequence[Ranked]) -> list[tuple[str, str, str]]:
    """Title, state and explanation of the methods of a ranking that have no H."""
    explained = []
    for row in rows:
        figures, cells, state = row.figures, row.figures["cells"], row.figures["state"]
        if state == "not transferable":
            refused = figures["refused"]
            where = f"all {cells}" if refused == cells else f"{refused} of {cells}"
            reasons = "; ".join(map(one_line, figures["reasons"])) or "no reason given"
            why = f"in {where} cells (source {percent(row.value('source'))}): {reasons}"
        elif state == "incomplete":
            why = f"with {figures['measured']} of {cells} cells measured, so no mean is given"
        elif state == "null":
            answers = f"{NULL:g} % of zero-shot's answers"
            why = f"since it changes fewer than {answers}, on source and target"
        elif state == "at chance":
            target = percent(row.value("target"))
            why = f"with {target} on the target, less than twice what guessing gives"
        elif state == "not ranked":
            why = f"here: {row.standing.unranked}"
        elif state == "refused":
            why = f"by {row.standing.info.refused}"
        else:
            continue
        explained.append((row.title, state, why))
    return explained


def gap_table(page: SuitePage) -> Table:
    """Failed and missing measurements: how many, the first place, and the reason."""
    rows = []
    gaps = find_gaps(page.tidy, page.expected)
    for _, same in gaps.groupby(["method", "title", "kind", "reason"], sort=False):
        first = same.iloc[0]
        task, test_set = first["task"], first["test_set"]
        where = task if test_set == task else f"{task}/{test_set}"
        where += f", {count_shots(first['shots'])}, seed {first['seed']}, on {first['backbone']}"
        count = number(f"{len(same):,}", len(same))
        rows.append([first["title"], first["kind"], count, where, first["reason"] or None])
    return plain_table(["Method", "What", "Rows", "First", "Reason"], rows, left=(0, 1, 3, 4))
