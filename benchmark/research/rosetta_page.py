"""Make the comparison of docs/rosetta.md from the committed results of suite ``mini``."""

from __future__ import annotations

from pathlib import Path

from pages import Page

import compatbench as cb
from compatbench.results.ranks import Ranked
from compatbench.results.standing import paired_interval
from compatbench.results.tuning_records import read_record, tuning_path
from compatbench.tables.numbers import NOTHING, percent, signed
from compatbench.tables.table import Table, TableCell, number, plain_table

REPOSITORY = Path(__file__).parents[2]
SOURCE = "mini-clip"
TARGETS = ("mini-eva-clip", "mini-eva-clip-anew")
OWN = "rosetta"
# Its nearest rivals, the best methods of other kinds, and zero-shot.
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
    """Return H of Rosetta minus that of another method, in points, with its interval over tasks."""
    gap = paired_interval(rosetta.standing, other.standing, "h")
    assert gap is not None
    return f"{signed(gap.value)} [{signed(gap.low)}, {signed(gap.high)}]"


def compare(places: dict[tuple[str, str], list[Ranked]]) -> Table:
    """Return the table of Rosetta and other methods, copied and by words."""
    ours = places[OWN, "words"]
    keys = [(OWN, "words")]
    for method in BESIDE:
        keys += [(method, "copied"), (method, "words")]
    rows: list[list[TableCell | str]] = []
    for key in keys:
        if key not in places:
            continue
        method, transfer = key
        first = places[key][0]
        row: list[TableCell | str] = [first.standing.info.title, transfer, settings_tried(method)]
        row.append(percent(first.value("source")))
        for ranked, rosetta in zip(places[key], ours, strict=True):
            row += [percent(ranked.value("target")), percent(ranked.value("h"))]
            row.append(NOTHING if ranked is rosetta else number(lead(rosetta, ranked)))
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


def make_page() -> Page:
    """Return the table of the page."""
    return Page({"beside": compare(read())})
