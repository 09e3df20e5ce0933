"""Make the comparison of docs/rosetta.md from the committed results of suite ``mini``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pages import Page

import compatbench as cb
from compatbench.results.estimate import estimate
from compatbench.results.tuning_records import read_record, tuning_path
from compatbench.tables.numbers import NOTHING, percent, signed
from compatbench.tables.table import Table, TableCell, number, plain_table

REPOSITORY = Path(__file__).parents[2]
SOURCE = "mini-clip"
TARGETS = ("mini-eva-clip", "mini-eva-clip-anew")
OWN = "rosetta"
# Its nearest rivals, the best methods of other kinds, and zero-shot.
BESIDE = ("proker", "tip_adapter", "tip_adapter_f", "taskres", "gda", "contcoop", "zeroshot")


@dataclass(frozen=True)
class Place:
    """A method's numbers on one target, by one transfer, in percent."""

    title: str
    source: float
    target: float
    h: float
    h_by_task: pd.Series


def read() -> dict[tuple[str, str], list[Place]]:
    """Return the numbers of each method and transfer, on each of the targets."""
    results = cb.results("mini", REPOSITORY)
    places: dict[tuple[str, str], list[Place]] = {}
    for target in TARGETS:
        for transfer in results.suite.transfers:
            by_task = results.by_dataset("h", SOURCE, target, transfer=transfer)
            by_task = by_task.drop(columns="mean")
            for row in results.ranking(SOURCE, target, transfer=transfer).itertuples():
                numbers = (row.title, row.source, row.target, row.h, by_task.loc[row.method])
                places.setdefault((row.method, transfer), []).append(Place(*numbers))
    return places


def lead(rosetta: Place, other: Place) -> str:
    """Return H of Rosetta minus that of another method, in points, with its interval over tasks."""
    gap = estimate(rosetta.h_by_task - other.h_by_task)
    assert gap is not None
    return f"{signed(gap.value)} [{signed(gap.low)}, {signed(gap.high)}]"


def compare(places: dict[tuple[str, str], list[Place]]) -> Table:
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
        row: list[TableCell | str] = [first.title, transfer, settings_tried(method)]
        row.append(percent(first.source))
        for place, rosetta in zip(places[key], ours, strict=True):
            row += [percent(place.target), percent(place.h)]
            row.append(NOTHING if place is rosetta else number(lead(rosetta, place)))
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
