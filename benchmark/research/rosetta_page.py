"""Makes the comparison of docs/rosetta.md from the committed results of the suite ``mini``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pages import Page

import compatbench as cb
from compatbench.results.ranks import Ranked
from compatbench.results.standing import paired_interval
from compatbench.results.tuning_records import read_record, tuning_path
from compatbench.tables.numbers import NOTHING, percent, signed
from compatbench.tables.table import Table, TableCell, number, plain_table

REPOSITORY = Path(__file__).parents[2]
SOURCE, TARGETS = "mini-clip", ("mini-eva-clip", "mini-eva-clip-anew")
OWN = "rosetta"
# Its nearest rivals, the methods that lead by other means, and the floor.
BESIDE = ("proker", "tip_adapter", "tip_adapter_f", "taskres", "gda", "contcoop", "zeroshot")


def read() -> dict[tuple[str, str], list[Ranked]]:
    """Return the place of each method and transfer on each target, in the suite's ranking."""
    results = cb.results("mini", REPOSITORY)
    places: dict[tuple[str, str], list[Ranked]] = {}
    for target in TARGETS:
        for transfer in results.suite.transfers:
            for ranked in results.ranked((SOURCE, target), transfer=transfer):
                places.setdefault((ranked.standing.info.name, transfer), []).append(ranked)
    return places


def lead(rosetta: Ranked, other: Ranked) -> str:
    """H of Rosetta less that of another, in points, with an interval over tasks."""
    gap = paired_interval(rosetta.standing, other.standing, "h")
    assert gap is not None
    return f"{signed(gap.value)} [{signed(gap.low)}, {signed(gap.high)}]"


def compare(places: dict[tuple[str, str], list[Ranked]]) -> Table:
    """Rosetta beside other methods, copied and through words."""
    ours, rows = places[OWN, "words"], list[list[TableCell | str]]()
    keys = [(OWN, "words"), *((m, t) for m in BESIDE for t in ("copied", "words"))]
    for key in (key for key in keys if key in places):
        first = places[key][0]
        row: list[TableCell | str] = [first.standing.info.title, key[1], settings_tried(key[0])]
        row.append(percent(first.value("source")))
        for ranked, rosetta in zip(places[key], ours, strict=True):
            row += [percent(ranked.value("target")), percent(ranked.value("h"))]
            row.append(NOTHING if ranked is rosetta else number(lead(rosetta, ranked)))
        rows.append(row)
    header = ["Method", "Transfer", "Settings", "Source"]
    return plain_table([*header, *columns("H", "Rosetta's lead")], rows, left=(0, 1))


def settings_tried(method: str) -> str:
    """How many settings were compared for it on the suite's development tasks."""
    record = tuning_path(REPOSITORY, "mini", method)
    return str(len(read_record(record).settings)) if record.is_file() else "1"


def columns(*rest: str) -> Iterable[str]:
    return [name for target in TARGETS for name in (target, *rest)]


def make_page() -> Page:
    """Return the table of the page."""
    return Page({"beside": compare(read())})
